//! The table of routes and who may use them, as the READMEs have it.

use tallyhouse_service::access::{Access, Role, Rules, Scope};

/// Its lines, without the head.
pub fn route_table(rules: &Rules) -> Vec<String> {
    let line = |rule: &tallyhouse_service::access::Rule| {
        let route = format!("`{} {}`", rule.method, rule.path);
        let (Access::Needs(right) | Access::NeedsOrKeyInBody(right)) = rule.access else {
            return format!("| {route} | everybody | | |");
        };
        let scopes = Scope::ALL.iter().filter(|scope| scope.rights().has(right)).map(|scope| scope.name());
        let roles = Role::ALL.iter().filter(|role| role.rights().has(right)).map(|role| role.name());
        format!("| {route} | `{}` | {} | {} |", right.name(), list(scopes), list(roles))
    };
    rules.iter().map(line).collect()
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
