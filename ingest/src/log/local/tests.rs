//! The log as its users see it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Instant;

use tallyhouse_service::metrics::Registry;

use super::simulated::Simulated;
use super::*;
use crate::event_key::KeyHasher;

const LIMITS: Limits = Limits { bytes: 1, age: Duration::from_secs(3_600) };

type Log = Arc<LocalLog<Simulated>>;

/// For who does not care what is lost.
fn options(metrics: &Arc<Metrics>, sync: Sync) -> Options {
    Options { sync, limits: LIMITS, metrics: Arc::clone(metrics), on_lost: Box::new(|_| {}), saved: i64::MIN }
}

/// The keys that a log lost.
type Lost = Arc<Mutex<Vec<EventKey>>>;

/// A log, what it loses, and the records that were in it.
fn open(disk: &Simulated, sync: Sync) -> (Log, Lost, Vec<(i64, Vec<u8>)>) {
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    let lost = Arc::new(Mutex::new(Vec::new()));
    let (told, mut found) = (Arc::clone(&lost), Vec::new());
    let on_lost = Box::new(move |keys: &[EventKey]| told.lock().unwrap().extend_from_slice(keys));
    let visit = |record: Record<'_>| found.push((record.offset, record.payload.to_vec()));
    let (log, _) =
        LocalLog::on(disk.clone(), Options { sync, limits: LIMITS, metrics, on_lost, saved: i64::MIN }, visit).unwrap();
    (Arc::new(log), lost, found)
}

fn append(log: &Log, payloads: &[&str], key: Option<EventKey>) -> (i64, Ticket) {
    let mut framed = Vec::new();
    let mut appending = log.append();
    assert!(appending.has_room(100));
    let first = appending.next();
    for payload in payloads {
        framed.clear();
        frame::push_record(log.salt(), payload.as_bytes(), &mut framed);
        appending.push(&framed, key);
    }
    (first, appending.ticket())
}

fn writer(log: &Log) -> std::thread::JoinHandle<()> {
    let log = Arc::clone(log);
    std::thread::spawn(move || log.write())
}

async fn outcome(mut ticket: Ticket) -> Outcome {
    *ticket.wait_for(|outcome| *outcome != Outcome::Pending).await.unwrap()
}

fn read(log: &Log, from: i64) -> Vec<String> {
    let mut read = Vec::new();
    log.read(from, |record| {
        read.push(String::from_utf8_lossy(record.payload).into_owned());
        true
    })
    .unwrap();
    read
}

#[tokio::test]
async fn what_comes_during_a_sync_is_one_group_and_is_answered_when_it_is_readable() {
    let (log, _, _) = open(&Simulated::default(), Sync::Always);
    let (first, one) = append(&log, &["a", "b"], None);
    let (second, two) = append(&log, &["c"], None);
    assert_eq!((first, second, read(&log, 0).len()), (0, 2, 0), "nothing is written yet");
    let writing = writer(&log);
    assert_eq!((outcome(one).await, outcome(two).await), (Outcome::Durable, Outcome::Durable));
    assert_eq!((read(&log, 0), read(&log, 2)), (vec!["a".into(), "b".into(), "c".into()], vec!["c".to_owned()]));
    assert_eq!(log.metrics.log.groups.get(), 1);
    assert!(matches!(log.append().place(1), Place::Written), "what is in the log needs no waiting");
    log.end();
    writing.join().unwrap();
}

#[tokio::test]
async fn a_worker_gets_whole_groups() {
    let (log, _, _) = open(&Simulated::default(), Sync::Always);
    let large = "x".repeat(1 << 20);
    let (_, ticket) = append(&log, &[large.as_str(); 4], None);
    let writing = writer(&log);
    assert_eq!(outcome(ticket).await, Outcome::Durable);
    assert_eq!(outcome(append(&log, &["next"], None).1).await, Outcome::Durable);
    for (from, expected) in [(0, (4, 4)), (2, (2, 4)), (4, (1, 5)), (5, (0, 5))] {
        let (chunk, next) = crate::direct::partition::read(&log, from).unwrap();
        assert_eq!((chunk.records.len(), next), expected, "from {from}");
    }
    log.end();
    writing.join().unwrap();
}

#[tokio::test]
async fn a_group_that_fails_is_lost_with_what_came_behind_and_its_offsets_are_used_again() {
    let disk = Simulated::default();
    let (log, lost, _) = open(&disk, Sync::Always);
    let writing = writer(&log);
    assert_eq!(outcome(append(&log, &["kept"], None).1).await, Outcome::Durable);
    let key = KeyHasher::random().key("p", "gone");
    // Its write succeeds, its sync does not.
    disk.fail_after(1);
    assert_eq!(outcome(append(&log, &["gone"], Some(key)).1).await, Outcome::Lost);
    assert_eq!(*lost.lock().unwrap(), [key]);
    let (offset, ticket) = append(&log, &["next"], None);
    assert_eq!((offset, outcome(ticket).await), (1, Outcome::Durable));
    assert_eq!(read(&log, 0), ["kept", "next"]);
    log.end();
    writing.join().unwrap();
    let (_, _, found) = open(&disk, Sync::Always);
    assert_eq!(found, [(0, b"kept".to_vec()), (1, b"next".to_vec())]);
}

