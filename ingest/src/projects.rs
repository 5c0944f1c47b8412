//! The settings of all projects.

use std::collections::{BTreeMap, BTreeSet};

use tallyhouse_schema::project::{ProjectName, ProjectSettings, SettingsError, retention_weeks};
use tallyhouse_sql::migrations::{MAX_PARTITIONS_PER_BATCH, MAX_RETENTION_DAYS};

/// Settings by project; a project without a document has the default ones.
#[derive(Debug, Clone)]
pub struct Projects {
    default: ProjectSettings,
    named: BTreeMap<ProjectName, ProjectSettings>,
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
        Self { default, named: BTreeMap::new() }
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
