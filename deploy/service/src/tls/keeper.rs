//! Keeps the certificate of the listeners: looks at its files, and replaces it when they hold a better one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Registry;
use jiff::Timestamp;

use super::identity::Identity;
use super::listener::{self, Clients, Current, ListenerTls, Watching};
use super::telemetry::TlsMetrics;
use super::{ServerFiles, TlsError};
use crate::health::{Health, Status};

/// How often files are looked at: a `stat` each.
const LOOK: Duration = Duration::from_secs(1);

const COMPONENT: &str = "tls";

/// Why there is no TLS at the start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// TLS of a service's listeners; clones share it.
#[derive(Debug, Clone)]
pub struct Tls {
    public: ListenerTls,
    admin: ListenerTls,
}

impl Tls {
    /// Reads the files, and looks at them from now on.
    pub fn open(files: ServerFiles, registry: &Registry, health: &Health) -> Result<Self, OpenError> {
        let stamp = Stamp::of(&files);
        let identity = Identity::read(&files)?;
        let (public, admin) = configs(&identity, &files)?;
        let (public, admin) = (Current::new(public), Current::new(admin));
        let keeper = Keeper {
            files,
            public: public.clone(),
            admin: admin.clone(),
            health: health.clone(),
            metrics: TlsMetrics::register(registry)?,
            identity,
            judged: stamp.clone(),
            seen: stamp,
            refused: None,
        };
        keeper.report();
        let watching = Arc::new(Watching(tokio::spawn(keeper.watch())));
        Ok(Self { public: ListenerTls::new(public, &watching), admin: ListenerTls::new(admin, &watching) })
    }

    /// Of the listener that everybody may reach.
    pub fn public(&self) -> ListenerTls {
        self.public.clone()
    }

    /// Of the admin port.
    pub fn admin(&self) -> ListenerTls {
        self.admin.clone()
    }
}

type Configs = (rustls::ServerConfig, rustls::ServerConfig);

fn configs(identity: &Identity, files: &ServerFiles) -> Result<Configs, TlsError> {
    let config =
        |clients, file: &Path| listener::config(identity, files.versions, clients).map_err(|problem| problem.of(file));
    let ca = files.admin_client_ca.as_ref().unwrap_or(&files.certificate);
    Ok((config(Clients::Any, &files.certificate)?, config(Clients::Admin, ca)?))
}

/// What tells one state of the files from another. A mounted secret is a link that is led elsewhere: the file behind it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(Vec<Option<FileStamp>>);

/// Device, inode, size, and when content and rights were changed, in seconds and nanoseconds: a file that is let be read is another one.
type FileStamp = (u64, u64, u64, [i64; 4]);

impl Stamp {
    fn of(files: &ServerFiles) -> Self {
        let all = [Some(&files.certificate), Some(&files.key), files.admin_client_ca.as_ref()];
        let stamp = |path: &PathBuf| {
            let file = fs::metadata(path).ok()?;
            let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
            Some((file.dev(), file.ino(), file.size(), times))
        };
        Self(all.into_iter().flatten().map(stamp).collect())
    }
}

struct Keeper {
    files: ServerFiles,
    public: Current,
    admin: Current,
    health: Health,
    metrics: TlsMetrics,
    /// In force.
    identity: Identity,
    /// The files as they were when they were last read.
    judged: Stamp,
    /// As they were at the last look.
    seen: Stamp,
    /// Why what stands in the files is not in force.
    refused: Option<String>,
}

