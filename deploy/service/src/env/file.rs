//! Secrets that stand in files, as Docker and Kubernetes mount them: `NAME_FILE` names the file of the secret `NAME`.
//!
//! The file is read whenever the variable would be. What is wrong with it is an error that names `NAME_FILE`: a secret that is silently
//! missing would be a service that anybody may ask. That others may read it is only warned of, because secrets of orchestrators are mounted
//! so (0444).

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;

use super::{ConfigError, Env, NAMES};

/// What the name of a secret's file ends with.
const ENDING: &str = "_FILE";

/// A larger file is not a secret but the wrong file.
const MOST_BYTES: u64 = 64 << 10;

/// The variable that names the file of a secret.
pub(super) fn variable_of(secret: &str) -> String {
    format!("{secret}{ENDING}")
}

/// The variable whose file `name` would be.
pub(super) fn secret_of(name: &str) -> Option<&str> {
    name.strip_suffix(ENDING)
}

/// What the file of a secret holds, when one is named. `value` is what the variable itself holds: only one of the two may be set.
pub(super) fn given(env: &dyn Env, secret: &str, value: Option<&str>) -> Option<Result<String, ConfigError>> {
    let variable = variable_of(secret);
    let path = env.get(&variable)?;
    if value.is_some() {
        let problem = format!("is set beside {variable}: set one of the two");
        return Some(Err(ConfigError::new(secret, problem)));
    }
    Some(read(path.trim()).map_err(|problem| ConfigError::new(variable, format!("{path}: {problem}"))))
}

/// Nothing of the content is in an error.
fn read(path: &str) -> Result<String, String> {
    // A pipe would keep the program waiting, and would be empty when it is read again.
    let metadata = fs::metadata(path).map_err(|error| said(&error))?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| said(&error))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| said(&error))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("has more than {MOST_BYTES} bytes: it is not the file of a secret"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    // The one end of line that editors and `echo` write; other blanks may be part of a password.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    if text.contains(['\n', '\0']) {
        return Err("has more than one line".to_owned());
    }
    Ok(text)
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    }
}

/// A warning for each file of a secret that every user of the machine may read.
pub(super) fn open_to_all(env: &dyn Env) -> Vec<String> {
    let files = NAMES.iter().filter(|name| secret_of(name).is_some());
    let files = files.filter_map(|name| Some((name, env.get(name)?)));
    let open = files.filter_map(|(name, path)| {
        let mode = fs::metadata(path.trim()).ok().as_ref().map(mode)?;
        (mode & 0o004 != 0)
            .then(|| format!("{name}: every user of this machine may read {path} (mode {mode:o}): chmod 600"))
    });
    open.collect()
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use clap::Args;

    use super::*;

    #[derive(Debug, Args)]
    struct Settings {
        /// A secret
        #[arg(env = "ADMIN_TOKEN", value_parser = |text: &str| if text.len() < 4 { Err("too short") } else { Ok(text.to_owned()) })]
        admin_token: Option<String>,
        /// No secret
        #[arg(long, env = "OTHER")]
        other: Option<String>,
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("tallyhouse-secret-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join("secret");
            fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn token(path: &Path) -> Result<Option<String>, String> {
        let env = env(&[("ADMIN_TOKEN_FILE", &path.display().to_string())]);
        super::super::read::<Settings>(&env).map(|read| read.admin_token).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_what_its_file_holds_without_the_end_of_line() {
        let folder = Folder::new("held");
        for (content, expected) in [
            ("hunter22", "hunter22"),
            ("hunter22\n", "hunter22"),
            (" hunter22 \r\n", " hunter22 "),
            ("--x=\"1\"\n", "--x=\"1\""),
        ] {
            assert_eq!(token(&folder.file(content)), Ok(Some(expected.to_owned())), "{content:?}");
        }
        assert_eq!(super::super::read::<Settings>(&env(&[])).unwrap().admin_token, None);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_and_nothing_of_it() {
        let folder = Folder::new("wrong");
        let cases: [(&[u8], &str); 6] = [
            (b"", "is empty"),
            (b" \n", "is empty"),
            (b"hunter\n22\n", "has more than one line"),
            (b"hunter\xff", "is not UTF-8"),
            (&[b'x'; 70_000], "has more than 65536 bytes: it is not the file of a secret"),
            (b"abc\n", "ADMIN_TOKEN: too short"),
        ];
        for (content, problem) in cases {
            let error = token(&folder.file(content)).unwrap_err();
            assert!(error.starts_with("ADMIN_TOKEN") && error.ends_with(problem), "{error}");
            assert!(!error.contains("hunter"), "{error}");
        }
        let error = token(&folder.0.join("nothing")).unwrap_err();
        assert!(error.starts_with("ADMIN_TOKEN_FILE: ") && error.ends_with("nothing: is not there"), "{error}");
        assert!(token(&folder.0).unwrap_err().ends_with("is not a regular file"));
    }

    #[test]
    fn both_at_once_are_refused_and_named() {
        let folder = Folder::new("both");
        let path = folder.file("hunter22").display().to_string();
        let both = env(&[("ADMIN_TOKEN", "hunter23"), ("ADMIN_TOKEN_FILE", &path)]);
        let error = super::super::read::<Settings>(&both).unwrap_err().to_string();
        assert_eq!(error, "ADMIN_TOKEN: is set beside ADMIN_TOKEN_FILE: set one of the two");
    }

    #[test]
    fn only_secrets_are_read_from_files() {
        let folder = Folder::new("other");
        let path = folder.file("value").display().to_string();
        let read: Settings = super::super::read(&env(&[("OTHER_FILE", &path)])).unwrap();
        assert_eq!((read.other, read.admin_token), (None, None));
    }

    #[test]
    fn a_file_that_everybody_may_read_is_warned_of() {
        let folder = Folder::new("open");
        let path = folder.file("hunter22");
        let told = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            open_to_all(&env(&[("ADMIN_TOKEN_FILE", &path.display().to_string())]))
        };
        assert_eq!(told(0o640), <[String; 0]>::default());
        let warning = told(0o644);
        assert!(
            warning.len() == 1 && warning[0].starts_with("ADMIN_TOKEN_FILE: ") && warning[0].contains("mode 644"),
            "{warning:?}"
        );
    }
}
