//! Whose events are not stored any more, as whoever stores events looks it up: once for each record, in nanoseconds for projects
//! without an erasure.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use tallyhouse_schema::user_hash::UserHasher;
use tokio_util::sync::CancellationToken;

/// A keyed hash of a person's id in a project, and from when on events are taken again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    pub project: String,
    /// [`UserHasher::hash`] of the user id alone, or of the anonymous id alone.
    pub hash: u64,
    /// Events that were received before are erased, in milliseconds since 1970. [`FOREVER`]: all of them.
    pub before: i64,
}

/// [`Suppression::before`] of a person whose events are never taken again.
pub const FOREVER: i64 = i64::MAX;

/// [`Suppression::hash`] of everybody: no person's hash is 0.
pub const EVERYBODY: u64 = 0;

/// The ids of an event that suppressions are about.
#[derive(Debug, Clone, Copy)]
pub struct Person<'a> {
    pub user_id: &'a str,
    pub anonymous_id: &'a str,
    /// When the event was received, in milliseconds since 1970.
    pub received_at: i64,
}

/// Those of one project.
#[derive(Debug)]
struct OfProject {
    hasher: UserHasher,
    before: HashMap<u64, i64>,
}

/// All of them, as of a version.
#[derive(Debug, Default)]
pub struct SuppressionSet {
    version: u64,
    projects: HashMap<String, OfProject>,
}

impl SuppressionSet {
    /// `hasher` gives the key of a project. Where a hash is named twice, the later time counts.
    pub fn new(
        version: u64,
        suppressions: impl IntoIterator<Item = Suppression>,
        hasher: impl Fn(&str) -> UserHasher,
    ) -> Self {
        let mut projects: HashMap<String, OfProject> = HashMap::new();
        for Suppression { project, hash, before } in suppressions {
            let of_project = projects
                .entry(project)
                .or_insert_with_key(|project| OfProject { hasher: hasher(project), before: HashMap::new() });
            of_project.before.entry(hash).and_modify(|known| *known = before.max(*known)).or_insert(before);
        }
        Self { version, projects }
    }

    /// Rises with every suppression.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether an event of this person is erased.
    pub fn covers(&self, project: &str, person: Person<'_>) -> bool {
        // Most installations have erased nobody.
        if self.projects.is_empty() {
            return false;
        }
        let Some(OfProject { hasher, before }) = self.projects.get(project) else { return false };
        if before.get(&EVERYBODY).is_some_and(|before| person.received_at < *before) {
            return true;
        }
        let is_before = |hash: u64| before.get(&hash).is_some_and(|before| person.received_at < *before);
        let Person { user_id, anonymous_id, .. } = person;
        (!user_id.is_empty() && is_before(hasher.hash(project, user_id, "")))
            || (!anonymous_id.is_empty() && is_before(hasher.hash(project, "", anonymous_id)))
    }
}

/// The set in force, shared by all that store events. Clones share it. The default suppresses nobody.
#[derive(Debug, Clone)]
pub struct Suppressions(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    set: ArcSwap<SuppressionSet>,
    leftovers: AtomicU64,
    judging: std::sync::Mutex<Vec<std::sync::Weak<AtomicU64>>>,
    /// Cancelled: somebody said which set it is.
    known: CancellationToken,
    /// Cancelled: it was read from ClickHouse by this process, and not from the disk alone.
    current: CancellationToken,
}

impl Default for Suppressions {
    fn default() -> Self {
        let suppressions = Self::awaited();
        suppressions.0.known.cancel();
        suppressions.current();
        suppressions
    }
}

/// [`Judging`] of whoever holds nothing that is not stored yet.
const NOTHING: u64 = u64::MAX;

impl Suppressions {
    /// Of a process that has not read yet who is suppressed.
    pub fn awaited() -> Self {
        Self(Arc::default())
    }

    /// Takes a newer set.
    pub fn replace(&self, set: SuppressionSet) {
        self.0.set.store(Arc::new(set));
        self.0.known.cancel();
    }

    /// Waits until a set was taken: nobody may judge before, what is suppressed would be stored.
    pub async fn known(&self) {
        self.0.known.cancelled().await;
    }

    /// The set is no older than this process.
    pub fn current(&self) {
        self.0.current.cancel();
    }

    /// Waits for that: somebody may have been erased while this process did not run, and a copy on the disk does not know.
    pub async fn are_current(&self) {
        self.0.current.cancelled().await;
    }

    /// The set in force.
    pub fn load(&self) -> Guard<Arc<SuppressionSet>> {
        self.0.set.load()
    }

    /// Something was stored that may be erased already.
    pub fn add_leftover(&self) {
        self.0.leftovers.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub fn leftovers(&self) -> u64 {
        self.0.leftovers.load(Ordering::Relaxed)
    }

    /// One more that judges records and stores them.
    pub fn judging(&self) -> Judging {
        let oldest = Arc::new(AtomicU64::new(NOTHING));
        let mut all = self.0.judging.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&oldest));
        Judging { suppressions: self.clone(), oldest }
    }

    /// The version that applies to everything that is stored from now on: nothing is on its way that was judged by an older one.
    pub fn applied(&self) -> u64 {
        // In this order: whoever begins to judge after it is read has at least this version.
        let current = self.0.set.load().version();
        let all = self.0.judging.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let oldest = all.iter().filter_map(std::sync::Weak::upgrade).map(|oldest| oldest.load(Ordering::SeqCst));
        oldest.min().unwrap_or(NOTHING).min(current)
    }
}

