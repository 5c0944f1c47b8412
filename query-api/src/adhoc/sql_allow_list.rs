//! The SQL allow-list: a statement is one `SELECT`, calls functions of a reviewed list only ([`functions`]), and has none of the few
//! words that bypass grants and row policies.
//!
//! ClickHouse's row policies keep tenants apart, not this list. But ClickHouse 26.7 has functions and clauses that check
//! neither grants nor policies (found by trial, `query-api/tests/it/sql_escapes.rs`):
//!
//! * `file()` reads what the server process can read; the engine as a library is not confined to a folder.
//! * `mergeTreeIndex()` and similar functions show index entries of all rows.
//! * `SETTINGS` of a subquery changes read-only settings, and so limits.
//! * `system` tables count the rows of all projects.
//! * `{name:Identifier}` would bring any of these in as a value.
//!
//! A word before `(` has to be a function of the list, a type or a keyword. A function is also called by its bare name, as an argument of
//! `arrayMap` and its like, or of `APPLY`: there a name that is refused is refused, too.
//!
//! Words are read as ClickHouse's lexer reads them; what the two could read differently is refused. Comments (ClickHouse nests some,
//! and starts some with `//` and `#`) are removed, so that only this file decides where one ends.

use super::functions;

/// Why a statement is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlRefusal {
    /// It does something else than read.
    #[error("a statement starts with SELECT or WITH (or DESCRIBE for a table's columns), not with `{0}`")]
    NotASelect(String),
    /// No word of SQL.
    #[error("there is nothing but comments; a statement starts with SELECT or WITH")]
    Nothing,
    /// More than one.
    #[error("one statement at a time: there is text after `;`")]
    Several,
    /// A name that is not available.
    #[error("`{0}` is not available here; only the tables events, rollup_1m, rollup_1h and rollup_1d are")]
    Name(String),
    /// A function that is not in the list.
    #[error(
        "`{0}(…)` is not available here: functions that only look at their arguments and at rows are; write a lambda or a macro of your own out"
    )]
    Function(String),
    /// `SETTINGS`
    #[error("SETTINGS is not available here; a column of that name is written in backquotes")]
    Settings,
    /// `FORMAT`
    #[error("leave FORMAT out and say `format` in the request: json, csv, ndjson or parquet")]
    Format,
    /// Something that could be read in two ways.
    #[error("{0} outside of quotes is not understood here")]
    Character(&'static str),
    /// A quote or comment that never ends.
    #[error("a quote or comment is not closed")]
    Unclosed,
    /// A number that runs into a word: after `.` ClickHouse reads two where this file reads one.
    #[error("`{0}` is neither a number nor a word; put a blank between the two")]
    Number(String),
    /// A quoted name with a backslash in it.
    #[error("a quoted name must not contain a backslash")]
    Escaped,
}

/// A refusal and where it is, in characters from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlRefusalAt {
    pub refused: SqlRefusal,
    pub position: usize,
}

/// Names that are refused wherever they stand: as a function they may also be an argument (`APPLY(file)`).
const NAMES: [&str; 10] = [
    "file",
    "catboostevaluate",
    "hascolumnintable",
    "getmacro",
    "getserversetting",
    "getclienthttpheader",
    "system",
    "information_schema",
    "identifier",
    "_part",
];

/// Beginnings of such names. `_part_…` and `_block_…` are virtual columns that tell where in shared parts rows lie.
const BEGINNINGS: [&str; 3] = ["mergetree", "_part_", "_block_"];

/// Beginnings of functions that call the function of which they are given the name.
const CALLERS: [&str; 3] = ["array", "map", "apply"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Text,
    Sign(char),
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    /// In lower case.
    text: String,
    position: usize,
}

/// The statement as it may be passed on: blanks stand for comments, so that positions stay what they are.
pub fn check(sql: &str) -> Result<String, SqlRefusalAt> {
    let mut lexer = Lexer { rest: sql.chars().collect(), at: 0 };
    let tokens = lexer.tokens()?;
    let tokens = without_last_semicolon(&tokens);
    first(tokens)?;
    for (index, token) in tokens.iter().enumerate() {
        let next = tokens.get(index + 1);
        let refused = refusal(token, next, tokens.get(index + 2).is_none());
        if let Some(refused) = refused.or_else(|| uncalled(tokens.get(..index).unwrap_or_default(), token)) {
            return Err(SqlRefusalAt { refused, position: token.position });
        }
    }
    Ok(lexer.rest.into_iter().collect())
}

