//! The keyed hash that stands for a user in distinct counts.
//!
//! Small `uniqCombined64` states keep the hashes themselves, so a plain hash would let anybody who can read a rollup test
//! whether a known user is in it. The key prevents that, and destroying it de-links all states at once.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// The secret of [`UserHasher`]: every instance that writes to one ClickHouse must have the same, or users count twice.
#[derive(Clone)]
pub struct UserHasher {
    key: [u8; 16],
}

impl UserHasher {
    /// A hasher with this key.
    pub const fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The hash of a user of a project; 0 when there is neither id. Never 0 for anybody.
    pub fn hash(&self, project: &str, user_id: &str, anonymous_id: &str) -> u64 {
        let (kind, id) = match (user_id, anonymous_id) {
            ("", "") => return 0,
            ("", anonymous) => (b'a', anonymous),
            (user, _) => (b'u', user),
        };
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(project.as_bytes());
        hasher.write(&[0xff, kind]); // 0xff is in no UTF-8 text, so (ab, c) and (a, bc) differ.
        hasher.write(id.as_bytes());
        hasher.finish().max(1)
    }
}

impl fmt::Debug for UserHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserHasher(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_key_project_kind_and_id() {
        let hasher = UserHasher::new([1; 16]);
        let all = [
            hasher.hash("p", "u", ""),
            hasher.hash("p", "", "u"),
            hasher.hash("p", "v", ""),
            hasher.hash("q", "u", ""),
            hasher.hash("pu", "", ""),
            UserHasher::new([2; 16]).hash("p", "u", ""),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(all[4], 0);
        assert_eq!(hasher.hash("p", "u", "ignored"), all[0]);
    }
}