/// Tells by which version the oldest record was judged that one worker has not stored yet.
#[derive(Debug)]
pub struct Judging {
    suppressions: Suppressions,
    oldest: Arc<AtomicU64>,
}

impl Judging {
    /// Begins to judge, by the set that is returned. `held`: the version of the oldest that is held.
    pub fn begin(&self, held: Option<u64>) -> Arc<SuppressionSet> {
        // Nothing counts as applied until it is known which set it is.
        self.oldest.store(0, Ordering::SeqCst);
        let set = self.suppressions.0.set.load_full();
        self.oldest.store(held.unwrap_or(NOTHING).min(set.version()), Ordering::SeqCst);
        set
    }

    /// Ends it; `held` as before.
    pub fn end(&self, held: Option<u64>) {
        self.oldest.store(held.unwrap_or(NOTHING), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];

    fn set(version: u64, before: i64) -> SuppressionSet {
        let hasher = UserHasher::new(KEY);
        let of = |user: &str, anonymous: &str| Suppression {
            project: "shop".into(),
            hash: hasher.hash("shop", user, anonymous),
            before,
        };
        SuppressionSet::new(version, [of("ann", ""), of("", "cookie-1")], |_| UserHasher::new(KEY))
    }

    fn covers(set: &SuppressionSet, project: &str, user_id: &str, anonymous_id: &str, received_at: i64) -> bool {
        set.covers(project, Person { user_id, anonymous_id, received_at })
    }

    #[test]
    fn an_event_is_before_or_after() {
        let set = set(1, 100);
        assert!(covers(&set, "shop", "ann", "", 99));
        assert!(!covers(&set, "shop", "ann", "", 100));
        assert!(covers(&set, "shop", "", "cookie-1", 99));
        assert!(
            covers(&set, "shop", "bob", "cookie-1", 99),
            "the anonymous id is that of the person, whoever signed in"
        );
        assert!(covers(&set, "shop", "ann", "cookie-2", 99));
        for (project, user, anonymous) in
            [("other", "ann", ""), ("shop", "cookie-1", ""), ("shop", "", "ann"), ("shop", "", ""), ("shop", "Ann", "")]
        {
            assert!(!covers(&set, project, user, anonymous, 0), "{project} {user} {anonymous}");
        }
        assert!(covers(&self::set(1, FOREVER), "shop", "ann", "", i64::MAX - 1));
        assert!(!covers(&SuppressionSet::default(), "shop", "ann", "", 0));
    }

    #[test]
    fn a_project_that_is_deleted_covers_everybody() {
        let all = Suppression { project: "shop".into(), hash: EVERYBODY, before: FOREVER };
        let set = SuppressionSet::new(1, [all], |_| UserHasher::new(KEY));
        assert!(covers(&set, "shop", "", "", 5) && covers(&set, "shop", "ann", "", 5));
        assert!(!covers(&set, "other", "ann", "", 5));
    }

    #[test]
    fn the_later_time_counts_whichever_comes_first() {
        let hash = UserHasher::new(KEY).hash("shop", "ann", "");
        for times in [[5, 9], [9, 5]] {
            let all = times.map(|before| Suppression { project: "shop".into(), hash, before });
            assert!(covers(&SuppressionSet::new(1, all, |_| UserHasher::new(KEY)), "shop", "ann", "", 8));
        }
    }

    #[tokio::test]
    async fn nobody_judges_before_it_is_known_who_is_suppressed() {
        let is_known = async |suppressions: &Suppressions| {
            tokio::time::timeout(std::time::Duration::from_millis(1), suppressions.known()).await.is_ok()
        };
        let suppressions = Suppressions::awaited();
        assert!(!is_known(&suppressions).await);
        suppressions.replace(SuppressionSet::default());
        assert!(is_known(&suppressions).await && is_known(&Suppressions::default()).await);
    }

    #[test]
    fn a_version_is_applied_when_nothing_older_is_on_its_way() {
        let suppressions = Suppressions::default();
        let (one, other) = (suppressions.judging(), suppressions.judging());
        suppressions.replace(set(1, 100));
        assert_eq!(suppressions.applied(), 1, "nobody holds anything");
        assert_eq!(one.begin(None).version(), 1);
        one.end(Some(1));
        suppressions.replace(set(2, 100));
        assert_eq!(suppressions.applied(), 1, "a batch of version 1 is being filled");
        assert_eq!(other.begin(None).version(), 2);
        one.begin(Some(1));
        assert_eq!(suppressions.applied(), 1, "the batch goes on");
        one.end(None);
        assert_eq!(suppressions.applied(), 2);
        other.end(Some(2));
        drop(other);
        suppressions.replace(set(3, 100));
        assert_eq!(suppressions.applied(), 3, "one that has ended stores nothing");
    }
}
