//! Checks for variables that contradict each other, and warnings about those without effect.

use tallyhouse_service::env::{ConfigError, Env, apart, at_most, is_set, read, unused};

use super::Config;
use super::settings::ClassSettings;

/// Refuses what contradicts itself. A default is no contradiction: `QUERY_STREAM_LISTENERS=500` alone bounds each project, too.
pub(super) fn check(env: &dyn Env, config: &Config) -> Result<(), ConfigError> {
    apart(&[("QUERY_ADDR", config.address), ("QUERY_ADMIN_ADDR", config.admin_address)])?;
    let streams = &config.streams;
    let of_all = "of one project there cannot be more than of all";
    let per_project = [
        (
            "QUERY_STREAM_LISTENERS_PER_PROJECT",
            streams.listeners_per_project,
            "QUERY_STREAM_LISTENERS",
            streams.listeners,
        ),
        (
            "QUERY_STREAM_QUESTIONS_PER_PROJECT",
            streams.questions_per_project,
            "QUERY_STREAM_QUESTIONS",
            streams.questions,
        ),
    ];
    for (name, of_one, all_name, all) in per_project.into_iter().filter(|(name, ..)| env.get(name).is_some()) {
        at_most((name, of_one), (all_name, all), of_all)?;
    }
    if env.get("QUERY_CLICKHOUSE_CONCURRENCY").is_some() {
        classes_within_total(&read(env)?)?;
    }
    Ok(())
}

fn classes_within_total(settings: &ClassSettings) -> Result<(), ConfigError> {
    let total = ("QUERY_CLICKHOUSE_CONCURRENCY", settings.query_clickhouse_concurrency);
    let classes = [
        ("QUERY_CONCURRENCY_REALTIME", settings.query_concurrency_realtime),
        ("QUERY_CONCURRENCY_DASHBOARD", settings.query_concurrency_dashboard),
        ("QUERY_CONCURRENCY_STREAM", settings.query_concurrency_stream),
        ("QUERY_CONCURRENCY_ADHOC", settings.query_concurrency_adhoc),
    ];
    for (name, of_one) in classes.into_iter().filter_map(|(name, of_one)| Some((name, of_one?))) {
        at_most((name, of_one), total, "a class is a part of all queries")?;
    }
    Ok(())
}

/// A warning for each variable that is set and does nothing, of a query API on a given ClickHouse.
pub fn without_effect(env: &dyn Env) -> Vec<String> {
    let pairs = [
        ("CLICKHOUSE_WRITER_PASSWORD", "CLICKHOUSE_WRITER_USER", "without CLICKHOUSE_WRITER_USER"),
        ("CLICKHOUSE_ANALYST_USER", "CLICKHOUSE_ANALYST_PASSWORD", "without CLICKHOUSE_ANALYST_PASSWORD"),
    ];
    let idle = pairs.iter().filter(|(_, needed, _)| !is_set(env, needed));
    idle.flat_map(|(name, _, reason)| unused(env, &[name], reason)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn contradictions_are_refused_and_name_both() {
        let cases = [
            [("QUERY_STREAM_LISTENERS_PER_PROJECT", "6"), ("QUERY_STREAM_LISTENERS", "5")],
            [("QUERY_STREAM_QUESTIONS_PER_PROJECT", "6"), ("QUERY_STREAM_QUESTIONS", "5")],
            [("QUERY_CONCURRENCY_REALTIME", "6"), ("QUERY_CLICKHOUSE_CONCURRENCY", "5")],
            [("QUERY_CONCURRENCY_DASHBOARD", "6"), ("QUERY_CLICKHOUSE_CONCURRENCY", "5")],
            [("QUERY_CONCURRENCY_STREAM", "6"), ("QUERY_CLICKHOUSE_CONCURRENCY", "5")],
            [("QUERY_CONCURRENCY_ADHOC", "6"), ("QUERY_CLICKHOUSE_CONCURRENCY", "5")],
            [("QUERY_ADMIN_ADDR", "127.0.0.1:6"), ("QUERY_ADDR", "0.0.0.0:6")],
        ];
        for pairs in cases {
            let [(first, _), (second, _)] = pairs;
            let error = Config::from_env(&env(&pairs)).map(drop).unwrap_err();
            assert_eq!(error.variable, first, "{error}");
            assert!(error.problem.contains(second), "{error}");
        }
    }

    #[test]
    fn a_default_is_no_contradiction() {
        let pairs = [
            ("QUERY_STREAM_LISTENERS", "5"),
            ("QUERY_STREAM_QUESTIONS", "5"),
            ("QUERY_CONCURRENCY_ADHOC", "10"),
            ("QUERY_ADDR", "127.0.0.1:0"),
            ("QUERY_ADMIN_ADDR", "127.0.0.1:0"),
        ];
        assert!(Config::from_env(&env(&pairs)).is_ok());
    }

    #[test]
    fn what_does_nothing_is_told() {
        let set = env(&[("CLICKHOUSE_ANALYST_USER", "a"), ("CLICKHOUSE_WRITER_PASSWORD", "w")]);
        assert_eq!(
            without_effect(&set),
            [
                "CLICKHOUSE_WRITER_PASSWORD has no effect without CLICKHOUSE_WRITER_USER",
                "CLICKHOUSE_ANALYST_USER has no effect without CLICKHOUSE_ANALYST_PASSWORD"
            ]
        );
    }
}
