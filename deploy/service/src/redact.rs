//! Takes out of log lines what says who somebody is, whatever put it there: a field, a message, an error of a library, a panic.
//!
//! ```text
//! ids        "user_id":"ann"          -> "user_id":"#3f9a51c2"    the same id has the same hash while the process lives
//! e-mail     ann@example.org          -> [email]
//! addresses  203.0.113.77:443         -> 203.0.113.0:443          of IPv6 the first 48 bits stay; loopback stays as it is
//! patterns   `LOG_REDACT`             -> [redacted]
//! ```
//!
//! It works on the written line, so that nothing goes past it. A line in which nothing is found is not copied: it is searched for `@`,
//! for four numbers with dots, for `::` or many `:`, and for names of ids.
//!
//! What it cannot see: an id without a name beside it, in a text that is no e-mail address. Code does not log ids; this is the second line.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use memchr::{memchr, memchr_iter, memmem};
use regex::Regex;
use serde::de::IgnoredAny;
use serde_json::Value;

/// What stands before a value that is an id of a person, in fields of ours and in JSON of senders.
const ID_NAMES: [&str; 6] = ["user_id", "userId", "anonymous_id", "anonymousId", "distinct_id", "distinctId"];

/// Patterns at most, and the most bytes that each may take when compiled.
const MOST_PATTERNS: usize = 20;
const PATTERN_BYTES: usize = 256 << 10;

/// What `LOG_REDACT` says.
#[derive(Debug, Clone)]
pub struct Patterns(pub(crate) Arc<[Regex]>);

/// One pattern a line; what is around it is not part of it.
pub(crate) fn patterns(text: &str) -> Result<Patterns, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let patterns = lines.map(pattern).collect::<Result<Vec<_>, _>>()?;
    match patterns.len() {
        0..=MOST_PATTERNS => Ok(Patterns(patterns.into())),
        many => Err(format!("has {many} patterns, and at most {MOST_PATTERNS} are looked for")),
    }
}

/// Compiles a pattern of `LOG_REDACT`. It is matched in linear time, whatever it is.
fn pattern(text: &str) -> Result<Regex, String> {
    let pattern = regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
    let pattern = pattern.map_err(|error| format!("`{text}` is not a regular expression: {error}"))?;
    if pattern.is_match("") { Err(format!("`{text}` matches everything")) } else { Ok(pattern) }
}

/// Writes lines without what is to be taken out.
#[derive(Clone)]
pub(crate) struct Redacted<W> {
    inner: W,
    patterns: Arc<[Regex]>,
}

impl<W> Redacted<W> {
    pub(crate) fn new(inner: W, patterns: Arc<[Regex]>) -> Self {
        Self { inner, patterns }
    }
}

impl<W: Write> Write for Redacted<W> {
    /// A line comes as a whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        self.inner.write_all(redact(&line, &self.patterns).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The line without what is to be taken out.
pub(crate) fn redact<'a>(line: &'a str, patterns: &[Regex]) -> Cow<'a, str> {
    let mut line = Cow::Borrowed(line);
    for step in [ids, emails, addresses] {
        let found = step(&line);
        if !found.is_empty() {
            line = Cow::Owned(replaced(&line, &found));
        }
    }
    match without(&line, patterns) {
        Cow::Borrowed(_) => line,
        Cow::Owned(changed) => Cow::Owned(whole(&line, changed, patterns)),
    }
}

fn without<'a>(text: &'a str, patterns: &[Regex]) -> Cow<'a, str> {
    patterns.iter().fold(Cow::Borrowed(text), |text, pattern| match pattern.replace_all(&text, "[redacted]") {
        Cow::Borrowed(_) => text,
        Cow::Owned(changed) => Cow::Owned(changed),
    })
}

/// What patterns have left of a line is a line still: where they hit a bare number or a quote, they are applied to each value instead.
fn whole(line: &str, changed: String, patterns: &[Regex]) -> String {
    if serde_json::from_str::<IgnoredAny>(&changed).is_ok() {
        return changed;
    }
    let Ok(mut value) = serde_json::from_str::<Value>(line) else { return changed };
    redact_values(&mut value, patterns);
    format!("{value}\n")
}

