//! The settings of all projects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tallyhouse_control::Control;
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::records::{ProjectDocument, limits_priority};
use tallyhouse_control::snapshot::Snapshot;
use tallyhouse_schema::project::{ProjectName, ProjectSettings, SettingsError, retention_weeks};
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_service::access::Principal;
use tallyhouse_service::rate_limit::LimitsOf;
use tallyhouse_sql::migrations::{MAX_PARTITIONS_PER_BATCH, MAX_RETENTION_DAYS};
use tokio::sync::Mutex;

/// Retentions that do not fit, by project.
type Misfits = BTreeMap<ProjectName, u16>;

/// Settings by project; a project without a document has the default ones.
#[derive(Debug, Clone)]
pub struct Projects {
    default: ProjectSettings,
    named: BTreeMap<ProjectName, ProjectSettings>,
    /// What projects have of their own, and is left out.
    misfits: Misfits,
}

/// Projects with a topic of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnTopics {
    /// `KAFKA_TOPIC_PER_PROJECT`: all, or none …
    pub is_default: bool,
    /// … but for those whose `ownTopic` says otherwise.
    pub exceptions: BTreeSet<String>,
}

impl OwnTopics {
    /// Whether a project has one.
    pub fn has(&self, project: &str) -> bool {
        self.is_default != self.exceptions.contains(project)
    }

    /// Whether no project has one.
    pub fn is_empty(&self) -> bool {
        !self.is_default && self.exceptions.is_empty()
    }
}

/// Why the documents cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectsError {
    #[error("{path}: {source}")]
    Document {
        path: String,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// Two documents about one project.
    #[error("{path}: project `{project}` has another document already")]
    Twice {
        /// The second one's file.
        path: String,
        project: ProjectName,
    },
    /// Events would be taken and removed at once.
    #[error(
        "{path}: `lateWindowDays` is {late}, and may be at most `retentionDays`, which is {retention} (LATE_WINDOW_DAYS and \
             RETENTION_DAYS stand for what a file leaves out)"
    )]
    LateBeyondRetention {
        /// Its file.
        path: String,
        /// How late events may come.
        late: u16,
        /// How long they are kept.
        retention: u16,
    },
    /// More than one batch may touch: see [`Projects::from_documents`].
    #[error(
        "the different values of retentionDays, the default one included, make {found} partitions of a batch of history, \
         and at most {MAX_PARTITIONS_PER_BATCH} are allowed; use fewer or smaller values"
    )]
    TooManyPartitions {
        /// How many partitions.
        found: u32,
    },
}

impl Projects {
    pub fn all(default: ProjectSettings) -> Self {
        Self { default, named: BTreeMap::new(), misfits: Misfits::new() }
    }

    /// Reads documents, each with the name of its file.
    ///
    /// Raw events are partitioned by week and retention, and a batch holds events of any project. So all different
    /// retentions together must stay below the partitions that a batch may touch: a batch of history beyond it could
    /// never be stored.
    pub fn from_documents<'a>(
        default: ProjectSettings,
        documents: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ProjectsError> {
        let mut projects = Self::all(default);
        for (path, text) in documents {
            let (project, settings) = ProjectSettings::read(text, &projects.default, MAX_RETENTION_DAYS)
                .map_err(|source| ProjectsError::Document { path: path.to_owned(), source })?;
            let (late, retention) = (settings.late_window_days, settings.retention_days);
            if late > retention {
                return Err(ProjectsError::LateBeyondRetention { path: path.to_owned(), late, retention });
            }
            if projects.named.insert(project.clone(), settings).is_some() {
                return Err(ProjectsError::Twice { path: path.to_owned(), project });
            }
        }
        let retentions: BTreeSet<u16> =
            projects.named.values().chain([&projects.default]).map(|settings| settings.retention_days).collect();
        let found = retentions.into_iter().map(retention_weeks).sum();
        if found > MAX_PARTITIONS_PER_BATCH { Err(ProjectsError::TooManyPartitions { found }) } else { Ok(projects) }
    }

    /// The same with what projects have of their own in the control plane, which wins over their files.
    ///
    /// What would contradict itself, or make more partitions than a batch may touch, is left as it was: whoever set it knew neither the files
    /// nor the variables of this process.
    #[must_use]
    pub fn with_own<'a>(&self, own: impl IntoIterator<Item = (&'a ProjectName, &'a ProjectDocument)>) -> Self {
        let mut projects = self.clone();
        let of_files = self.named.values().chain([&self.default]).map(|settings| settings.retention_days);
        let mut retentions: BTreeSet<u16> = of_files.collect();
        let mut own: Vec<_> = own.into_iter().collect();
        // Of two that do not fit together the same one is left out everywhere.
        own.sort_by_key(|(name, _)| *name);
        for (name, document) in own {
            let mut settings = overlaid(self.of(name.as_str()), document);
            let weeks = retentions.iter().chain([&settings.retention_days]).copied().collect::<BTreeSet<u16>>();
            if weeks.into_iter().map(retention_weeks).sum::<u32>() > MAX_PARTITIONS_PER_BATCH {
                projects.misfits.insert(name.clone(), settings.retention_days);
                settings.retention_days = self.of(name.as_str()).retention_days;
            }
            settings.late_window_days = settings.late_window_days.min(settings.retention_days);
            retentions.insert(settings.retention_days);
            projects.named.insert(name.clone(), settings);
        }
        projects
    }

    pub fn of(&self, project: &str) -> &ProjectSettings {
        self.named.get(project).unwrap_or(&self.default)
    }

    /// Which projects want a topic of their own (`ownTopic`).
    pub fn own_topics(&self) -> OwnTopics {
        let is_default = self.default.own_topic;
        let differ = self.named.iter().filter(|(_, settings)| settings.own_topic != is_default);
        OwnTopics { is_default, exceptions: differ.map(|(name, _)| name.to_string()).collect() }
    }
}

