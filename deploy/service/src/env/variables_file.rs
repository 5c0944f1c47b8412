//! A file of variables, `TALLYHOUSE_ENV_FILE`: what the process environment does not set is looked up there.
//!
//! ```text
//! # a comment
//! INGEST_ADDR=0.0.0.0:8081
//! LOG_REDACT='card [0-9]+'      in single quotes as it stands, in double ones \" \\ \$ and \` are escapes
//! ```
//!
//! Values are read as systemd reads them (`EnvironmentFile=`), of one line each. A backslash in a value without quotes is refused: systemd and shells
//! drop it. A shell needs quotes around spaces, too. systemd leaves out a line that it does not understand, and starts the service with a default in its place; here such a line is an
//! error with its number, because a listener without its token, or another data folder, must not come of a slip. Values are in no error: they may be secrets.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::Args;
use rustix::fs::OFlags;

use super::ConfigError;

/// The variable's name.
pub(super) const VARIABLE: &str = "TALLYHOUSE_ENV_FILE";

/// A larger file is the wrong file.
const MOST_BYTES: u64 = 1 << 20;

/// Where variables are looked up that the environment does not set.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub struct VariablesFile {
    /// File of variables, a `NAME=VALUE` per line, for those that are set neither by a flag nor in the environment; flag `--env-file`
    #[arg(long = "env-file", env = "TALLYHOUSE_ENV_FILE")]
    pub tallyhouse_env_file: Option<PathBuf>,
}

/// The variables of a file.
pub(super) fn read(path: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let failed = |problem: String| ConfigError::new(VARIABLE, format!("{path}: {problem}"));
    let mut bytes = Vec::new();
    // NONBLOCK: a pipe without a writer would hold the start up. It means nothing for a file.
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| failed(error.to_string()))?;
    let found = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !found.is_file() {
        return Err(failed("is not a regular file".to_owned()));
    }
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(failed(format!("has more than {MOST_BYTES} bytes: it is not a file of variables")));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed("is not UTF-8".to_owned()))?;
    parse(&text)
        .map_err(|Wrong { line, problem }| ConfigError::new(VARIABLE, format!("{path}, line {line}: {problem}")))
}

#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    line: usize,
    problem: String,
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, Wrong> {
    let mut variables = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let wrong = |problem: String| Wrong { line, problem };
        let text = text.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        let text = text.strip_prefix("export ").unwrap_or(text);
        let (name, value) = text.split_once('=').ok_or_else(|| wrong("is not NAME=VALUE".to_owned()))?;
        let name = name.trim_end();
        if !is_name(name) {
            return Err(wrong("does not begin with the name of a variable".to_owned()));
        }
        let value = unquoted(value.trim_start()).map_err(|problem| wrong(format!("{name}: {problem}")))?;
        if variables.insert(name.to_owned(), value).is_some() {
            return Err(wrong(format!("{name} was set before")));
        }
    }
    Ok(variables)
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn unquoted(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        return Err("holds a NUL byte".to_owned());
    }
    let ended = |rest: &str| match rest.trim_start() {
        "" => Ok(()),
        comment if comment.starts_with('#') => Ok(()),
        _ => Err("goes on after the closing quote".to_owned()),
    };
    let open = || "the quote is not closed: a value has one line".to_owned();
    if let Some(rest) = text.strip_prefix('\'') {
        let (value, rest) = rest.split_once('\'').ok_or_else(open)?;
        return ended(rest).map(|()| value.to_owned());
    }
    let Some(rest) = text.strip_prefix('"') else {
        // As systemd does, a `#` within a value is part of it.
        return if text.ends_with('\\') {
            Err("a line does not go on after `\\`".to_owned())
        } else if text.contains('\\') {
            Err("holds a backslash: quote the value, '…'".to_owned())
        } else {
            Ok(text.to_owned())
        };
    };
    let (mut value, mut chars) = (String::new(), rest.chars());
    loop {
        match chars.next().ok_or_else(open)? {
            '"' => return ended(chars.as_str()).map(|()| value),
            '\\' => match chars.next().ok_or_else(open)? {
                escaped @ ('"' | '\\' | '$' | '`') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        let text = "# comment\n\n; also\nA=1\n export B = two words # no comment \r\nC='it is $5'\nD=\"a \\\"b\\\" \\\\ \\n\" # why\nE=\nF=a=b\n";
        let read = parse(text).unwrap();
        let pairs: Vec<(&str, &str)> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("A", "1"),
            ("B", "two words # no comment"),
            ("C", "it is $5"),
            ("D", "a \"b\" \\ \\n"),
            ("E", ""),
            ("F", "a=b"),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn what_is_no_variable_is_an_error_with_its_line_and_without_its_value() {
        let cases = [
            ("A=1\nhunter2", 2, "is not NAME=VALUE"),
            ("\n1A=hunter2", 2, "does not begin with the name of a variable"),
            ("=hunter2", 1, "does not begin with the name of a variable"),
            ("A B=hunter2", 1, "does not begin with the name of a variable"),
            ("A=1\nA=hunter2", 2, "A was set before"),
            ("A='hunter2", 1, "A: the quote is not closed: a value has one line"),
            ("A=\"hunter2\\", 1, "A: the quote is not closed: a value has one line"),
            ("A=\"hunter2\" more", 1, "A: goes on after the closing quote"),
            ("A=hunter2 \\", 1, "A: a line does not go on after `\\`"),
            (r"A=hunt\er2", 1, "A: holds a backslash: quote the value, '…'"),
            ("A=hun\0ter2", 1, "A: holds a NUL byte"),
        ];
        for (text, line, problem) in cases {
            assert_eq!(parse(text), Err(Wrong { line, problem: problem.to_owned() }), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_none_of_variables_is_refused_by_its_path() {
        let path = std::env::temp_dir().join(format!("tallyhouse-variables-{}", std::process::id()));
        let error = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path.display().to_string()).unwrap_err().to_string()
        };
        assert!(error(&[0x7f, b'E', b'L', b'F', 0xff]).ends_with("is not UTF-8"));
        assert!(error(&vec![b'#'; (1 << 20) + 1]).contains("has more than 1048576 bytes"));
        std::fs::remove_file(&path).unwrap();
        let folder = read(&std::env::temp_dir().display().to_string()).unwrap_err().to_string();
        assert!(folder.ends_with("is not a regular file"), "{folder}");
        let gone = read(&path.display().to_string()).unwrap_err().to_string();
        assert!(gone.starts_with("TALLYHOUSE_ENV_FILE: ") && gone.contains("No such file"), "{gone}");
    }
}