#[tokio::test]
async fn without_a_sync_nothing_is_readable_until_one_is_asked_for() {
    for sync in [Sync::Off, Sync::Interval] {
        let disk = Simulated::default();
        let (log, _, _) = open(&disk, sync);
        let mut synced = log.synced();
        let writing = writer(&log);
        assert_eq!(outcome(append(&log, &["a"], None).1).await, Outcome::Durable);
        log.request_sync();
        synced.wait_for(|synced| *synced == 1).await.unwrap();
        assert_eq!(read(&log, 0), ["a"]);
        log.end();
        writing.join().unwrap();
    }
}

#[tokio::test]
async fn many_append_at_once_and_every_record_has_one_place() {
    let (log, _, _) = open(&Simulated::default(), Sync::Always);
    let writing = writer(&log);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                (0..50)
                    .map(|n| (append(&log, &[&format!("{task}-{n}")], None), format!("{task}-{n}")))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut places = BTreeSet::new();
    for task in tasks {
        for ((offset, ticket), payload) in task.join().unwrap() {
            assert_eq!(outcome(ticket).await, Outcome::Durable);
            assert!(places.insert((offset, payload)));
        }
    }
    let read: BTreeSet<_> = (0..).zip(read(&log, 0)).collect();
    assert_eq!(read, places);
    log.end();
    writing.join().unwrap();
}

#[test]
fn what_is_committed_does_not_wait() {
    let disk = Simulated::default();
    let (log, _, _) = open(&disk, Sync::Always);
    append(&log, &["a", "b"], None);
    log.end();
    log.write();
    assert!(log.measure(0, None).bytes > 0 && log.is_full());
    log.commit(2, "an intent").unwrap();
    assert_eq!(log.measure(2, None).bytes, 0);
    assert!(!log.is_full());
    log.measure(2, Some(0));
    assert!(log.is_full(), "too old");
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    let (_, committed) = LocalLog::on(disk.clone(), options(&metrics, Sync::Always), |_| {}).unwrap();
    assert_eq!(committed.unwrap(), Committed { next: 2, metadata: "an intent".to_owned() });

    // The first commit lies in the second slot.
    disk.flip("commit", 8 * (8 << 10) + 1);
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    let (_, committed) = LocalLog::on(disk, options(&metrics, Sync::Always), |_| {}).unwrap();
    assert_eq!((committed, metrics.log.errors.get()), (None, 1), "told, for it may be damage");
}

/// How long a start takes with a gibibyte of events that are not stored: `cargo test --release -p tallyhouse-ingest -- --ignored a_gibibyte
/// --nocapture`.
#[test]
#[ignore = "writes a gibibyte to the disk, and measures"]
fn a_gibibyte_is_read_at_the_start() {
    use tallyhouse_schema::{Event, wire};

    const BYTES: u64 = 1 << 30;
    let path = std::env::temp_dir().join(format!("tallyhouse-log-{}", ulid::Ulid::generate()));
    std::fs::create_dir(&path).unwrap();
    let limits = Limits { bytes: 4 * BYTES, age: Duration::from_secs(3_600) };
    let open = |visit: &mut dyn FnMut(Record<'_>)| {
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        LocalLog::on(Folder::open(&path).unwrap(), Options { limits, ..options(&metrics, Sync::Off) }, visit).unwrap().0
    };
    let log = Arc::new(open(&mut |_| {}));
    let writer = log.start().unwrap();
    let (mut written, mut records, page) = (0, 0_u64, "/".repeat(150));
    while written < BYTES {
        let mut framed = Vec::new();
        let mut appending = log.append();
        for _ in 0..100 {
            let id = records.to_string();
            let event = Event {
                event_id: id.as_str().into(),
                event_type: "view".into(),
                page: page.as_str().into(),
                ..Event::default()
            };
            framed.clear();
            frame::write_record(log.salt(), &mut framed, |out| wire::encode("demo", &event, out));
            appending.push(&framed, None);
            (records, written) = (records + 1, written + framed.len() as u64);
        }
        let full = !appending.has_room(framed.len() * 200);
        drop(appending);
        if full {
            std::thread::yield_now();
        }
    }
    tokio::runtime::Runtime::new().unwrap().block_on(writer.end());
    drop(log);

    let (hasher, mut window) =
        (KeyHasher::random(), crate::window::Window::new(Duration::from_secs(86_400), 10_000_000));
    let started = Instant::now();
    let log = open(&mut |record| {
        let identity = wire::identity(record.payload).unwrap();
        window.insert(hasher.key(identity.project, identity.event_id), record.offset, 0);
    });
    println!("{records} events, {written} bytes: {:?}", started.elapsed());
    assert_eq!((window.ids() as u64, log.range().end as u64), (records, records));
    std::fs::remove_dir_all(&path).unwrap();
}

