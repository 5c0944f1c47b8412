//! Suggestions for misspelt names.

use super::error::quoted;

/// Names that are offered at most.
const OFFERED: usize = 3;

/// Below this likeness (Jaro-Winkler, 0 to 1) a name is no help.
const ALIKE: f64 = 0.8;

/// The names most like `given`, best first. Only as much of it is compared as is quoted: comparing costs the product of both
/// lengths for each name, and a path may have 64 KB.
pub fn nearest<S: AsRef<str>>(given: &str, names: impl IntoIterator<Item = S>) -> Vec<String> {
    let given = quoted(given).to_lowercase();
    let mut alike: Vec<(f64, String)> = names
        .into_iter()
        .map(|name| (likeness(&given, name.as_ref()), name.as_ref().to_owned()))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    alike.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

/// Also looks at the last part of a path, so that `Berlin` finds `Europe/Berlin`.
fn likeness(given: &str, name: &str) -> f64 {
    let name = name.to_lowercase();
    let whole = strsim::jaro_winkler(given, &name);
    name.rsplit_once('/').map_or(whole, |(_, last)| whole.max(strsim::jaro_winkler(given, last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_the_far_not_at_all() {
        assert_eq!(nearest("revenu", ["events", "revenue", "users"]), ["revenue"]);
        assert_eq!(nearest("granularty", ["granularity", "groupBy"])[0], "granularity");
        assert_eq!(nearest("Berln", ["Europe/Berlin", "Asia/Tokyo"]), ["Europe/Berlin"]);
        assert!(nearest("xyz", ["events"]).is_empty());
    }

    #[test]
    fn of_a_long_name_no_more_is_compared_than_is_quoted() {
        let long = "x".repeat(1_000);
        assert!(nearest(&long, [long.as_str()]).is_empty());
        assert_eq!(nearest(&"x".repeat(64), ["x".repeat(64)]).len(), 1);
    }
}
