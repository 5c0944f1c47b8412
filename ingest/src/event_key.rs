//! Event ids as 128-bit keys.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use siphasher::sip128::{Hasher128, SipHasher13};

/// An event id of a project as a number: 32 bits for the project, whose ids are bounded together, and 96 for the id. Of 10 million ids
/// two collide with a probability of 1e-15. Projects may share a number; their ids differ nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventKey(u128);

impl EventKey {
    /// From [`Self::parts`].
    pub fn from_parts(project: u32, id: [u32; 3]) -> Self {
        let [low, middle, high] = id.map(u128::from);
        Self(low | middle << 32 | high << 64 | u128::from(project) << 96)
    }

    /// As bytes, for the window's files.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From [`Self::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// The project's number and the id's.
    pub fn parts(self) -> (u32, [u32; 3]) {
        ((self.0 >> 96) as u32, [self.0 as u32, (self.0 >> 32) as u32, (self.0 >> 64) as u32])
    }

    /// For tables: half of the key is as random as another hash of it.
    pub fn hash(self) -> u64 {
        self.0 as u64
    }
}

impl Hash for EventKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// Makes keys. The hash is keyed with randomness of this process or of its data folder, so nobody can craft an id that hides another tenant's.
#[derive(Clone)]
pub struct KeyHasher {
    secret: [u8; 16],
}

impl KeyHasher {
    /// A hasher with a random secret.
    pub fn random() -> Self {
        Self { secret: rand::random() }
    }

    /// A hasher with a secret that was random once.
    pub fn with(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    pub fn key(&self, project: &str, event_id: &str) -> EventKey {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write(project.as_bytes());
        let project = hasher.finish128().h1;
        hasher.write(&[0xff]); // In no UTF-8 text, so (ab, c) and (a, bc) differ.
        hasher.write(event_id.as_bytes());
        let id: u128 = hasher.finish128().into();
        EventKey(id >> 32 | u128::from(project as u32) << 96)
    }
}

/// Keys are uniformly distributed already; hashing them again would only cost time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Numbers that are uniformly distributed already.
pub(crate) type NumberSet = HashSet<u64, BuildHasherDefault<IdentityHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_projects_and_ids_apart() {
        let hasher = KeyHasher::random();
        assert_eq!(hasher.key("p", "1"), hasher.key("p", "1"));
        assert_ne!(hasher.key("p", "1"), hasher.key("p1", ""));
        assert_ne!(hasher.key("p", "1"), hasher.key("q", "1"));
        assert_ne!(hasher.key("p", "1"), KeyHasher::random().key("p", "1"));
    }
}
