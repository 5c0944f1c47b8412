//! Which dead letters are a person's: the condition that erasures and exports share.
//!
//! ```text
//! json, whole    `userId` or `anonymousId` of the event itself
//! json, cut      the same names anywhere in what is left, each with its value
//! record         the project where records have it, and after it an id with its length in front
//! ```
//!
//! A record that could not be read may stand under no project. It is the project's only when its name is where `tallyhouse_schema::wire`
//! writes it: an event id or a property of another tenant may be spelled the same. A record that is broken before its project is nobody's,
//! and goes after 90 days as all dead letters do.

/// A person, as expressions of SQL.
pub(crate) struct Sought<'a> {
    /// The project.
    pub(crate) project: &'a str,
    /// Further conditions, with `AND` in front; may be empty.
    pub(crate) and: &'a str,
    /// An array of user ids, without empty ones.
    pub(crate) users: &'a str,
    /// The same of anonymous ids.
    pub(crate) anonymous: &'a str,
}

const USER: [&str; 2] = ["userId", "user_id"];
const ANONYMOUS: [&str; 2] = ["anonymousId", "anonymous_id"];

/// Where the first time of a record begins: after its version and `received_at`.
const TIMES_AT: &str = "10";

/// Between the times and the value: `user_hash`, the flags, `retention_days`.
const FIXED: u32 = 12;

impl Sought<'_> {
    /// Of rows of `dead_letters`.
    pub(crate) fn condition(&self) -> String {
        let Self { project, and, .. } = self;
        format!(
            "((project_id = {project} AND kind = 'json' AND if(isValidJSON(payload), {whole}, {cut}){and}) \
             OR (project_id IN ('', {project}) AND kind = 'record' AND {record}{and}))",
            whole = self.either(whole),
            cut = self.either(cut),
            record = self.record(),
        )
    }

    fn either(&self, of: fn([&str; 2], &str) -> String) -> String {
        format!("({} OR {})", of(USER, self.users), of(ANONYMOUS, self.anonymous))
    }

    fn record(&self) -> String {
        let Self { project, users, anonymous, .. } = self;
        let after_times = bound("times", &after_number(TIMES_AT), &after_number("times"));
        // A byte that says whether a value follows.
        let after_value =
            bound("value", &format!("{after_times} + {FIXED}"), &format!("value + 1 + 8 * {}", byte("value")));
        let length = "if(length(id) < 128, char(length(id)), char(bitOr(bitAnd(length(id), 127), 128), bitShiftRight(length(id), 7)))";
        let rest = format!("substring(payload, at + 1 + length({project}))");
        let ours = format!(
            "substring(payload, at, 1 + length({project})) = concat(char(length({project})), {project}) \
             AND arrayExists(id -> position({rest}, concat({length}, id)) > 0, arrayConcat({users}, {anonymous}))"
        );
        bound("at", &after_value, &ours)
    }
}

/// `body`, which calls the value of `expression` by a name.
fn bound(name: &str, expression: &str, body: &str) -> String {
    format!("arrayMap({name} -> ({body}), [{expression}])[1]")
}

fn byte(at: &str) -> String {
    format!("reinterpretAsUInt8(substring(payload, {at}, 1))")
}

/// What follows a LEB128 number: its last byte is below 128.
fn after_number(at: &str) -> String {
    format!("({at} + arrayFirstIndex(n -> {} < 128, range(1, 11)))", byte(&format!("{at} + n - 1")))
}

fn whole(names: [&str; 2], ids: &str) -> String {
    let field = |name: &str| {
        format!(
            "has({ids}, JSONExtractString(payload, '{name}')) OR \
             (JSONType(payload, '{name}') IN ('Int64', 'UInt64') AND has({ids}, JSONExtractRaw(payload, '{name}')))"
        )
    };
    names.map(field).join(" OR ")
}

fn cut([camel, snake]: [&str; 2], ids: &str) -> String {
    let value = r#"\\s*:\\s*("(?:[^"\\\\]|\\\\.)*"|-?[0-9]+)"#;
    format!(
        "arrayExists(value -> has({ids}, if(startsWith(value, '\"'), JSONExtractString(concat('[', value, ']'), 1), value)), \
         extractAll(payload, '\"(?:{camel}|{snake})\"{value}'))"
    )
}
