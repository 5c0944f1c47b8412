//! Folders of documents that are read once, at start.

use std::fs;
use std::path::Path;

use crate::env::{ConfigError, Env};

/// A document and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its file, for messages.
    pub path: String,
    pub text: String,
}

/// The texts of all `*.json` files of the folder that `variable` names, in the order of their names; `None` when it is not
/// set.
pub fn json_files(env: &dyn Env, variable: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let documents = json_documents(env, variable)?;
    Ok(documents.map(|documents| documents.into_iter().map(|document| document.text).collect()))
}

/// The same, each with the name of its file.
pub fn json_documents(env: &dyn Env, variable: &str) -> Result<Option<Vec<Document>>, ConfigError> {
    let Some(folder) = env.get(variable) else { return Ok(None) };
    let failed =
        |path: &Path, error: std::io::Error| ConfigError::new(variable, format!("{}: {error}", path.display()));
    let folder = Path::new(&folder);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        paths.push(entry.map_err(|error| failed(folder, error))?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
        .iter()
        .map(|path| match fs::read_to_string(path) {
            Ok(text) => Ok(Document { path: path.display().to_string(), text }),
            Err(error) => Err(failed(path, error)),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}
