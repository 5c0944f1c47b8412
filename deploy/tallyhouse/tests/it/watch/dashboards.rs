//! The dashboards of `deploy/grafana`, read as Grafana reads them, and what their panels ask, as the datasource sends it.
//!
//! The datasource expands in two places: its page puts variables in (`$__conditionalAll`, `${name:singlequote}`) and appends ad hoc filters as
//! a setting; its backend expands what depends on the range (`$__timeFilter`, `$__timeInterval`, `$__fromTime`, …).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::files::{below, deploy, read};

pub const PROMETHEUS: &str = "tallyhouse-prometheus";
pub const CLICKHOUSE: &str = "tallyhouse-clickhouse";

/// The views that a dashboard reads, and no other table.
const VIEWS: [&str; 4] = ["series_1m", "series_1h", "series_1d", "events"];

pub struct Dashboard {
    pub file: String,
    json: Value,
}

/// A target of a panel.
#[derive(Debug, Clone)]
pub struct Target {
    /// `file: panel`
    pub name: String,
    pub text: String,
    /// Seconds between points at least, where the panel says so.
    pub interval_s: Option<i64>,
    /// The last so many hours, whatever the range of the dashboard.
    pub hours: Option<i64>,
}

pub fn all() -> Vec<Dashboard> {
    let of = |path: &std::path::PathBuf| Dashboard {
        file: path.file_stem().unwrap().to_string_lossy().into_owned(),
        json: serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    };
    below("grafana/dashboards", ".json").iter().map(of).collect()
}

impl Dashboard {
    fn panels(&self) -> impl Iterator<Item = &Value> {
        self.json["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
    }

    /// What its panels ask of a datasource.
    pub fn targets(&self, datasource: &str, field: &str) -> Vec<Target> {
        let mut targets = Vec::new();
        for panel in self.panels() {
            for target in panel["targets"].as_array().unwrap() {
                if target["datasource"]["uid"] != datasource {
                    continue;
                }
                let number = |field: &str, unit: char| {
                    panel[field].as_str().map(|text| text.strip_suffix(unit).unwrap().parse::<i64>().unwrap())
                };
                let interval_s =
                    number("interval", panel["interval"].as_str().map_or('m', |text| text.chars().last().unwrap()));
                let of_hours = panel["interval"].as_str().is_some_and(|text| text.ends_with('h'));
                targets.push(Target {
                    name: format!("{}: {}", self.file, panel["title"].as_str().unwrap()),
                    text: target[field].as_str().unwrap().to_owned(),
                    interval_s: interval_s.map(|many| many * if of_hours { 3_600 } else { 60 }),
                    hours: number("timeFrom", 'h'),
                });
            }
        }
        targets
    }

    /// Its variables that ClickHouse is asked for: name, query, and whether the last value comes first.
    pub fn clickhouse_variables(&self) -> Vec<(String, String, bool)> {
        let variables = self.json["templating"]["list"].as_array().unwrap().iter();
        let asked = variables.filter(|it| it["type"] == "query" && it["datasource"]["uid"] == CLICKHOUSE);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        asked.map(|it| (text(&it["name"]), text(&it["query"]), it["sort"] == 2)).collect()
    }

    /// The table of its ad hoc filters.
    pub fn filtered_table(&self) -> Option<String> {
        let variables = self.json["templating"]["list"].as_array().unwrap();
        let constant = variables.iter().find(|variable| variable["name"] == "clickhouse_adhoc_query")?;
        assert!(variables.iter().any(|variable| variable["type"] == "adhoc"));
        Some(constant["query"].as_str().unwrap().to_owned())
    }
}

/// An expression as Grafana sends it to Prometheus, all values of its variables chosen.
pub fn promql(expression: &str) -> String {
    let expanded = expression.replace("$__rate_interval", "1m").replace("$region", ".*");
    assert!(!expanded.contains('$'), "{expression}: a variable that nothing expands");
    expanded
}

/// What a panel of ClickHouse is asked with.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    pub from_s: i64,
    pub to_s: i64,
    pub interval_s: i64,
    /// The value of each variable; `None` is "All".
    pub variables: &'a BTreeMap<String, Option<String>>,
    /// Column and value of a filter, and the table that it is for.
    pub filter: Option<(&'a str, &'a str, &'a str)>,
}

impl Asked<'_> {
    pub fn sql(&self, raw: &str) -> String {
        let mut sql = self.conditional(raw.to_owned());
        for (name, value) in self.variables {
            let value = value.as_deref().unwrap_or_default();
            let quoted = format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
            sql = sql.replace(&format!("${{{name}:singlequote}}"), &quoted);
        }
        if let Some((column, value, table)) = self.filter
            && sql.contains(table)
        {
            sql = format!("{sql}\nsettings additional_table_filters={{'{table}' : ' {column} = \\'{value}\\' '}}");
        }
        let sql = self.macros(sql);
        assert!(!sql.contains('$'), "{raw}: what nothing expands in {sql}");
        sql
    }