impl Keeper {
    async fn watch(mut self) {
        let health = self.health.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            // A file system that hangs must not hold a thread of the services.
            let looked = tokio::task::spawn_blocking(move || {
                self.look(Stamp::of, Timestamp::now());
                self
            });
            match looked.await {
                Ok(keeper) => self = keeper,
                Err(error) => {
                    tracing::error!(%error, "the certificate's files are no longer looked at");
                    health.set(
                        COMPONENT,
                        Status::Degraded,
                        "the certificate's files are no longer looked at: see the log",
                    );
                    return;
                }
            }
        }
    }

    /// Reads the files when they have changed and stood still since the last look: whoever replaces them writes several. What was refused
    /// is read again at each look: it may only have been too early for it.
    fn look(&mut self, stamp: impl Fn(&ServerFiles) -> Stamp, now: Timestamp) {
        let stamp = stamp(&self.files);
        let stands_still = std::mem::replace(&mut self.seen, stamp.clone()) == stamp;
        if stands_still && (stamp != self.judged || self.refused.is_some()) {
            if stamp != self.judged {
                // Other files that are refused for the same reason are told of, too.
                self.refused = None;
            }
            self.judged = stamp;
            self.replace(now);
        }
        self.report();
    }

    fn replace(&mut self, now: Timestamp) {
        let read = Identity::read(&self.files).map_err(Into::into);
        let read = read.and_then(|identity| identity.after(&self.identity, &self.files, now));
        let ready = read.and_then(|identity| Ok((configs(&identity, &self.files)?, identity)));
        match ready {
            Ok(((public, admin), identity)) => {
                self.public.replace(public);
                self.admin.replace(admin);
                let until = identity.validity.until;
                tracing::info!(%until, "new connections get the new certificate");
                self.metrics.replacement("taken");
                (self.identity, self.refused) = (identity, None);
            }
            Err(error) => {
                let why = error.to_string();
                if self.refused.as_ref() != Some(&why) {
                    tracing::error!(%error, "the changed certificate files are not used; the certificate before them stays");
                    self.metrics.replacement("refused");
                }
                self.refused = Some(why);
            }
        }
    }

    fn report(&self) {
        let now = Timestamp::now();
        let days = self.identity.days_left(now);
        self.metrics.days_left(days);
        let of_age = self.identity.trouble(now);
        let refused = self.refused.as_ref().map(|why| format!("the files hold one that is not used: {why}"));
        let told: Vec<String> = refused.into_iter().chain(of_age).collect();
        let status = if told.is_empty() { Status::Up } else { Status::Degraded };
        self.health.set(COMPONENT, status, told.join("; "));
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Folder, Issued, Lifetime};
    use super::*;

    fn detail(health: &Health) -> (Status, String) {
        let report = health.report();
        let tls = report.components.get(COMPONENT).unwrap();
        (tls.status, tls.detail.clone())
    }

    fn keeper(folder: &Folder, issued: &Issued) -> Keeper {
        let files = folder.write(issued);
        let identity = Identity::read(&files).unwrap();
        let (public, admin) = configs(&identity, &files).unwrap();
        let stamp = Stamp::of(&files);
        Keeper {
            files,
            public: Current::new(public),
            admin: Current::new(admin),
            health: Health::default(),
            metrics: TlsMetrics::register(&Registry::new()).unwrap(),
            identity,
            judged: stamp.clone(),
            seen: stamp,
            refused: None,
        }
    }

    /// As often as it takes until what has changed is judged.
    fn look(keeper: &mut Keeper) {
        (0..2).for_each(|_| keeper.look(Stamp::of, Timestamp::now()));
    }

    #[test]
    fn a_better_one_is_taken_and_a_worse_one_is_not() {
        let folder = Folder::new("keeper");
        let issued = |days| Issued::new(&["localhost"], Lifetime::Days(-1, days), None);
        let mut keeper = keeper(&folder, &issued(90));
        keeper.look(Stamp::of, Timestamp::now());
        assert_eq!(detail(&keeper.health), (Status::Up, String::new()));
        let first = keeper.identity.validity;

        fs::write(&keeper.files.certificate, "nothing").unwrap();
        look(&mut keeper);
        look(&mut keeper);
        assert_eq!(keeper.metrics.replacements("refused"), 1);
        fs::write(&keeper.files.certificate, "nothing again").unwrap();
        look(&mut keeper);
        assert_eq!(keeper.metrics.replacements("refused"), 2);
        let (status, told) = detail(&keeper.health);
        assert!(status == Status::Degraded && told.contains("cert.pem holds no certificate"), "{told}");
        assert_eq!(keeper.identity.validity, first);

        folder.write(&Issued::new(&["localhost"], Lifetime::Days(-9, -1), None));
        look(&mut keeper);
        assert!(detail(&keeper.health).1.contains("ended at"), "{:?}", detail(&keeper.health));

        folder.write(&issued(60));
        look(&mut keeper);
        assert_eq!(detail(&keeper.health), (Status::Up, String::new()));
        assert!(keeper.identity.validity.until < first.until);
    }

    #[test]
    fn files_are_read_when_they_stand_still_and_only_once() {
        let folder = Folder::new("still");
        let one = Issued::new(&["localhost"], Lifetime::Days(-1, 90), None);
        let mut keeper = keeper(&folder, &one);
        let next = Issued::new(&["localhost"], Lifetime::Days(-1, 80), None);
        // The certificate comes first, and its key at the next look.
        fs::write(&keeper.files.certificate, next.certificate_pem()).unwrap();
        keeper.look(Stamp::of, Timestamp::now());
        fs::write(&keeper.files.key, next.key_pem()).unwrap();
        keeper.look(Stamp::of, Timestamp::now());
        assert_eq!(keeper.refused, None, "half of a replacement is not judged");
        keeper.look(Stamp::of, Timestamp::now());
        assert_eq!((keeper.refused.clone(), detail(&keeper.health).0), (None, Status::Up));
        assert!(keeper.identity.days_left(Timestamp::now()) < 81.0);
        fs::remove_file(&keeper.files.key).unwrap();
        look(&mut keeper);
        let judged = keeper.judged.clone();
        look(&mut keeper);
        assert_eq!(keeper.judged, judged);
        assert!(keeper.refused.unwrap().contains("key.pem: No such file"));
    }
}
