//! Names with dots: `{"a.b": …}` and `{"a": {"b": …}}` name one property.

use serde_json::{Map, Value};

use super::{Fault, pointer};

/// Keywords whose value is about other values than the properties of an event by their names: those of arrays.
const OF_ARRAYS: [&str; 3] = ["contains", "items", "prefixItems"];

/// Refuses names with dots in a schema that is checked on the object of properties: there `a.b` stands in `a`.
pub(super) fn refuse(schema: &Value, place: &str) -> Result<(), Fault> {
    let Value::Object(fields) = schema else { return Ok(()) };
    for (keyword, value) in fields.iter().filter(|(keyword, _)| !OF_ARRAYS.contains(&keyword.as_str())) {
        let place = pointer::below(place, keyword);
        match (keyword.as_str(), value) {
            ("properties" | "dependentSchemas", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    refuse_name(name, &place)?;
                    refuse(schema, &pointer::below(&place, name))?;
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                for (pattern, schema) in schemas {
                    refuse(schema, &pointer::below(&place, pattern))?;
                }
            }
            ("required", names) => refuse_names(names, &place)?,
            ("dependentRequired", Value::Object(lists)) => {
                for (name, names) in lists {
                    refuse_name(name, &place)?;
                    refuse_names(names, &place)?;
                }
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                for (number, schema) in schemas.iter().enumerate() {
                    refuse(schema, &format!("{place}/{number}"))?;
                }
            }
            ("enum" | "const", _) => {}
            (_, schema) => refuse(schema, &place)?,
        }
    }
    Ok(())
}

fn refuse_names(names: &Value, place: &str) -> Result<(), Fault> {
    let mut names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.try_for_each(|name| refuse_name(name, place))
}

fn refuse_name(name: &str, place: &str) -> Result<(), Fault> {
    let Some((outer, inner)) = name.split_once('.').filter(|(outer, inner)| !outer.is_empty() && !inner.is_empty())
    else {
        return Ok(());
    };
    let problem = format!(
        "`{}` is not found in a schema with keywords such as `anyOf` or `patternProperties`: write it as the object `{}` with the \
         property `{}`",
        super::violation::cut(name),
        super::violation::cut(outer),
        super::violation::cut(inner)
    );
    Err(Fault::at(place, problem))
}

/// Names of either that are about one property, and of which the two say something else.
pub(super) fn overlaps<'n>(one: &'n Map<String, Value>, other: &'n Map<String, Value>) -> Vec<(&'n str, &'n str)> {
    let is_known = |name: &str| one.contains_key(name) || other.contains_key(name);
    let differ = |name: &str| one.get(name) != other.get(name);
    let mut found = Vec::new();
    let others = other.keys().filter(|name| !one.contains_key(*name));
    for name in one.keys().chain(others).map(String::as_str) {
        let outer = name.match_indices('.').filter_map(|(dot, _)| name.get(..dot));
        found.extend(
            outer.filter(|outer| is_known(outer) && (differ(outer) || differ(name))).map(|outer| (outer, name)),
        );
    }
    found
}
