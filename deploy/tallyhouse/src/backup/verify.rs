//! Reads a backup whole: is every file there, as long as it was, and the same?

use super::manifest::Manifest;
use super::{BackupError, Target};

/// What is wrong with a backup, a line a file; nothing when it is whole.
pub async fn problems(target: &Target, name: &str) -> Result<Vec<String>, BackupError> {
    let manifest = target.manifest(name).await?;
    let mut problems = missing(target, &manifest).await?;
    if let Some(base) = &manifest.base {
        match target.manifest(base).await {
            Ok(base) => problems.extend(missing(target, &base).await?),
            Err(error) => problems.push(format!("its base {base}: {error}")),
        }
    }
    Ok(problems)
}

async fn missing(target: &Target, manifest: &Manifest) -> Result<Vec<String>, BackupError> {
    let mut problems = Vec::new();
    for entry in &manifest.files {
        let place = entry.place();
        match target.sum(place).await? {
            None => problems.push(format!("{place} is missing")),
            Some((bytes, _)) if bytes != entry.bytes => {
                problems.push(format!("{place} has {bytes} bytes, not {}", entry.bytes));
            }
            Some((_, sha256)) if sha256 != entry.sha256 => problems.push(format!("{place} has another checksum")),
            Some(_) => {}
        }
    }
    Ok(problems)
}

/// As [`problems`], as an error.
pub async fn require_whole(target: &Target, name: &str) -> Result<(), BackupError> {
    let problems = problems(target, name).await?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(BackupError::Damaged { name: name.to_owned(), problems })
}