fn redact_values(value: &mut Value, patterns: &[Regex]) {
    match value {
        Value::String(text) => *text = without(text, patterns).into_owned(),
        Value::Number(number) => {
            if let Cow::Owned(changed) = without(&number.to_string(), patterns) {
                *value = Value::String(changed);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| redact_values(value, patterns)),
        Value::Object(fields) => fields.values_mut().for_each(|value| redact_values(value, patterns)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Whether the letter before a place belongs to the same word: that of `\n` in a JSON text does not.
fn goes_on_before(bytes: &[u8], at: usize) -> bool {
    let before = |count: usize| at.checked_sub(count).and_then(|at| bytes.get(at));
    before(1).is_some_and(u8::is_ascii_alphanumeric) && before(2) != Some(&b'\\')
}

/// Where something is, and what comes in its place.
type Found = Vec<(Range<usize>, String)>;

fn replaced(line: &str, found: &Found) -> String {
    let (mut out, mut at) = (String::with_capacity(line.len()), 0);
    for (range, instead) in found {
        out.push_str(line.get(at..range.start).unwrap_or_default());
        out.push_str(instead);
        at = range.end;
    }
    out.push_str(line.get(at..).unwrap_or_default());
    out
}

fn ids(line: &str) -> Found {
    let bytes = line.as_bytes();
    let mut found = Found::new();
    for name in ID_NAMES {
        for at in memmem::find_iter(bytes, name) {
            if goes_on_before(bytes, at) {
                continue;
            }
            found.extend(id_value(line, at + name.len()));
        }
    }
    found.sort_by_key(|(range, _)| range.start);
    found.dedup_by(|next, before| next.0.start < before.0.end);
    found
}

/// The value behind a name: `":"ann"`, `\":\"ann\"`, `":42`, `=ann`, `: "ann"`; quoted as often as texts were put into texts.
fn id_value(line: &str, after: usize) -> Option<(Range<usize>, String)> {
    let rest = line.get(after..)?;
    let (name_quote, unquoted) = quote(rest, &['"']);
    let value = unquoted.trim_start().strip_prefix([':', '='])?.trim_start_matches(' ');
    let (is_list, value) = match value.strip_prefix('[') {
        Some(list) => (true, list.trim_start_matches(['[', ' '])),
        None => (false, value),
    };
    if let Some(several) = is_list.then(|| several(value)).flatten() {
        let instead = hashed(several.text);
        // A text in the place of texts, or of numbers.
        let mark = match (&several.quote, &name_quote) {
            (Some(quote), _) => format!("{}{}", "\\".repeat(quote.backslashes), quote.mark),
            (None, Some(quote)) if quote.backslashes == 0 => "\"".to_owned(),
            (None, _) => String::new(),
        };
        let start = line.len() - value.len();
        return Some((start..start + several.text.len(), format!("{mark}{instead}{mark}")));
    }
    let value = within_types(value);
    // Of SQL the single one.
    let (open, value) = quote(value, &['"', '\'']);
    let is_end = |c: char| matches!(c, ',' | '}' | ']' | '&' | ')' | '"' | '\\') || c.is_whitespace();
    let length = match open {
        None => value.find(is_end).unwrap_or(value.len()),
        Some(Quote { backslashes, mark: '\'' }) => closing_single(value).unwrap_or_else(|| closing(value, backslashes)),
        Some(Quote { backslashes, .. }) => closing(value, backslashes),
    };
    let text = value.get(..length)?;
    if text.is_empty() || text == "null" || is_hash(text) {
        return None;
    }
    let start = line.len() - value.len();
    let hash = hashed(text);
    // A number that becomes a text.
    let instead = if name_quote.is_some_and(|quote| quote.backslashes == 0) && open.is_none() {
        format!("\"{hash}\"")
    } else {
        hash
    };
    Some((start..start + length, instead))
}

/// What a list of ids holds, and the quote of its first one.
struct Several<'a> {
    text: &'a str,
    quote: Option<Quote>,
}

/// The inside of a list, up to its end or that of the line; `None`: it has one value or none.
fn several(list: &str) -> Option<Several<'_>> {
    let (mut rest, mut has_comma, mut first) = (list, false, None);
    while let Some(next) = rest.chars().next().filter(|next| *next != ']') {
        let (open, inside) = quote(rest, &['"', '\'']);
        rest = match &open {
            Some(Quote { backslashes, mark }) => {
                let length = match mark {
                    '\'' => closing_single(inside).unwrap_or_else(|| closing(inside, *backslashes)),
                    _ => closing(inside, *backslashes),
                };
                inside.get(length + backslashes + 1..).unwrap_or_default()
            }
            None => {
                has_comma |= next == ',';
                rest.get(next.len_utf8()..).unwrap_or_default()
            }
        };
        first = first.or(open);
    }
    let text = list.get(..list.len() - rest.len())?;
    has_comma.then_some(Several { text, quote: first })
}

/// Without `Some(`, `UserId(` and the like before a value.
fn within_types(mut value: &str) -> &str {
    while value.starts_with(|c: char| c.is_ascii_uppercase()) {
        let length = value.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(value.len());
        match value.get(length..).and_then(|rest| rest.strip_prefix('(')) {
            Some(inner) => value = inner.trim_start_matches(' '),
            None => return value,
        }
    }
    value
}

/// A quotation mark, with as many backslashes before it as texts were put into texts.
struct Quote {
    backslashes: usize,
    mark: char,
}

/// Takes a quote off; `None`: there is none.
fn quote<'a>(text: &'a str, marks: &[char]) -> (Option<Quote>, &'a str) {
    let rest = text.trim_start_matches('\\');
    match rest.chars().next().filter(|mark| marks.contains(mark)) {
        Some(mark) => (Some(Quote { backslashes: text.len() - rest.len(), mark }), rest.get(1..).unwrap_or_default()),
        None => (None, text),
    }
}

/// Up to the single quote that closes a text of SQL: neither a doubled one nor one behind a backslash.
fn closing_single(value: &str) -> Option<usize> {
    let bytes = value.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes.get(at..).and_then(|rest| memchr(b'\'', rest)) {
        let mark = at + next;
        let is_escaped = mark.checked_sub(1).and_then(|before| bytes.get(before)) == Some(&b'\\');
        let is_doubled = bytes.get(mark + 1) == Some(&b'\'');
        if !is_escaped && !is_doubled {
            return Some(mark);
        }
        at = mark + 1 + usize::from(is_doubled);
    }
    None
}

/// Up to the backslashes and the quote that close a text: one within it has more of them.
fn closing(value: &str, backslashes: usize) -> usize {
    let mut run = 0;
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' if run <= backslashes || (backslashes == 0 && run % 2 == 0) => return at - run.min(backslashes),
            b'\\' => run += 1,
            _ => run = 0,
        }
    }
    value.len()
}

