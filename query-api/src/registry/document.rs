//! The document that registers a metric, read into a [`Definition`].
//!
//! ```json
//! {"name": "checkout_value", "measure": "avg", "event_type": "purchase", "filters": [["is", "country", ["DE"]]]}
//! {"name": "conversion", "ratio": [{"measure": "unique", "event_type": "purchase"}, "users"]}
//! {"name": "margin", "formula": {"op": "subtract", "left": "revenue", "right": {"op": "multiply", "left": "events", "right": 0.2}}}
//! ```
//!
//! A referenced metric is copied into the definition: a later change of it does not change this one.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tallyhouse_schema::{Catalogue, DimSet};

use crate::condition::{Condition, Field};
use crate::metric_definitions::definition::{Expression, FormulaPart as Component, Operation};
use crate::metric_definitions::{Definition, METRICS, Measure, Metric, Quantile};
use crate::plan::dimensions;
use crate::request::BadRequest;
use crate::request::body::JsonPart;
use crate::request::filter_tree::{self, Tests};
use crate::request::values;

/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 500;

/// Measures that one metric may be made of.
const MAX_COMPONENTS: usize = 8;

/// Numbers, measures and operations of one metric, and how deep they may be nested: other metrics are written out, so a
/// short document can mean a long one.
const MAX_NODES: (usize, usize) = (64, 12);

const FIELDS: &[&str] = &["name", "description", "replaces", "measure", "event_type", "filters", "ratio", "formula"];

const MEASURES: [(&str, Measure); 9] = [
    ("count", Measure::Events),
    ("unique", Measure::Users),
    ("sum", Measure::ValueSum),
    ("avg", Measure::ValueAvg),
    ("min", Measure::ValueMin),
    ("max", Measure::ValueMax),
    ("p50", Measure::ValueQuantile(Quantile::P50)),
    ("p95", Measure::ValueQuantile(Quantile::P95)),
    ("p99", Measure::ValueQuantile(Quantile::P99)),
];

const OPERATIONS: [(&str, Operation); 4] = [
    ("add", Operation::Add),
    ("subtract", Operation::Subtract),
    ("multiply", Operation::Multiply),
    ("divide", Operation::Divide),
];

/// A document that can be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    pub name: String,
    pub description: String,
    /// The version that it replaces, or 0 for a new metric.
    pub replaces: u32,
    /// What is kept of it.
    pub document: Value,
}

/// Reads a document. `written_out` gives the expression of a registered metric.
pub fn propose(
    root: &JsonPart<'_>,
    written_out: &dyn Fn(&str) -> Option<Value>,
    catalogue: &Catalogue,
) -> Result<Proposal, BadRequest> {
    let fields = root.fields(FIELDS)?;
    let name = fields.required("name")?;
    if !is_name(name.text()?) {
        return Err(name.not("a name: a small letter, then small letters, digits or `_`, at most 64"));
    }
    if Metric::named(name.text()?).is_some() {
        return Err(name.bad(format!("`{}` is built in; choose another name", name.text()?)));
    }
    let description = fields.get("description").map_or(Ok(""), |part| part.text())?;
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(root.bad(format!("the description has more than {MAX_DESCRIPTION} characters")));
    }
    let mut reader = Reader { written_out, parts: Vec::new(), nodes: 0, depth: 0, tests: Tests::of_document() };
    let expression = match (fields.get("measure"), fields.get("ratio"), fields.get("formula")) {
        (Some(_), None, None) => reader.component(root, FIELDS)?,
        (None, Some(ratio), None) => match ratio.items(2)?.as_slice() {
            [left, right] => {
                json!({"op": "divide", "left": reader.expression(left)?, "right": reader.expression(right)?})
            }
            _ => return Err(ratio.not("a pair: what is divided, and by what")),
        },
        (None, None, Some(formula)) => reader.expression(&formula)?,
        _ => return Err(root.bad("give exactly one of `measure`, `ratio` and `formula`")),
    };
    if reader.parts.is_empty() {
        return Err(root.bad("a metric needs at least one measure"));
    }
    let document = json!({"description": description, "expression": expression});
    answerable(root, &definition(name.text()?, 1, &document)?, catalogue)?;
    Ok(Proposal {
        name: name.text()?.to_owned(),
        description: description.to_owned(),
        replaces: fields.get("replaces").map_or(Ok(0), |part| part.number(1, u64::from(u32::MAX)))? as u32,
        document,
    })
}

/// The definition of what was kept.
pub fn definition(name: &str, version: u32, document: &Value) -> Result<Definition, BadRequest> {
    let root = JsonPart::root(document);
    let fields = root.fields(&["description", "expression"])?;
    let nothing = |_: &str| None;
    let tests = Tests::of_accepted();
    let mut reader = Reader { written_out: &nothing, parts: Vec::new(), nodes: 0, depth: 0, tests };
    let canonical = reader.expression(&fields.required("expression")?)?;
    let mut places = 0;
    let expression = expression(&canonical, &mut places);
    Ok(Definition { name: name.to_owned(), version, parts: reader.parts, expression, granularity: None })
}

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Reads expressions, and writes them in one form: numbers, components and operations, no names.
struct Reader<'a> {
    written_out: &'a dyn Fn(&str) -> Option<Value>,
    /// The components, in the order in which they stand.
    parts: Vec<Component>,
    nodes: usize,
    depth: usize,
    tests: Tests,
}

