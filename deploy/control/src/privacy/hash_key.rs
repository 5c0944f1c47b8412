//! The keys under which people are hashed.
//!
//! A project has a random part of its own in its record; its key is derived from that and the installation's (`USER_HASH_KEY`), so
//! nobody who has only one of both can find out whose hash it is. When the project is deleted its part goes, and what is left of its
//! hashes, in backups too, cannot be linked to anybody any more. Projects from before have no part and use the installation's key, so
//! that people who were counted stay the same.

use std::fmt;

use tallyhouse_schema::user_hash::UserHasher;

use super::hmac::hmac;

/// The key of the installation.
#[derive(Clone)]
pub struct InstallationKey([u8; 16]);

impl InstallationKey {
    pub const fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The key of a project, by the random part in its record.
    pub fn of_project(&self, part: Option<&[u8]>) -> [u8; 16] {
        let Some(part) = part else { return self.0 };
        let derived = hmac(&self.0, &[b"tallyhouse user hash\0", part]);
        std::array::from_fn(|byte| derived.get(byte).copied().unwrap_or_default())
    }

    /// As [`InstallationKey::of_project`], ready to hash.
    pub fn hasher(&self, part: Option<&[u8]>) -> UserHasher {
        UserHasher::new(self.of_project(part))
    }

    /// What reports are signed with.
    pub(super) fn of_reports(&self) -> [u8; 32] {
        hmac(&self.0, &[b"tallyhouse erasure report\0"])
    }
}

impl fmt::Debug for InstallationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstallationKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_from_before_keep_their_hashes_and_new_ones_have_their_own() {
        let installation = InstallationKey::new([3; 16]);
        assert_eq!(installation.of_project(None), [3; 16]);
        let (one, other) = (installation.of_project(Some(&[1; 16])), installation.of_project(Some(&[2; 16])));
        assert!(one != other && one != [3; 16]);
        assert_ne!(one, InstallationKey::new([4; 16]).of_project(Some(&[1; 16])));
        assert_eq!(format!("{installation:?}"), "InstallationKey(***)");
    }
}
