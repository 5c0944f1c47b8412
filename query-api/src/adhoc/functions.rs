//! Which functions SQL of others may call, by the reviewed lists in `functions/`.
//!
//! `scalars.txt` and `aggregates.txt` are what may be called, `refused.txt` what may not; together they are all functions of the
//! engine that Tallyhouse is built with (`query-api/tests/it/sql_functions.rs` compares them, so that a new version of the engine
//! is reviewed). What is in no list may not be called.

use std::collections::HashSet;
use std::sync::LazyLock;

/// The lists as written: names in the engine's spelling, lines of `#` are remarks.
pub const SCALARS: &str = include_str!("functions/scalars.txt");
pub const AGGREGATES: &str = include_str!("functions/aggregates.txt");
pub const REFUSED: &str = include_str!("functions/refused.txt");

/// Table functions that read nothing but their arguments.
pub const TABLES: [&str; 10] = [
    "generateSeries",
    "generate_series",
    "null",
    "numbers",
    "numbers_mt",
    "primes",
    "values",
    "view",
    "zeros",
    "zeros_mt",
];

/// What may follow the name of an aggregate function, any number of them.
pub const COMBINATORS: [&str; 14] = [
    "If",
    "Array",
    "Map",
    "SimpleState",
    "State",
    "Merge",
    "ForEach",
    "Distinct",
    "OrDefault",
    "OrNull",
    "Resample",
    "ArgMin",
    "ArgMax",
    "Tuple",
];

/// Words before a parenthesis that are no function.
const KEYWORDS: &str = "all and any apply array as asc between by case columns cube desc describe distinct div else end escape except exists \
    extract fetch fill filter final from full global group grouping having ilike in inner interpolate intersect interval is join left like \
    limit materialized mod not nulls offset on or order outer over partition prewhere qualify recursive regexp replace right rollup rows \
    sample select semi sets staleness step strict table then ties to top totals union using values when where window with within";

/// Functions that the parser knows under a name of its own.
const PARSED: &str = "cast convert dateadd date_add datediff datesub date_sub position substring timestampadd timestamp_add timestampdiff \
    timestampsub timestamp_sub trim try_cast";

/// Types that take arguments.
const TYPES: &str = "aggregatefunction array bigint char datetime datetime32 datetime64 dec decimal decimal32 decimal64 decimal128 decimal256 \
    double dynamic enum enum8 enum16 fixedstring float int json lowcardinality map nested nullable numeric qbit simpleaggregatefunction time64 \
    tuple varchar variant";

static ALLOWED: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let others = TABLES.into_iter().chain([KEYWORDS, PARSED, TYPES].into_iter().flat_map(str::split_whitespace));
    names(SCALARS).chain(others).map(str::to_ascii_lowercase).collect()
});

static AGGREGATE: LazyLock<HashSet<String>> =
    LazyLock::new(|| names(AGGREGATES).map(str::to_ascii_lowercase).collect());

static REFUSE: LazyLock<HashSet<String>> = LazyLock::new(|| names(REFUSED).map(str::to_ascii_lowercase).collect());

static SUFFIXES: LazyLock<[String; COMBINATORS.len()]> = LazyLock::new(|| COMBINATORS.map(str::to_ascii_lowercase));

/// The names of a list.
pub fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
}

/// Whether a word in lower case may stand before a parenthesis.
pub fn may_be_called(word: &str) -> bool {
    ALLOWED.contains(word) || is_aggregate(word)
}

/// Whether a word in lower case is a function that may not be called, nor given to one that calls it.
pub fn is_refused(word: &str) -> bool {
    REFUSE.contains(word)
}

fn is_aggregate(word: &str) -> bool {
    AGGREGATE.contains(word)
        || SUFFIXES.iter().filter_map(|suffix| word.strip_suffix(suffix.as_str())).any(is_aggregate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_in_one_list_and_combinators_belong_to_aggregates() {
        let mut all: Vec<&str> = [SCALARS, AGGREGATES, REFUSED].into_iter().flat_map(names).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(names(REFUSED).all(|name| !may_be_called(&name.to_ascii_lowercase())));
        for called in ["count", "sumif", "uniqcombined64mergestate", "avgornullforeach", "in", "decimal", "numbers"] {
            assert!(may_be_called(called), "{called}");
        }
        for not in ["file", "hostnameif", "if_if", "mergetreeindex", "remote", "nosuch", "url", ""] {
            assert!(!may_be_called(not), "{not}");
        }
    }
}