impl Reader<'_> {
    fn expression(&mut self, part: &JsonPart<'_>) -> Result<Value, BadRequest> {
        self.nodes += 1;
        self.depth += 1;
        let (nodes, depth) = MAX_NODES;
        if self.nodes > nodes || self.depth > depth {
            return Err(
                part.bad(format!("a metric is made of at most {nodes} pieces, at most {depth} deep, written out"))
            );
        }
        let written = self.written(part);
        self.depth -= 1;
        written
    }

    fn written(&mut self, part: &JsonPart<'_>) -> Result<Value, BadRequest> {
        if let Some(number) = part.any_number() {
            return Ok(json!(number));
        }
        if part.is_text() {
            return self.named(part);
        }
        if part.has("measure") {
            return self.component(part, &["measure", "event_type", "filters"]);
        }
        let fields = part.fields(&["op", "left", "right"])?;
        let op = fields.required("op")?;
        let text = op.text()?;
        if !OPERATIONS.iter().any(|(name, _)| *name == text) {
            return Err(op.unknown("operation", OPERATIONS.map(|(name, _)| name)));
        }
        let left = self.expression(&fields.required("left")?)?;
        Ok(json!({"op": text, "left": left, "right": self.expression(&fields.required("right")?)?}))
    }

    fn named(&mut self, part: &JsonPart<'_>) -> Result<Value, BadRequest> {
        let name = part.text()?;
        if let Some(metric) = Metric::named(name) {
            let written = built_in(metric);
            return self.component(&part.instead(&written), &["measure", "event_type", "filters"]);
        }
        match (self.written_out)(name) {
            Some(written) => self.expression(&part.instead(&written)),
            None => Err(part.unknown("metric", METRICS.map(|metric| metric.name))),
        }
    }

    fn event_type(&mut self, part: &JsonPart<'_>) -> Result<String, BadRequest> {
        self.tests.count(part)?;
        values::event_type_field(part)
    }

    fn component(&mut self, part: &JsonPart<'_>, known: &[&'static str]) -> Result<Value, BadRequest> {
        let fields = part.fields(known)?;
        let name = fields.required("measure")?;
        let text = name.text()?;
        let measure = MEASURES.iter().find(|(known, _)| *known == text).map(|(_, measure)| *measure);
        let measure = measure.ok_or_else(|| name.unknown("measure", MEASURES.map(|(name, _)| name)))?;
        let event_type = fields.get("event_type").map(|part| self.event_type(&part)).transpose()?;
        let filters = fields.get("filters");
        let condition = filter_tree::parse_any(filters.as_ref(), &mut self.tests)?;
        let of_type = event_type.clone().map(|name| Condition::is(Field::EventType, [name]));
        self.parts.push(Component { measure, condition: of_type.unwrap_or_else(Condition::always).and(condition) });
        if self.parts.len() > MAX_COMPONENTS {
            return Err(part.bad(format!("a metric is made of at most {MAX_COMPONENTS} measures")));
        }
        let mut written = Map::from_iter([("measure".to_owned(), text.into())]);
        written.extend(event_type.map(|name| ("event_type".to_owned(), name.into())));
        written.extend(filters.map(|filters| ("filters".to_owned(), filters.value().clone())));
        Ok(written.into())
    }
}

/// A built-in metric as a document.
pub fn built_in(metric: Metric) -> Value {
    let name = MEASURES.iter().find(|(_, measure)| *measure == metric.measure).map_or("count", |(name, _)| name);
    match metric.event_type {
        Some(event_type) => json!({"measure": name, "event_type": event_type}),
        None => json!({"measure": name}),
    }
}

/// An expression as it was written; components stand for themselves in the order in which they were read.
fn expression(written: &Value, places: &mut usize) -> Expression {
    if let Some(number) = written.as_f64() {
        return Expression::Number(number);
    }
    let field = |name| written.get(name).unwrap_or(&Value::Null);
    let name = field("op").as_str().unwrap_or_default();
    match OPERATIONS.iter().find(|(known, _)| *known == name) {
        Some((_, operation)) => {
            let left = expression(field("left"), places);
            Expression::Of(*operation, Box::new(left), Box::new(expression(field("right"), places)))
        }
        None => {
            *places += 1;
            Expression::Part(*places - 1)
        }
    }
}

/// Whether rollups are kept for every component.
fn answerable(root: &JsonPart<'_>, definition: &Definition, catalogue: &Catalogue) -> Result<(), BadRequest> {
    for part in &definition.parts {
        let needed = DimSet::of(part.condition.dimensions());
        let types = part.condition.event_types();
        dimensions::choose(types.as_ref(), &needed, catalogue, i64::MAX)
            .map_err(|refusal| root.bad(refusal.to_string()))?;
    }
    Ok(())
}