fn without_last_semicolon(tokens: &[Token]) -> &[Token] {
    match tokens.split_last() {
        Some((last, rest)) if last.kind == Kind::Sign(';') => rest,
        _ => tokens,
    }
}

fn first(tokens: &[Token]) -> Result<(), SqlRefusalAt> {
    let token = tokens.iter().find(|token| token.kind != Kind::Sign('('));
    match token {
        Some(token) if token.kind == Kind::Word && is_reading(&token.text) => Ok(()),
        Some(token) => {
            let word = token.text.chars().take(32).collect();
            Err(SqlRefusalAt { refused: SqlRefusal::NotASelect(word), position: token.position })
        }
        None => Err(SqlRefusalAt { refused: SqlRefusal::Nothing, position: 1 }),
    }
}

fn is_reading(word: &str) -> bool {
    matches!(word, "select" | "with" | "desc" | "describe")
}

fn refusal(token: &Token, next: Option<&Token>, next_is_last: bool) -> Option<SqlRefusal> {
    let is_name = matches!(token.kind, Kind::Word | Kind::Quoted);
    let name = token.text.as_str();
    let is_called = next.is_some_and(|next| next.kind == Kind::Sign('('));
    if token.kind == Kind::Sign(';') {
        return Some(SqlRefusal::Several);
    }
    if is_name && is_side_door(name) {
        return Some(SqlRefusal::Name(shortened(name)));
    }
    if is_name && is_called && !functions::may_be_called(name) {
        return Some(SqlRefusal::Function(shortened(name)));
    }
    let next_is_name = next.is_some_and(|next| matches!(next.kind, Kind::Word | Kind::Quoted));
    if token.kind == Kind::Word && name == "settings" && next_is_name {
        return Some(SqlRefusal::Settings);
    }
    let ends_with_format = token.kind == Kind::Word && name == "format" && next_is_name && next_is_last;
    let is_order = next.is_some_and(|next| matches!(next.text.as_str(), "asc" | "desc" | "ascending" | "descending"));
    (ends_with_format && !is_order).then_some(SqlRefusal::Format)
}

