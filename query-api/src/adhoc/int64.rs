//! `int64=number|string`: how JSON holds integers of 64 bits and more. A reader that parses numbers as doubles (JavaScript,
//! jq) rounds them beyond 2^53.

use super::export::Format;
use crate::request::error::quoted;
use crate::request::{BadRequest, Params};

/// The name of the parameter and of the field.
pub const INT64: &str = "int64";

/// How integers of 64 bits and more are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Int64 {
    /// As numbers with all their digits.
    #[default]
    Number,
    /// As texts, nested ones too.
    Text,
}

impl Int64 {
    /// The value of `int64=`; `None` for any other text.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "number" => Some(Self::Number),
            "string" => Some(Self::Text),
            _ => None,
        }
    }

    /// The parameter, if it is given.
    pub fn parameter(params: &Params) -> Result<Option<Self>, BadRequest> {
        let Some(name) = params.get(INT64) else { return Ok(None) };
        let malformed =
            || BadRequest::Malformed { parameter: INT64, given: quoted(name), expected: "number or string".to_owned() };
        Self::named(name).map(Some).ok_or_else(malformed)
    }

    /// ClickHouse's settings for a format. The default is what both users' profiles say. CSV has no numbers or texts of its own,
    /// and the setting would change JSON within it.
    pub const fn settings(self, format: Format) -> &'static [(&'static str, &'static str)] {
        match (self, format) {
            (Self::Text, Format::Json | Format::Ndjson) => &[("output_format_json_quote_64bit_integers", "1")],
            (Self::Number, _) | (Self::Text, Format::Csv | Format::Parquet) => &[],
        }
    }
}