#[tokio::test]
async fn what_a_late_sync_loses_is_not_known_any_more() {
    let disk = Simulated::default();
    let (log, lost, _) = open(&disk, Sync::Off);
    let writer = log.start().unwrap();
    let key = KeyHasher::random().key("p", "gone");
    assert_eq!(outcome(append(&log, &["gone"], Some(key)).1).await, Outcome::Durable);
    disk.fail_after(0);
    log.request_sync();
    while lost.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*lost.lock().unwrap(), [key]);
    assert_eq!(log.losses(), 1, "it had been acknowledged");
    // Nothing is taken before its id is forgotten.
    while !log.append().has_room(1) {
        tokio::task::yield_now().await;
    }
    let (offset, ticket) = append(&log, &["next"], None);
    assert_eq!((offset, outcome(ticket).await), (0, Outcome::Durable));
    writer.end().await;
    assert_eq!(read(&log, 0), ["next"]);
}

#[tokio::test]
async fn a_write_that_fails_loses_nothing_that_was_written_before() {
    let disk = Simulated::default();
    let (log, lost, _) = open(&disk, Sync::Off);
    let writer = log.start().unwrap();
    let [kept, gone] = ["kept", "gone"].map(|id| KeyHasher::random().key("p", id));
    assert_eq!(outcome(append(&log, &["kept"], Some(kept)).1).await, Outcome::Durable);
    disk.fail_after(0);
    assert_eq!(outcome(append(&log, &["gone"], Some(gone)).1).await, Outcome::Lost);
    assert_eq!((lost.lock().unwrap().as_slice(), log.losses()), (&[gone][..], 0));
    writer.end().await;
    assert_eq!(read(&log, 0), ["kept"]);
}

#[tokio::test]
async fn what_the_disk_cannot_read_costs_no_more_than_its_page() {
    let disk = Simulated::default();
    let (log, _, _) = open(&disk, Sync::Always);
    let writer = log.start().unwrap();
    let page = "x".repeat(4 << 10);
    for _ in 0..8 {
        assert_eq!(outcome(append(&log, &[&page], None).1).await, Outcome::Durable);
    }
    writer.end().await;
    let name = disk.a_segment(&mut rand::SeedableRng::seed_from_u64(1)).unwrap().0;
    disk.make_unreadable(&name, 3 * (4 << 10) + 100);
    let mut found = Vec::new();
    let progress = log.read(0, |record| {
        found.push(record.offset);
        true
    });
    // A page holds the end of a group, and the beginning of the next one.
    assert_eq!((progress.unwrap().next, found), (8, vec![0, 1, 4, 5, 6, 7]));
    let (_, _, found) = open(&disk, Sync::Always);
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 4, 5, 6, 7], "nor a start");
}

#[tokio::test]
async fn the_next_segment_is_made_before_it_is_needed() {
    let disk = Simulated::default();
    let (log, _, _) = open(&disk, Sync::Always);
    let writer = log.start().unwrap();
    let files = |what: &str| disk.list().unwrap().iter().filter(|name| name.contains(what)).count();
    let payload = "x".repeat(usize::try_from(LIMITS.segment_bytes() / 8).unwrap());
    for n in 0..8 {
        log.prepare().unwrap();
        assert_eq!((files("spare"), files(".log")), (usize::from((4..8).contains(&n)), n.min(1)), "{n}");
        assert_eq!(outcome(append(&log, &[&payload], None).1).await, Outcome::Durable);
    }
    assert_eq!((files("spare"), files(".log")), (0, 2));
    writer.end().await;
    assert_eq!(open(&disk, Sync::Always).2.len(), 8);
}

#[tokio::test]
async fn a_writer_that_panics_keeps_nobody_waiting_and_nothing_is_taken_any_more() {
    let disk = Simulated::default();
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    let on_lost = Box::new(|_: &[EventKey]| panic!("a fault of ours"));
    let options = Options { sync: Sync::Always, limits: LIMITS, metrics, on_lost, saved: i64::MIN };
    let log = Arc::new(LocalLog::on(disk.clone(), options, |_| {}).unwrap().0);
    let writer = log.start().unwrap();
    disk.fail_after(0);
    let (_, mut ticket) = append(&log, &["gone"], None);
    // The panic ends it.
    assert!(!matches!(ticket.wait_for(|outcome| *outcome != Outcome::Pending).await.as_deref(), Ok(Outcome::Durable)));
    while !log.has_failed() {
        tokio::task::yield_now().await;
    }
    assert!(!log.append().has_room(1));
    writer.end().await;
}