/// What a project has of its own, else what it had.
fn overlaid(before: &ProjectSettings, own: &ProjectDocument) -> ProjectSettings {
    ProjectSettings {
        late_window_days: own.late_window_days.unwrap_or(before.late_window_days),
        retention_days: own.retention_days.unwrap_or(before.retention_days),
        dimension_values: own.dimension_values.unwrap_or(before.dimension_values),
        priority: own.priority.unwrap_or(before.priority),
        dead_letters: own.dead_letters.unwrap_or(before.dead_letters),
        own_topic: before.own_topic,
    }
}

/// What holds of all projects, by one snapshot of the control plane.
struct Derived {
    snapshot: Arc<Snapshot>,
    projects: Projects,
    /// Of projects that have a hash key of their own.
    hashers: HashMap<ProjectName, UserHasher>,
}

/// What holds of a project.
pub struct OfProject {
    pub settings: ProjectSettings,
    /// Hashes its people.
    pub hasher: UserHasher,
    /// What its keys may send.
    pub limits: LimitsOf,
}

/// What is in force, which follows the control plane.
///
/// It is derived once for each snapshot: by [`LiveProjects::follow`], or by a request that comes before that. Others wait for it: of a new project
/// nothing may be stored under another key.
pub struct LiveProjects {
    of_files: Arc<Projects>,
    control: Control,
    hash_key: InstallationKey,
    /// Of projects without a hash key of their own.
    hasher: UserHasher,
    current: ArcSwap<Derived>,
    deriving: Mutex<()>,
}

impl LiveProjects {
    pub fn new(of_files: Projects, control: Control, hash_key: InstallationKey) -> Self {
        let current = derive(&of_files, &hash_key, control.snapshot());
        tell_misfits(&BTreeMap::new(), &current.projects.misfits);
        let (hasher, current) = (hash_key.hasher(None), ArcSwap::from_pointee(current));
        let of_files = Arc::new(of_files);
        Self { of_files, control, hash_key, hasher, current, deriving: Mutex::default() }
    }

    pub async fn of(&self, caller: &Principal, project: &str) -> OfProject {
        let current = self.current().await;
        let settings = current.projects.of(project).clone();
        let hasher = current.hashers.get(project).unwrap_or(&self.hasher).clone();
        // A file may say another priority than the control plane.
        let limits = current.snapshot.limits_of(caller).with_priority(limits_priority(settings.priority));
        OfProject { settings, hasher, limits }
    }