    /// `$__conditionalAll(condition, $variable)`: nothing is asked of a variable that is "All".
    fn conditional(&self, mut sql: String) -> String {
        const MACRO: &str = "$__conditionalAll";
        while let Some(at) = sql.rfind(MACRO) {
            let arguments = arguments(&sql[at + MACRO.len()..]);
            let (condition, variable) = arguments.rsplit_once(',').unwrap();
            let is_all = self.variables[variable.trim().trim_start_matches('$')].is_none();
            let condition = if is_all { "1=1".to_owned() } else { condition.to_owned() };
            sql.replace_range(at..at + MACRO.len() + arguments.len() + 2, &condition);
        }
        sql
    }

    fn macros(&self, mut sql: String) -> String {
        let (from, to) = (format!("toDateTime({})", self.from_s), format!("toDateTime({})", self.to_s));
        let ms = |second: i64| format!("fromUnixTimestamp64Milli({})", second * 1_000);
        let (from_ms, to_ms) = (ms(self.from_s), ms(self.to_s));
        type OfColumn<'a> = &'a dyn Fn(&str) -> String;
        let with_column: [(&str, OfColumn<'_>); 3] = [
            ("$__timeFilter_ms", &|column| format!("{column} >= {from_ms} AND {column} <= {to_ms}")),
            ("$__timeFilter", &|column| format!("{column} >= {from} AND {column} <= {to}")),
            ("$__timeInterval", &|column| {
                format!("toStartOfInterval(toDateTime({column}), INTERVAL {} second)", self.interval_s)
            }),
        ];
        for (name, expanded) in with_column {
            while let Some(at) = sql.find(&format!("{name}(")) {
                let column = arguments(&sql[at + name.len()..]).to_owned();
                sql.replace_range(at..at + name.len() + column.len() + 2, &expanded(&column));
            }
        }
        sql.replace("$__fromTime", &from).replace("$__toTime", &to)
    }
}

/// What stands in the parentheses that a text begins with.
fn arguments(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return &text[1..at];
        }
    }
    panic!("{text}: a parenthesis that does not end")
}

#[test]
fn macros_are_expanded_as_the_datasource_does() {
    let variables = BTreeMap::from([("type".to_owned(), Some("it's".to_owned())), ("all".to_owned(), None)]);
    let asked = Asked {
        from_s: 1,
        to_s: 2,
        interval_s: 60,
        variables: &variables,
        filter: Some(("country", "US", "v.events")),
    };
    assert_eq!(
        asked.sql("SELECT $__timeInterval(t) FROM v.events WHERE $__timeFilter(t) AND $__conditionalAll(a IN (${all:singlequote}), $all) AND $__conditionalAll(f(b) = ${type:singlequote}, $type)"),
        "SELECT toStartOfInterval(toDateTime(t), INTERVAL 60 second) FROM v.events WHERE t >= toDateTime(1) AND t <= toDateTime(2) AND 1=1 AND f(b) = 'it\\'s'\n\
         settings additional_table_filters={'v.events' : ' country = \\'US\\' '}"
    );
}

#[test]
fn dashboards_are_what_grafana_takes() {
    let provisioned = read(deploy("grafana/provisioning/datasources/tallyhouse.yml"));
    let mut uids = BTreeSet::new();
    for dashboard in all() {
        let (file, json) = (&dashboard.file, &dashboard.json);
        assert!(uids.insert(json["uid"].as_str().unwrap().to_owned()), "{file}: its uid is another's");
        assert!(json["title"].as_str().unwrap().starts_with("Tallyhouse: "), "{file}");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in json["panels"].as_array().unwrap() {
            let title = format!("{file}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_i64().unwrap()), "{title}: its id is another's");
            let place = |name: &str| panel["gridPos"][name].as_i64().unwrap();
            assert!(place("x") + place("w") <= 24, "{title}: it is not on the page");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{title}: it lies upon another");
                }
            }
        }
        for panel in dashboard.panels() {
            let title = format!("{file}: {}", panel["title"]);
            for target in panel["targets"].as_array().unwrap() {
                let uid = target["datasource"]["uid"].as_str().unwrap();
                assert!(provisioned.contains(&format!("uid: {uid}\n")), "{title}: {uid} is not provisioned");
                assert_eq!(target["datasource"], panel["datasource"], "{title}");
            }
        }
        for target in dashboard.targets(CLICKHOUSE, "rawSql") {
            let tables: Vec<&str> = target.text.split("tallyhouse").skip(1).collect();
            let is_view = |rest: &&str| {
                let name = rest.strip_prefix("_views.").unwrap_or_default();
                VIEWS.iter().any(|view| {
                    name.strip_prefix(view)
                        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                })
            };
            assert!(!tables.is_empty() && tables.iter().all(is_view), "{}: {}", target.name, target.text);
            // Each event is counted once in every set.
            let is_series = target.text.contains(".series_");
            assert!(!is_series || target.text.contains("dim_set"), "{}: without dim_set", target.name);
        }
    }
    assert!(uids.len() >= 6, "{uids:?}");
}
