//! The keywords of JSON Schema that are known, and of what shape their values are.

/// What a keyword's value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Read by people only; left out.
    Annotation,
    /// One type, or a list of them.
    Types,
    Number,
    /// A number above 0.
    PositiveNumber,
    /// A whole number from 0.
    Length,
    Pattern,
    Format,
    /// A list of values.
    Values,
    /// Any value.
    Value,
    /// A list of names.
    Names,
    Boolean,
    Schema,
    /// Schemas by name.
    Schemas,
    /// Schemas by pattern.
    SchemasByPattern,
    /// A list of schemas.
    SchemaList,
    /// Lists of names by name.
    NamesByName,
    Reference,
    /// Schemas that references lead to; left out once they are written out.
    Definitions,
}

/// Every keyword, in order.
pub(super) const KEYWORDS: [(&str, Shape); 50] = [
    ("$comment", Shape::Annotation),
    ("$defs", Shape::Definitions),
    ("$ref", Shape::Reference),
    ("additionalProperties", Shape::Schema),
    ("allOf", Shape::SchemaList),
    ("anyOf", Shape::SchemaList),
    ("const", Shape::Value),
    ("contains", Shape::Schema),
    ("contentEncoding", Shape::Annotation),
    ("contentMediaType", Shape::Annotation),
    ("default", Shape::Annotation),
    ("definitions", Shape::Definitions),
    ("dependentRequired", Shape::NamesByName),
    ("dependentSchemas", Shape::Schemas),
    ("deprecated", Shape::Annotation),
    ("description", Shape::Annotation),
    ("else", Shape::Schema),
    ("enum", Shape::Values),
    ("examples", Shape::Annotation),
    ("exclusiveMaximum", Shape::Number),
    ("exclusiveMinimum", Shape::Number),
    ("format", Shape::Format),
    ("if", Shape::Schema),
    ("items", Shape::Schema),
    ("maxContains", Shape::Length),
    ("maxItems", Shape::Length),
    ("maxLength", Shape::Length),
    ("maxProperties", Shape::Length),
    ("maximum", Shape::Number),
    ("minContains", Shape::Length),
    ("minItems", Shape::Length),
    ("minLength", Shape::Length),
    ("minProperties", Shape::Length),
    ("minimum", Shape::Number),
    ("multipleOf", Shape::PositiveNumber),
    ("not", Shape::Schema),
    ("oneOf", Shape::SchemaList),
    ("pattern", Shape::Pattern),
    ("patternProperties", Shape::SchemasByPattern),
    ("prefixItems", Shape::SchemaList),
    ("properties", Shape::Schemas),
    ("propertyNames", Shape::Schema),
    ("readOnly", Shape::Annotation),
    ("required", Shape::Names),
    ("then", Shape::Schema),
    ("title", Shape::Annotation),
    ("type", Shape::Types),
    ("uniqueItems", Shape::Boolean),
    ("unevaluatedProperties", Shape::Schema),
    ("writeOnly", Shape::Annotation),
];

/// The shape of a keyword that is known.
pub(super) fn shape(keyword: &str) -> Option<Shape> {
    KEYWORDS.iter().find(|(name, _)| *name == keyword).map(|(_, shape)| *shape)
}

/// A keyword that is spelt like this one.
pub(super) fn nearest(keyword: &str) -> Option<&'static str> {
    let distance = |(name, _): &(&'static str, Shape)| (strsim::damerau_levenshtein(name, keyword), *name);
    KEYWORDS.iter().map(distance).min().filter(|(distance, _)| *distance <= 3).map(|(_, name)| name)
}
