//! The keys of cached answers and parts.

use std::io;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tallyhouse_sql::hex;
use ulid::Ulid;

use super::stamp::{DaysStamp, Generation, VersionStamp};
use crate::authorize::Scope;

/// Raised whenever the rendered form or the meaning of a plan changes, so that instances of two versions sharing a
/// Redis do not read each other's answers.
const VERSION: u32 = 4;

/// Version, generation, project and the question: everything that an answer depends on but the data itself, which the answer's own stamp
/// tells, and the present, which its time does. So a newer answer replaces an older one instead of lying beside it, and of a window that
/// slides there is one answer, whose end jitter moves, and not one for each minute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    text: Arc<str>,
    project: Arc<str>,
    generation: Generation,
}

impl Key {
    /// The key of a question of a project, by its name ([`CacheRequest::name`](super::cache_request::CacheRequest::name)). What cannot be written down has
    /// none, and is not remembered.
    pub fn of(scope: &Scope, name: &str, generation: Generation) -> Option<Self> {
        let text = serde_json::to_string(&(VERSION, generation, scope.project(), name)).ok()?;
        Some(Self { text: text.into(), project: scope.project().into(), generation })
    }

    /// Whose answer it is.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Whether other instances know it by the same name.
    pub fn is_shared(&self) -> bool {
        self.generation.is_shared()
    }

    /// How often the cache had been cleared.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The key's names in Redis: of a digest, because the text may have kilobytes.
    pub fn in_redis(&self) -> RedisNames {
        RedisNames { digest: hex(&Sha256::digest(self.text.as_bytes())) }
    }

    /// Bytes that the key itself takes.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.project.len()
    }
}

/// The names of one answer in Redis. The digest in braces keeps them in one slot of a cluster, so that one script may
/// touch them all.
#[derive(Debug, Clone)]
pub struct RedisNames {
    digest: String,
}

impl RedisNames {
    pub fn answer(&self) -> String {
        format!("tallyhouse:answer:{{{}}}", self.digest)
    }

    /// Who computes it, from the data that the stamp tells: a reader of newer data must not wait for an answer from
    /// older.
    pub fn lock(&self, stamp: VersionStamp) -> String {
        let days = match stamp.days {
            DaysStamp::Known { epoch, sum } => format!("{epoch}.{sum}"),
            DaysStamp::Unknown => "unknown".to_owned(),
        };
        format!("tallyhouse:lock:{{{}}}:{days}", self.digest)
    }

    /// The newest fencing token.
    pub fn fence(&self) -> String {
        format!("tallyhouse:fence:{{{}}}", self.digest)
    }
}

/// What a part of an answer is remembered under: project, what it is, and the generation. The version of its days is
/// kept beside, so that a newer part replaces an older one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartKey {
    pub(super) name: Arc<str>,
    pub(super) project: Arc<str>,
    pub(super) stamp: VersionStamp,
}

impl PartKey {
    /// The key of what `what` describes, as read at `stamp`.
    pub fn of(scope: &Scope, what: &impl Serialize, stamp: VersionStamp) -> Self {
        let mut digest = Written(Sha256::new());
        let written = serde_json::to_writer(&mut digest, &(VERSION, stamp.generation, scope.project(), what));
        if written.is_err() {
            // Our own types have a JSON form; should one not, its part is simply never found again.
            digest.0.update(Ulid::generate().to_string());
        }
        let name = format!("tallyhouse:part:{}", hex(&digest.0.finalize()));
        Self { name: name.into(), project: scope.project().into(), stamp }
    }
}

struct Written(Sha256);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Generation = Generation::Process { all: 0, project: 0 };

    #[test]
    fn projects_plans_and_generations_do_not_meet() {
        let key = |project: &str, number: u8| Key::of(&Scope::for_test(project), &number.to_string(), NONE).unwrap();
        assert_eq!(key("a", 1), key("a", 1));
        assert_ne!(key("a", 1), key("b", 1));
        assert_ne!(key("a", 1), key("a", 2));
        assert_ne!(key("a", 1).in_redis().answer(), key("b", 1).in_redis().answer());
        assert_ne!(key("a\",1", 1), key("a", 1));
        let cleared = Generation::Process { all: 1, project: 0 };
        assert_ne!(Key::of(&Scope::for_test("a"), "1", cleared).unwrap(), key("a", 1));
    }

    #[test]
    fn parts_of_two_projects_do_not_meet() {
        let stamp = VersionStamp { generation: NONE, days: DaysStamp::Unknown };
        let key = |project: &str, what: &str| PartKey::of(&Scope::for_test(project), &what, stamp);
        assert_eq!(key("a", "x"), key("a", "x"));
        assert_ne!(key("a", "x").name, key("b", "x").name);
        assert_ne!(key("a", "x").name, key("a", "y").name);
        let cleared = VersionStamp { generation: Generation::Process { all: 1, project: 0 }, ..stamp };
        assert_ne!(PartKey::of(&Scope::for_test("a"), &"x", cleared).name, key("a", "x").name);
    }
}