/// A line may be written twice: by a layer of ours, and by whoever passes it on.
fn is_hash(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|hash| hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Under a secret of this process: nobody finds out by trying whose hash it is.
fn hashed(id: &str) -> String {
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    format!("#{:08x}", SECRET.hash_one(id) >> 32)
}

fn emails(line: &str) -> Found {
    let bytes = line.as_bytes();
    let mut found = Found::new();
    if memchr(b'@', bytes).is_none() {
        return found;
    }
    for at in memchr_iter(b'@', bytes) {
        let is_local = |c: char| c.is_alphanumeric() || "._%+-'!#$&*/=?^`{|}~".contains(c);
        let local = line.get(..at).unwrap_or_default();
        let start = local.char_indices().rev().take_while(|(_, c)| is_local(*c)).last().map_or(at, |(start, _)| start);
        let domain = line.get(at + 1..).unwrap_or_default();
        let is_domain = |c: char| c.is_alphanumeric() || c == '.' || c == '-';
        let length = domain.find(|c: char| !is_domain(c)).unwrap_or(domain.len());
        let domain = domain.get(..length).unwrap_or_default().trim_end_matches(['.', '-']);
        // What a JSON escape ends with is not the address: `\nann@…`.
        let start = if line.get(..start).is_some_and(|before| before.ends_with('\\')) { start + 1 } else { start };
        if start < at
            && domain.contains('.')
            && found.last().is_none_or(|(before, _): &(Range<usize>, _)| before.end <= start)
        {
            found.push((start..at + 1 + domain.len(), "[email]".to_owned()));
        }
    }
    found
}

/// Before a number with three dots that is a version.
const VERSIONS: [&str; 3] = ["version ", "version\":\"", "ClickHouse "];

fn addresses(line: &str) -> Found {
    let bytes = line.as_bytes();
    let mut found = Found::new();
    let mut at = 0;
    let is_part = |byte: u8| byte.is_ascii_hexdigit() || byte == b'.' || byte == b':';
    // Both forms have one of these within five characters.
    while let Some(next) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'.', b':', rest)) {
        let mark = at + next;
        let before = bytes.get(at..mark).unwrap_or_default();
        let start = mark - before.iter().rev().take_while(|byte| is_part(**byte)).count();
        let rest = bytes.get(start..).unwrap_or_default();
        let end = start + rest.iter().take_while(|byte| is_part(**byte)).count();
        at = end.max(mark + 1);
        if goes_on_before(bytes, start) || bytes.get(end).is_some_and(u8::is_ascii_alphanumeric) {
            continue;
        }
        let Some(text) = line.get(start..end) else { continue };
        let before = line.get(..start).unwrap_or_default();
        if let Some((length, masked)) = masked(text, before) {
            found.push((start..start + length, masked));
        }
    }
    found
}