/// A function that may not be called, given by its name to one that would call it.
fn uncalled(before: &[Token], token: &Token) -> Option<SqlRefusal> {
    let is_name = |token: &Token| matches!(token.kind, Kind::Word | Kind::Quoted);
    let calls = |token: &Token| is_name(token) && CALLERS.iter().any(|caller| token.text.starts_with(caller));
    let is_given = match before {
        [.., caller, sign] if sign.kind == Kind::Sign('(') => calls(caller),
        [.., word] => word.kind == Kind::Word && word.text == "apply",
        [] => false,
    };
    (is_given && is_name(token) && functions::is_refused(&token.text))
        .then(|| SqlRefusal::Function(shortened(&token.text)))
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

fn is_side_door(name: &str) -> bool {
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Whether a word that begins with a digit is a number, or the part of one that stands between signs.
fn is_number(word: &str) -> bool {
    let is_of = |text: &str, digits: fn(&u8) -> bool| text.bytes().all(|byte| byte == b'_' || digits(&byte));
    if let Some(hex) = word.strip_prefix("0x") {
        return is_of(hex, u8::is_ascii_hexdigit);
    }
    if let Some(binary) = word.strip_prefix("0b") {
        return is_of(binary, |byte| matches!(byte, b'0' | b'1'));
    }
    let (mantissa, exponent) = word.split_once('e').unwrap_or((word, ""));
    is_of(mantissa, u8::is_ascii_digit) && is_of(exponent, u8::is_ascii_digit)
}

/// Reads a statement, and blanks its comments out.
struct Lexer {
    rest: Vec<char>,
    at: usize,
}

impl Lexer {
    fn tokens(&mut self) -> Result<Vec<Token>, SqlRefusalAt> {
        let mut tokens = Vec::new();
        while let Some(c) = self.peek(0) {
            let position = self.at + 1;
            let fail = |refused| Err(SqlRefusalAt { refused, position });
            match c {
                ' ' | '\t' | '\n' | '\r' => self.at += 1,
                '-' if self.peek(1) == Some('-') => self.skip_line(),
                '/' if self.peek(1) == Some('*') => {
                    self.skip_comment().ok_or(SqlRefusalAt { refused: SqlRefusal::Unclosed, position })?
                }
                '\'' | '"' | '`' => {
                    let text = self.quoted(c).ok_or(SqlRefusalAt { refused: SqlRefusal::Unclosed, position })?;
                    if c != '\'' && text.contains('\\') {
                        return fail(SqlRefusal::Escaped);
                    }
                    let kind = if c == '\'' { Kind::Text } else { Kind::Quoted };
                    tokens.push(Token { kind, text: text.to_ascii_lowercase(), position });
                }
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => {
                    let text = self.word();
                    if c.is_ascii_digit() && !is_number(&text) {
                        return fail(SqlRefusal::Number(text.chars().take(64).collect()));
                    }
                    tokens.push(Token { kind: Kind::Word, text, position });
                }
                // `#` and `//` begin some comments, `$` some texts, and a backslash ends some statements.
                '#' => return fail(SqlRefusal::Character("`#`")),
                '/' if self.peek(1) == Some('/') => return fail(SqlRefusal::Character("`//`")),
                '$' => return fail(SqlRefusal::Character("`$`")),
                '\\' => return fail(SqlRefusal::Character("a backslash")),
                c if !c.is_ascii() || c.is_control() => {
                    return fail(SqlRefusal::Character("a letter that is not ASCII"));
                }
                c => {
                    tokens.push(Token { kind: Kind::Sign(c), text: c.to_string(), position });
                    self.at += 1;
                }
            }
        }
        Ok(tokens)
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek(0).filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            word.push(c.to_ascii_lowercase());
            self.at += 1;
        }
        word
    }

    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.blank();
        }
    }

    fn skip_comment(&mut self) -> Option<()> {
        self.blank();
        self.blank();
        while self.peek(0)? != '*' || self.peek(1)? != '/' {
            self.blank();
        }
        self.blank();
        self.blank();
        Some(())
    }

    /// Blanks a character out, but for the end of a line.
    fn blank(&mut self) {
        if let Some(c) = self.rest.get_mut(self.at).filter(|c| **c != '\n') {
            *c = ' ';
        }
        self.at += 1;
    }

    /// What is between two quotes, escapes as written.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        self.at += 1;
        loop {
            let c = self.peek(0)?;
            self.at += 1;
            if c == quote {
                if self.peek(0) != Some(quote) {
                    return Some(text);
                }
                self.at += 1;
            }
            text.push(c);
            if c == '\\' {
                text.push(self.peek(0)?);
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_passed_on() {
        for sql in [
            "SELECT 1;",
            " /* file( */ -- file()\nselect 'file(''x'')', 'it\\'s system' from events",
            "(SELECT 1) UNION ALL (SELECT 2)",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "SELECT props['file'], a.settings, settings + 1 FROM events ORDER BY format DESC",
            "SELECT \"hostname\", hostname FROM t",
            "SELECT format('{}', 'a'), version, uptime FROM (SELECT props['v'] AS version, 1 AS uptime FROM events)",
            "SELECT COUNT(*), sumIf(value, 1), uniqCombined64Merge(14)(users), quantilesDDMerge(0.01, 0.5)(q) FROM rollup_1h",
            "WITH x AS (SELECT 1) SELECT sum(a) OVER (PARTITION BY b ORDER BY c) FROM x WHERE a IN (1) AND (b) OR NOT (c) AND EXISTS (SELECT 1)",
            "SELECT CAST(a AS Decimal(10, 2)), b::Nullable(DateTime64(3, 'UTC')), EXTRACT(DAY FROM c), CASE (a) WHEN (1) THEN (2) ELSE (3) END",
            "SELECT * EXCEPT (a) REPLACE (1 AS b) APPLY(sum) FROM numbers(10) GROUP BY GROUPING SETS ((a), (b)) LIMIT (5) WITH TIES",
            "SELECT arrayMap((x, i) -> (x + i), a, b), DATE_ADD(DAY, 1, d), sumForEach(c), groupArraySorted(3)(d) FROM t",
            "DESCRIBE TABLE events",
            "SELECT 1.5e-3, .5, 1_000, 0xfF, 0b11, 2e10, t.1, 1e+5, 3e FROM t",
        ] {
            assert!(check(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn comments_are_not_passed_on_and_positions_stay() {
        for (sql, expected) in [
            ("SELECT 1 -- file()\n, 2", "SELECT 1          \n, 2"),
            ("SELECT/* ü\n */1", "SELECT    \n   1"),
            ("SELECT '-- /* x */', `/*`", "SELECT '-- /* x */', `/*`"),
            ("SELECT 1 -/**/- 2", "SELECT 1 -    - 2"),
            // ClickHouse would go on to the second end; without the comment there is nothing to be read in two ways.
            ("SELECT 1 /* /* */ ' */, file('/x') --'", "SELECT 1          ' */, file('/x') --'"),
        ] {
            assert_eq!(check(sql).as_deref(), Ok(expected), "{sql}");
        }
    }

    #[test]
    fn side_doors_are_shut_however_they_are_written() {
        let name = |name: &str| SqlRefusal::Name(name.to_owned());
        let function = |name: &str| SqlRefusal::Function(name.to_owned());
        for (sql, expected) in [
            ("SELECT file('/x')", name("file")),
            ("SELECT `file` /**/ ('/x')", name("file")),
            ("SELECT * APPLY(file) FROM t", name("file")),
            ("SELECT arrayMap(\"file\", ['/x'])", name("file")),
            ("SELECT `fil\\x65`('/x')", SqlRefusal::Escaped),
            ("SELECT \u{201c}file\u{201d}('/x')", SqlRefusal::Character("a letter that is not ASCII")),
            ("SELECT '\\\\', file('/x') --'", name("file")),
            ("SELECT '''', file('/x'), ''''", name("file")),
            ("SELECT /* ' */ file('/x') /* ' */", name("file")),
            ("SELECT 1 # x\n, file('/x')", SqlRefusal::Character("`#`")),
            ("SELECT 1 //'\n, file('/x') //'", SqlRefusal::Character("`//`")),
            ("SELECT 1 \\G", SqlRefusal::Character("a backslash")),
            ("SELECT 1 > .5SETTINGS max_rows_to_read = 0", SqlRefusal::Number("5settings".to_owned())),
            ("SELECT 1 > .5e3SETTINGS max_rows_to_read = 0", SqlRefusal::Number("5e3settings".to_owned())),
            ("SELECT .5e-3FORMAT Native", SqlRefusal::Number("3format".to_owned())),
            ("SELECT 0xfSETTINGS x = 0", SqlRefusal::Number("0xfsettings".to_owned())),
            ("SELECT $$'$$, file('/x'), $$'$$", SqlRefusal::Character("`$`")),
            ("SELECT * FROM mergeTreeIndex('a', 'b')", name("mergetreeindex")),
            ("SELECT * FROM SYSTEM.tables", name("system")),
            ("SELECT {f:Identifier}", name("identifier")),
            ("SELECT hostName()", function("hostname")),
            ("SELECT `hostName`()", function("hostname")),
            ("SELECT arrayMap(hostName, [1])", function("hostname")),
            ("SELECT * APPLY(tcpPort) FROM t", function("tcpport")),
            ("SELECT * APPLY tcpPort FROM t", function("tcpport")),
            ("SELECT * FROM remote('127.0.0.1', t)", function("remote")),
            ("SELECT * FROM eval('SELECT 1')", function("eval")),
            ("SELECT a.b.dictGet('x', 'y', 1)", function("dictget")),
            ("WITH (x -> x) AS f SELECT f(1)", function("f")),
            ("SELECT noSuchFunction(1)", function("nosuchfunction")),
            ("SELECT * FROM (SELECT 1 SETTINGS max_rows_to_read=0)", SqlRefusal::Settings),
            ("SELECT * FROM (SELECT 1 settings/**/`readonly`=0)", SqlRefusal::Settings),
            ("SELECT 1 FORMAT Native", SqlRefusal::Format),
            ("SELECT 1 FORMAT Native;", SqlRefusal::Format),
            ("SELECT 1; SELECT 2", SqlRefusal::Several),
            ("SELECT 1;;", SqlRefusal::Several),
            ("EXPLAIN SELECT 1", SqlRefusal::NotASelect("explain".to_owned())),
            ("(INSERT INTO x SELECT 1)", SqlRefusal::NotASelect("insert".to_owned())),
            ("", SqlRefusal::Nothing),
            ("/* x */ -- y", SqlRefusal::Nothing),
            (";", SqlRefusal::Nothing),
            ("SELECT 'x", SqlRefusal::Unclosed),
            ("SELECT 1 /* x", SqlRefusal::Unclosed),
        ] {
            assert_eq!(check(sql).map_err(|at| at.refused), Err(expected), "{sql}");
        }
        assert_eq!(check("SELECT 1, file('x')").unwrap_err().position, 11);
    }
}