    /// Never ends while the control plane is there.
    pub async fn follow(&self) {
        let mut changed = self.control.subscribe();
        loop {
            self.current().await;
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn current(&self) -> Arc<Derived> {
        let current = self.current.load_full();
        if Arc::ptr_eq(&current.snapshot, &self.control.snapshot()) {
            return current;
        }
        let _one = self.deriving.lock().await;
        let (current, snapshot) = (self.current.load_full(), self.control.snapshot());
        if Arc::ptr_eq(&current.snapshot, &snapshot) {
            return current;
        }
        let (of_files, hash_key) = (Arc::clone(&self.of_files), self.hash_key.clone());
        let of_snapshot = Arc::clone(&snapshot);
        // All projects at once: longer than a thread that serves requests may be held.
        let derived = tokio::task::spawn_blocking(move || derive(&of_files, &hash_key, of_snapshot)).await;
        let next = Arc::new(derived.unwrap_or_else(|_| derive(&self.of_files, &self.hash_key, snapshot)));
        tell_misfits(&current.projects.misfits, &next.projects.misfits);
        self.current.store(Arc::clone(&next));
        next
    }
}

fn derive(of_files: &Projects, hash_key: &InstallationKey, snapshot: Arc<Snapshot>) -> Derived {
    let projects = of_files.with_own(snapshot.projects().map(|project| (&project.name, &project.settings)));
    let with_part = snapshot.projects().filter_map(|project| Some((&project.name, project.settings.key_part()?)));
    let hashers = with_part.map(|(name, part)| (name.clone(), hash_key.hasher(Some(&part)))).collect();
    Derived { snapshot, projects, hashers }
}

fn tell_misfits(before: &Misfits, now: &Misfits) {
    for (project, retention_days) in news(before, now) {
        tracing::error!(%project, retention_days, "this retention makes more partitions than a batch may touch: it is left out");
    }
}

/// What was not told before.
fn news<'a>(before: &'a Misfits, now: &'a Misfits) -> impl Iterator<Item = (&'a ProjectName, &'a u16)> {
    now.iter().filter(|(project, days)| before.get(*project) != Some(*days))
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::project::Priority;

    use super::*;

    const DEFAULT: ProjectSettings = ProjectSettings {
        late_window_days: 7,
        retention_days: 730,
        dimension_values: 1_000,
        priority: Priority::Normal,
        dead_letters: false,
        own_topic: false,
    };

    #[test]
    fn a_project_without_a_document_has_the_default() {
        let shop = ("shop.json", r#"{"project":"shop","lateWindowDays":30}"#);
        let projects = Projects::from_documents(DEFAULT, [shop]).unwrap();
        assert_eq!(projects.of("shop").late_window_days, 30);
        assert_eq!(projects.of("other"), &DEFAULT);
        let twice = Projects::from_documents(DEFAULT, [shop, shop]).unwrap_err();
        assert!(matches!(twice, ProjectsError::Twice { .. }), "{twice}");
        let bad = Projects::from_documents(DEFAULT, [("x/bad.json", r#"{"project":"a","colour":1}"#)]).unwrap_err();
        assert!(bad.to_string().starts_with("x/bad.json: unknown field `colour`"), "{bad}");
    }

    #[test]
    fn events_are_not_taken_for_longer_than_they_are_kept() {
        let read = |fields: &str| {
            let document = format!(r#"{{"project":"p",{fields}}}"#);
            Projects::from_documents(DEFAULT, [("p.json", document.as_str())]).map(drop).map_err(|e| e.to_string())
        };
        assert_eq!(read(r#""lateWindowDays":30,"retentionDays":30"#), Ok(()));
        let error = read(r#""lateWindowDays":31,"retentionDays":30"#).unwrap_err();
        assert!(
            error.starts_with("p.json: `lateWindowDays` is 31, and may be at most `retentionDays`, which is 30"),
            "{error}"
        );
        assert!(read(r#""retentionDays":6"#).is_err(), "the default window is longer");
    }

    #[test]
    fn a_project_says_whether_it_has_a_topic_of_its_own() {
        let documents =
            [("a.json", r#"{"project":"a","ownTopic":true}"#), ("b.json", r#"{"project":"b","ownTopic":false}"#)];
        for (own_topic, exception) in [(false, "a"), (true, "b")] {
            let projects = Projects::from_documents(ProjectSettings { own_topic, ..DEFAULT }, documents).unwrap();
            let expected = OwnTopics { is_default: own_topic, exceptions: [exception.to_owned()].into() };
            assert_eq!(projects.own_topics(), expected);
        }
    }

    #[test]
    fn what_a_project_has_of_its_own_wins_over_its_file() {
        let shop = ("shop.json", r#"{"project":"shop","lateWindowDays":30,"deadLetters":true}"#);
        let files = Projects::from_documents(DEFAULT, [shop]).unwrap();
        let own = |name: &str, json: &str| (name.parse().unwrap(), serde_json::from_str(json).unwrap());
        let own: Vec<(ProjectName, ProjectDocument)> = vec![
            own("shop", r#"{"retentionDays":20,"priority":"high"}"#),
            own("other", r#"{"deadLetters":true}"#),
            own("zoo", r#"{"retentionDays":1000}"#),
        ];
        let live = files.with_own(own.iter().map(|(name, document)| (name, document)));
        let of_shop = ProjectSettings {
            late_window_days: 20,
            retention_days: 20,
            priority: Priority::High,
            dead_letters: true,
            ..DEFAULT
        };
        assert_eq!(live.of("shop"), &of_shop);
        assert_eq!(live.of("other"), &ProjectSettings { dead_letters: true, ..DEFAULT });
        assert_eq!(live.of("zoo"), &DEFAULT, "its retention does not fit");
        let told = news(&files.misfits, &live.misfits).map(|(project, days)| (project.as_str(), *days));
        assert_eq!(told.collect::<Vec<_>>(), [("zoo", 1_000)]);
        assert_eq!(news(&live.misfits, &live.misfits).count(), 0, "it was told");
        assert_eq!(live.of("nobody"), &DEFAULT);
    }

    #[test]
    fn retentions_that_no_batch_could_hold_are_refused() {
        let with = |days: u16| {
            let document = format!(r#"{{"project":"p","retentionDays":{days}}}"#);
            Projects::from_documents(DEFAULT, [("p.json", document.as_str())]).map(drop)
        };
        assert_eq!(with(730), Ok(()));
        assert_eq!(with(700), Ok(()));
        assert_eq!(with(1_000), Err(ProjectsError::TooManyPartitions { found: 107 + 145 }));
    }
}
