//! Reads Prometheus' text format as far as single figures need it.

use std::collections::BTreeMap;

/// Series by the name of their metric: labels as they are written, and the value.
#[derive(Debug, Default)]
pub(super) struct Exposition(BTreeMap<String, Vec<(String, f64)>>);

impl Exposition {
    pub(super) fn of(text: &str) -> Self {
        let mut series = BTreeMap::<String, Vec<(String, f64)>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // A value of a label may have spaces in it, the value of the series has none.
            let Some((name, value)) = line.trim_end().rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            series.entry(name.trim().to_owned()).or_default().push((labels.to_owned(), value));
        }
        Self(series)
    }

    /// The values of a metric, of series that have this label (`name="value"`) or, when it is empty, of all.
    pub(super) fn values<'a>(&'a self, metric: &str, label: &'a str) -> impl Iterator<Item = f64> + 'a {
        let series = self.0.get(metric).into_iter().flatten();
        series.filter(move |(labels, _)| labels.contains(label)).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_label() {
        let text =
            "# TYPE a gauge\na 2\nb_total{code=\"x y\",kind=\"poison\"} 3\nb_total{code=\"z\"} 4\nc NaN\nnonsense\n";
        let read = Exposition::of(text);
        assert_eq!(read.values("a", "").collect::<Vec<_>>(), [2.0]);
        assert_eq!(read.values("b_total", "").sum::<f64>(), 7.0);
        assert_eq!(read.values("b_total", "kind=\"poison\"").collect::<Vec<_>>(), [3.0]);
        assert_eq!(read.values("nonsense", "").count(), 0);
    }
}
