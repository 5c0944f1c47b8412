//! Folders of documents that are read once, at start.

use std::fs;
use std::path::Path;

use crate::env::{ConfigError, Env};

/// The texts of all `*.json` files of the folder that `variable` names, in the order of their names; `None` when it is not
/// set.
pub fn json_files(env: &dyn Env, variable: &str) -> Result<Option<Vec<String>>, ConfigError> {
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
        .map(|path| fs::read_to_string(path).map_err(|error| failed(path, error)))
        .collect::<Result<_, _>>()
        .map(Some)
}