/// The definition of a built-in metric, shared.
pub fn shared_built_in(name: &str) -> Option<Arc<Definition>> {
    Metric::named(name).map(Definition::built_in).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body;

    fn proposed(text: &str) -> Result<Proposal, BadRequest> {
        let other = |name: &str| {
            (name == "ratio_of_ours").then(|| json!({"op": "divide", "left": {"measure": "sum"}, "right": 2}))
        };
        propose(&JsonPart::root(&body::parse(text.as_bytes())?), &other, &Catalogue::built_in().unwrap())
    }

    #[test]
    fn measures_ratios_and_formulas_are_read() {
        let of = |text: &str| {
            let proposal = proposed(text).unwrap();
            definition(&proposal.name, 1, &proposal.document).unwrap()
        };
        let simple = of(r#"{"name":"a","measure":"avg","event_type":"purchase","filters":[["is","country",["DE"]]]}"#);
        assert_eq!((simple.parts.len(), simple.parts[0].measure), (1, Measure::ValueAvg));
        assert_eq!(simple.parts[0].condition.event_types().unwrap().into_iter().collect::<Vec<_>>(), ["purchase"]);
        let ratio = of(r#"{"name":"b","ratio":[{"measure":"unique","event_type":"purchase"},"users"]}"#);
        assert_eq!((ratio.parts.len(), ratio.value(&[Some(1.0), Some(4.0)])), (2, Some(0.25)));
        let formula = of(
            r#"{"name":"c","formula":{"op":"subtract","left":"ratio_of_ours","right":{"op":"multiply","left":"events","right":0.5}}}"#,
        );
        assert_eq!((formula.parts.len(), formula.value(&[Some(10.0), Some(4.0)])), (2, Some(3.0)));
    }

    #[test]
    fn errors_say_where() {
        for (text, expected) in [
            (r#"{"measure":"count"}"#, "`name`: it must be given"),
            (r#"{"name":"Bad","measure":"count"}"#, "`name`: `Bad` is not a name"),
            (r#"{"name":"events","measure":"count"}"#, "`name`: `events` is built in"),
            (r#"{"name":"a"}"#, "give exactly one of"),
            (r#"{"name":"a","measure":"count","ratio":["events","users"]}"#, "give exactly one of"),
            (r#"{"name":"a","measure":"cnt"}"#, "`measure`: there is no measure `cnt`"),
            (r#"{"name":"a","ratio":["events"]}"#, "`ratio`: a list is not a pair"),
            (r#"{"name":"a","ratio":["events","usrs"]}"#, "`ratio[1]`: there is no metric `usrs`"),
            (
                r#"{"name":"a","formula":{"op":"power","left":1,"right":2}}"#,
                "`formula.op`: there is no operation `power`",
            ),
            (r#"{"name":"a","measure":"count","filters":[["is","plan",["x"]]]}"#, "there is no dimension `plan`"),
            (r#"{"name":"a","measure":"count","filters":[["is","origin",["x"]]]}"#, "not rolled up by origin"),
            (r#"{"name":"a","formula":{"op":"add","left":1,"right":2}}"#, "at least one measure"),
            (r#"{"name":"a","measure":"count","colour":1}"#, "`colour`: there is no such field"),
            (r#"{"name":"a","measure":"count","replaces":0}"#, "`replaces`: `0` is not a whole number"),
        ] {
            let error = proposed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let many = (0..5).fold("\"events\"".to_owned(), |inner, _| {
            format!(r#"{{"op":"add","left":{inner},"right":{{"op":"add","left":"users","right":"users"}}}}"#)
        });
        let error = proposed(&format!(r#"{{"name":"a","formula":{many}}}"#)).unwrap_err().to_string();
        assert!(error.contains("at most 8 measures"), "{error}");
        let filters = vec![r#"["is","country",["DE"]]"#; 30].join(",");
        let sum = (0..4).fold("1".to_owned(), |inner, _| {
            format!(r#"{{"op":"add","left":{inner},"right":{{"measure":"count","filters":[{filters}]}}}}"#)
        });
        let error = proposed(&format!(r#"{{"name":"a","formula":{sum}}}"#)).unwrap_err().to_string();
        assert!(error.starts_with("`formula.right.filters[10]`: this test is one more than the 100"), "{error}");
        let numbers = (0..40).fold("1".to_owned(), |inner, _| format!(r#"{{"op":"add","left":1,"right":{inner}}}"#));
        let other = |_: &str| serde_json::from_str::<Value>(&numbers).ok();
        let value = body::parse(br#"{"name":"a","ratio":["ours","events"]}"#).unwrap();
        let error = propose(&JsonPart::root(&value), &other, &Catalogue::built_in().unwrap()).unwrap_err().to_string();
        assert!(error.contains("at most 64 pieces"), "{error}");
    }
}
