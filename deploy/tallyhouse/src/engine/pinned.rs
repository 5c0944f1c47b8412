//! What SQL could do to the server's files, and how it is shut.
//!
//! The engine as a library takes itself for a tool of one user on his own machine: it does not confine paths to a folder. Grants and
//! row policies know nothing of these (each was tried with 26.7.2, as a user that may only read):
//!
//! * the function `file('/path')` reads a file, without a grant;
//! * `FORMAT Template` with `format_template_row` shows a file, `format_schema` reads one, and `output_format_schema` writes one;
//! * `add_http_cors_header` and `http_response_headers` let a page of any site read answers.
//!
//! Settings are pinned by constraints ([`PINNED`]). A subquery's `SETTINGS` goes around these, but settings of formats matter there to
//! the functions `formatRow…` only; so these are shut as `file` is ([`SHUT`]): a function that is defined by SQL comes before a
//! built-in one of its name. `CREATE FUNCTION` refuses such a name, but the engine loads it from its folder, where it is written at
//! every start, beside the settings, and nobody has the right to drop it.
//!
//! What is left: the table function `sqlite('/path', 'x')` makes an empty file before it asks for the right. The cage keeps that
//! within the data folder; `POST /v1/sql` refuses it.

/// Functions that read files, or show what a setting makes them read.
pub(super) const SHUT: [&str; 4] = ["file", "formatRow", "formatRowNoNewline", "catboostEvaluate"];

/// The definition that takes the place of a function. Another number of arguments is refused, too.
pub(super) fn shut(function: &str) -> String {
    format!("CREATE FUNCTION {function} AS argument -> throwIf(1, 'the function {function} is not available')\n")
}

/// Settings that nobody changes, and what they are.
const PINNED: [(&str, &str); 16] = [
    ("add_http_cors_header", "0"),
    ("http_response_headers", "{}"),
    // Read a file.
    ("format_schema", ""),
    ("format_schema_source", "file"),
    ("format_template_row", ""),
    ("format_template_resultset", ""),
    // Write one.
    ("output_format_schema", ""),
    ("input_format_record_errors_file_path", ""),
    ("rename_files_after_processing", ""),
    // Call another server.
    ("format_avro_schema_registry_url", ""),
    ("cluster_for_parallel_replicas", ""),
    ("allow_experimental_ai_functions", "0"),
    // Show what the server does, for whomever.
    ("allow_introspection_functions", "0"),
    ("send_logs_level", "fatal"),
    ("query_cache_share_between_users", "0"),
    ("log_processors_profiles", "0"),
];

/// Elements of a profile.
pub(super) fn settings() -> String {
    PINNED.map(|(name, value)| format!("            <{name}>{value}</{name}>")).join("\n")
}

/// Elements of its constraints.
pub(super) fn constraints() -> String {
    PINNED.map(|(name, _)| format!("                <{name}><readonly/></{name}>")).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_pinned_once() {
        let mut names = PINNED.map(|(name, _)| name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PINNED.len());
    }
}
