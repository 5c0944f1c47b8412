//! From a schema to its nodes.

use serde_json::{Map, Value};

use super::super::exact::Exact;
use super::super::formats::Format;
use super::super::whole::Whole;
use super::super::{Fault, patterns, pointer};
use super::node::{Additional, Bounds, Node, TextRules, Types, Values};
use super::table::Table;
use super::{Flat, MAX_NODES};

/// Keywords that are checked on flat properties.
const FLAT: [&str; 20] = [
    "additionalProperties",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "multipleOf",
    "pattern",
    "prefixItems",
    "properties",
    "required",
    "type",
    "uniqueItems",
];

/// Those that are about arrays alone, and are left to the crate.
const OF_ARRAYS: [&str; 5] = ["items", "maxItems", "minItems", "prefixItems", "uniqueItems"];

/// Nodes so far; `None` of a step means that the schema is none of these.
pub(super) struct Compiler {
    nodes: Vec<Node>,
    required: Vec<(usize, usize)>,
}

impl Compiler {
    pub(super) fn run(schema: &Value) -> Result<Option<Flat>, Fault> {
        let mut compiler = Self { nodes: Vec::new(), required: Vec::new() };
        if compiler.node(schema, "", 0, "/schema")?.is_none() {
            return Ok(None);
        }
        let Self { nodes, required } = compiler;
        let mut paths: Vec<&str> = nodes.iter().map(|node| &*node.path).collect();
        paths.sort_unstable();
        // `{"a.b": …}` beside `{"a": {"b": …}}`: two rules for one property.
        if nodes.len() > MAX_NODES || paths.windows(2).any(|pair| pair.first() == pair.last()) {
            return Ok(None);
        }
        let longest = paths.iter().map(|path| path.len()).max().unwrap_or_default();
        let table = Table::of(nodes.iter().map(|node| &*node.path));
        Ok(Some(Flat { table, required, longest, nodes }))
    }

    fn node(&mut self, schema: &Value, path: &str, parent: usize, place: &str) -> Result<Option<usize>, Fault> {
        let empty = Map::new();
        let fields = match schema {
            Value::Object(fields) => fields,
            Value::Bool(true) => &empty,
            _ => return Ok(None),
        };
        if fields.keys().any(|keyword| !FLAT.contains(&keyword.as_str())) {
            return Ok(None);
        }
        let mut node = Node::at(path, parent);
        node.types = types(fields.get("type"));
        node.bounds = match bounds(fields) {
            Ok(bounds) => bounds.map(Box::new),
            Err(Fraction) => return Ok(None),
        };
        node.text = text(fields, place)?.map(Box::new);
        node.values = match values(fields) {
            Ok(values) => values.map(Box::new),
            Err(Composite) => return Ok(None),
        };
        if OF_ARRAYS.iter().any(|keyword| fields.contains_key(*keyword)) {
            node.array = Some(Box::new(Whole::compile(schema, place)?));
        }
        let at = self.nodes.len();
        self.nodes.push(node);
        if self.object(fields, path, at, place)?.is_none() || self.nodes.len() > MAX_NODES {
            return Ok(None);
        }
        Ok(Some(at))
    }

    fn object(&mut self, fields: &Map<String, Value>, path: &str, at: usize, place: &str) -> Result<Option<()>, Fault> {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for (name, schema) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let place = pointer::below(&format!("{place}/properties"), name);
            if name.is_empty() || self.node(schema, &below(name), at, &place)?.is_none() {
                return Ok(None);
            }
        }
        let additional = match fields.get("additionalProperties") {
            None | Some(Value::Bool(true)) => Additional::Any,
            Some(Value::Bool(false)) => Additional::Refused,
            Some(schema) => {
                // Its path is nobody's: no name of a property has a NUL that is looked for.
                let like = format!("{}\0", below("*"));
                let Some(like) = self.node(schema, &like, at, &format!("{place}/additionalProperties"))? else {
                    return Ok(None);
                };
                match self.nodes.get(like) {
                    Some(node) if !node.types.has(Types::OBJECT) && node.array.is_none() => Additional::Like(like),
                    _ => return Ok(None),
                }
            }
        };
        for name in fields.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            let path = below(name);
            let named = self.nodes.iter().position(|node| *node.path == *path);
            let needed = match (named, additional) {
                (Some(named), _) => named,
                (None, Additional::Any) => {
                    self.nodes.push(Node::at(path, at));
                    self.nodes.len() - 1
                }
                (None, Additional::Refused | Additional::Like(_)) => return Ok(None),
            };
            // A name may be given twice, and is missed once.
            if !self.required.contains(&(at, needed)) {
                self.required.push((at, needed));
            }
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.additional = additional;
        }
        Ok(Some(()))
    }
}