/// How much of a text is an address, and what it becomes.
fn masked(text: &str, before: &str) -> Option<(usize, String)> {
    let trimmed = text.trim_end_matches(['.', ':']);
    let (host, _port) = match trimmed.split_once(':') {
        Some((host, port)) if host.contains('.') && port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (trimmed, ""),
    };
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        let is_version = VERSIONS.iter().any(|word| before.ends_with(word));
        let [a, b, c, _] = address.octets();
        let stays = address.is_loopback() || address.is_unspecified() || is_version;
        return (!stays).then(|| (host.len(), Ipv4Addr::new(a, b, c, 0).to_string()));
    }
    let address = trimmed.parse::<Ipv6Addr>().ok()?;
    if let Some(inner) = address.to_ipv4_mapped() {
        let [a, b, c, _] = inner.octets();
        return (!inner.is_loopback()).then(|| (trimmed.len(), format!("::ffff:{}", Ipv4Addr::new(a, b, c, 0))));
    }
    let stays = address.is_loopback() || address.is_unspecified();
    let [a, b, c, ..] = address.segments();
    (!stays).then(|| (trimmed.len(), Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn cut(line: &str) -> String {
        redact(line, &[]).into_owned()
    }

    #[test]
    fn addresses_are_cut_and_versions_stay() {
        for (line, expected) in [
            ("from 203.0.113.77:443 to", "from 203.0.113.0:443 to"),
            ("203.0.113.77.", "203.0.113.0."),
            ("peer=10.1.2.3", "peer=10.1.2.0"),
            ("(2001:db8:1:2:3:4:5:6)", "(2001:db8:1::)"),
            ("[2001:db8::77]:443", "[2001:db8::]:443"),
            ("::ffff:203.0.113.77", "::ffff:203.0.113.0"),
            ("fe80::1%eth0", "fe80::%eth0"),
        ] {
            assert_eq!(cut(line), expected);
        }
        for line in [
            "127.0.0.1:8123 and [::1]:9000 and 0.0.0.0:80",
            "(version 26.7.2.1)",
            "2026-11-28T16:15:07.123456Z",
            "a::b::c tallyhouse_ingest::worker",
            "1.2.3 and 1.2.3.4.5 and 1.2.3.400 and v1.2.3.4",
            r#"{"a":{"b":1.5,"c":-0.25}}"#,
            "12:30:45",
        ] {
            assert!(matches!(redact(line, &[]), Cow::Borrowed(_)), "{line} -> {}", cut(line));
        }
    }

    #[test]
    fn e_mail_addresses_go_whatever_surrounds_them() {
        for (line, expected) in [
            ("to ann@example.org, bob.b+x@mail.example.co.uk.", "to [email], [email]."),
            (r#"{"message":"<jörg@exämple.de>"}"#, r#"{"message":"<[email]>"}"#),
            (r"line\nann@example.org\n", r"line\n[email]\n"),
            ("ann@localhost @b.c a@ @", "ann@localhost @b.c a@ @"),
            ("a@b.c@d.e", "[email]@d.e"),
            ("ann%40example.org", "ann%40example.org"),
        ] {
            assert_eq!(cut(line), expected);
        }
    }

    #[test]
    fn ids_are_hashed_wherever_they_are_named() {
        let hash = hashed("ann");
        for (line, expected) in [
            (r#"{"user_id":"ann","n":1}"#, format!(r#"{{"user_id":"{hash}","n":1}}"#)),
            (r#"{"message":"{\"userId\":\"ann\"}"}"#, format!(r#"{{"message":"{{\"userId\":\"{hash}\"}}"}}"#)),
            ("anonymousId=ann&x=1", format!("anonymousId={hash}&x=1")),
            ("user_id: ann, then", format!("user_id: {hash}, then")),
            (r#"user_id: Some("ann")"#, format!(r#"user_id: Some("{hash}")"#)),
            (r#"{"error":"refused\nuserId=ann"}"#, format!(r#"{{"error":"refused\nuserId={hash}"}}"#)),
            ("WHERE user_id = 'ann' AND 1", format!("WHERE user_id = '{hash}' AND 1")),
            (r#"{"userId":["ann"]}"#, format!(r#"{{"userId":["{hash}"]}}"#)),
            (
                r#"{"message":"{\"userId\": [ \"ann\" ]}"}"#,
                format!(r#"{{"message":"{{\"userId\": [ \"{hash}\" ]}}"}}"#),
            ),
            (r#"user_id: UserId("ann")"#, format!(r#"user_id: UserId("{hash}")"#)),
            ("user_id: Some(UserId(ann))", format!("user_id: Some(UserId({hash}))")),
        ] {
            assert_eq!(cut(line), expected);
        }
        for (line, before, ids, after) in [
            (r#"{"userId":["ann","b]ob"],"n":1}"#, r#"{"userId":[""#, r#""ann","b]ob""#, r#""],"n":1}"#),
            (r#"{"userId":[41, 42]}"#, r#"{"userId":[""#, "41, 42", r#""]}"#),
            (r#"{"m":"{\"userId\":[\"a\",\"b\"]}"}"#, r#"{"m":"{\"userId\":[\""#, r#"\"a\",\"b\""#, r#"\"]}"}"#),
        ] {
            assert_eq!(cut(line), format!("{before}{}{after}", hashed(ids)));
            serde_json::from_str::<serde_json::Value>(&cut(line)).unwrap();
        }
        let number = cut(r#"{"userId":42}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&number).unwrap()["userId"], hashed("42"));
        for (line, id) in [
            ("{\"userId\":\"#4711\"}", "#4711"),
            ("user_id = 'ann smith' AND", "ann smith"),
            ("user_id='it''s'", "it''s"),
        ] {
            assert_eq!(cut(line), line.replace(id, &hashed(id)));
        }
        assert_eq!(cut(&format!("userId={hash}")), format!("userId={hash}"), "it was taken out before");
        for line in [
            r#"{"user_id":""}"#,
            r#"{"userId":null}"#,
            r#"{"userId":[]}"#,
            "user_id",
            "superuser_idea=1",
            "anonymousId:",
        ] {
            assert_eq!(cut(line), line);
        }
    }

    #[test]
    fn patterns_of_ones_own_are_taken_out() {
        let orders = [pattern(r"\bORD-\d+\b").unwrap()];
        assert_eq!(redact("order ORD-123 of ann", &orders), "order [redacted] of ann");
        assert!(pattern("(").unwrap_err().starts_with("`(` is not a regular expression"));
        assert_eq!(pattern("x*").unwrap_err(), "`x*` matches everything");
        assert!(pattern(r"\w{1000}{1000}").is_err(), "too large");
        let digits = [pattern(r"\d{7,}").unwrap()];
        for line in ["{\"rows\":12345678}\n", "{\"rows\":[1,12345678],\"text\":\"n 12345678\"}\n"] {
            let redacted = redact(line, &digits);
            assert!(!redacted.contains("12345678") && redacted.ends_with('\n'), "{redacted}");
            serde_json::from_str::<Value>(&redacted).unwrap();
        }
        let Patterns(two) = patterns("a+\n\n  b+ \n").unwrap();
        assert_eq!(two.len(), 2);
        assert!(patterns(&"x\n".repeat(21)).unwrap_err().starts_with("has 21 patterns"));
    }

    /// What services write, as they write it.
    fn logged(log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = Redacted::new(buffer.clone(), Arc::from([]));
        let lines =
            fmt::layer().event_format(crate::telemetry::Form { service: "test" }).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_line_stays_json_and_tells_nobody() {
        let odd = "ann@example.org \u{1b}[2J\"} \n 203.0.113.77 \u{202e} {\"userId\":\"ann \\\" b\"} \\";
        let text = logged(|| {
            let error = io::Error::other(odd);
            tracing::warn!(user_id = "ann@example.org", peer = %odd, ?error, "request of {odd} refused");
            tracing::info_span!("request", anonymous_id = "ann", from = odd)
                .in_scope(|| tracing::error!(what = odd, "failed"));
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        for line in text.lines() {
            let read: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(read["level"].is_string());
            for secret in ["example.org", "113.77", "\"ann", "ann "] {
                assert!(!line.contains(secret), "{secret}: {line}");
            }
        }
    }

    #[test]
    fn odd_bytes_never_panic() {
        let pieces = [
            "@", ".", ":", "::", "é", "\\\"", "\"", "user_id", "=", "1.2.3.4", "a@b.c", "\u{202e}", ",", "ffff:", " ",
            "[", "Id(",
        ];
        let mut seed = 17_u64;
        for _ in 0..5_000 {
            let line: String = (0..12)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    pieces[(seed >> 33) as usize % pieces.len()]
                })
                .collect();
            cut(&line);
        }
    }
}