fn types(given: Option<&Value>) -> Types {
    let bit = |name: &Value| {
        let bit = Types::NAMES.iter().find(|(known, _)| name == known).map_or(0, |(_, bit)| *bit);
        // A number may be whole.
        if bit == Types::NUMBER { bit | Types::INTEGER } else { bit }
    };
    match given {
        None => Types::ANY,
        Some(Value::Array(all)) => exact(all.iter().map(bit).fold(0, |all, bit| all | bit)),
        Some(one) => exact(bit(one)),
    }
}

/// Whole numbers have both bits of numbers, so a schema keeps the one that tells: `number`, else `integer`.
const fn exact(bits: u8) -> Types {
    if bits & Types::NUMBER != 0 { Types(bits & !Types::INTEGER) } else { Types(bits) }
}

/// A multiple of a fraction, which doubles do not tell.
struct Fraction;

fn bounds(fields: &Map<String, Value>) -> Result<Option<Bounds>, Fraction> {
    let number = |keyword: &str| fields.get(keyword).and_then(Value::as_number).map(Exact::of);
    let multiple_of = number("multipleOf");
    if matches!(multiple_of, Some(Exact::Double(unit)) if unit.fract() != 0.0) {
        return Err(Fraction);
    }
    let bounds = Bounds {
        minimum: number("minimum"),
        maximum: number("maximum"),
        above: number("exclusiveMinimum"),
        below: number("exclusiveMaximum"),
        multiple_of,
    };
    let limits = [bounds.minimum, bounds.maximum, bounds.above, bounds.below, bounds.multiple_of];
    Ok(limits.iter().any(Option::is_some).then_some(bounds))
}

fn text(fields: &Map<String, Value>, place: &str) -> Result<Option<TextRules>, Fault> {
    let length = |keyword: &str| fields.get(keyword).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let word = |keyword: &str| fields.get(keyword).and_then(Value::as_str);
    let pattern = word("pattern").map(patterns::compile).transpose();
    let rules = TextRules {
        least: length("minLength").unwrap_or_default(),
        most: length("maxLength"),
        pattern: pattern.map_err(|problem| Fault::at(format!("{place}/pattern"), problem))?,
        format: word("format").and_then(Format::named),
    };
    let is_any = rules.least == 0 && rules.most.is_none() && rules.pattern.is_none() && rules.format.is_none();
    Ok((!is_any).then_some(rules))
}

/// Objects or lists among the values.
struct Composite;

fn values(fields: &Map<String, Value>) -> Result<Option<Values>, Composite> {
    let all = match (fields.get("enum"), fields.get("const")) {
        (None, None) => return Ok(None),
        (Some(Value::Array(all)), None) => all.clone(),
        (None, Some(one)) => vec![one.clone()],
        _ => return Err(Composite),
    };
    let written = Value::Array(all.clone()).to_string();
    let written = match all.as_slice() {
        [one] => one.to_string(),
        _ => format!("one of {written}"),
    };
    let mut values = Values { written, ..Values::default() };
    for value in all {
        match value {
            Value::String(text) => values.texts.push(text),
            Value::Number(number) => values.numbers.push(Exact::of(&number)),
            Value::Bool(known) => values.booleans.push(known),
            Value::Null => values.has_null = true,
            Value::Array(_) | Value::Object(_) => return Err(Composite),
        }
    }
    values.texts.sort();
    Ok(Some(values))
}
