//! The demo feed sent again on another day: each flight is counted once, at the time at which it lands.

use jiff::{SignedDuration, Timestamp};
use tallyhouse_loadtest::chart::ChartConfig;
use tallyhouse_loadtest::client::{ClientConfig, Until};
use tallyhouse_loadtest::feed::{self, Feed, FeedConfig, FeedOrder, FeedPlan, TimeShift};

use tallyhouse_testkit::ingest_service::{self, count, everywhere};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, Folder, eventually, new_project};

const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,\
    origin,dest,air_time,distance,hour,minute,time_hour";

/// A row of a flight that is scheduled some years of 365 days before `lands`.
fn row(lands: Timestamp) -> String {
    let scheduled = lands.checked_sub(SignedDuration::from_hours(13 * 365 * 24)).unwrap();
    let minute = scheduled.as_second().div_euclid(60).rem_euclid(60);
    let hour = scheduled.checked_sub(SignedDuration::from_mins(minute)).unwrap();
    format!("2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,{minute},{hour}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_of_the_next_day_sends_only_what_is_new() {
    let (engine, data, project) = (support::engine().await, Folder::create(), new_project());
    let ingest = ingest_service::Service::start(engine.writer(), &data, &project).await;
    let settings = Settings { days: Some(ingest.days.clone()), ..Settings::of(engine.reader()) };
    let query = Service::start_with(settings, &[&project]).await;
    let minute = Timestamp::from_second(Timestamp::now().as_second() / 60 * 60).unwrap();
    let hours = |hours| SignedDuration::from_hours(hours);
    let first = minute - hours(48);
    let lands = [first - hours(200 * 24), first - hours(240), first - hours(1), first + hours(12)];
    let csv = data.path().join("flights.csv");
    std::fs::write(&csv, format!("{HEADER}\n{}\n", lands.map(row).join("\n"))).unwrap();

    let feed = async |until: Timestamp, fed: Option<Timestamp>| {
        let (from, to) = (until - hours(365 * 24), until + SignedDuration::from_mins(1));
        let chart = ChartConfig { url: query.url().to_owned(), key: project.clone(), from, to };
        // A second after an event is stored, answers have it.
        eventually("what is fed is known", async || feed::resume::newest(&chart).await.unwrap() == fed).await;
        let config = FeedConfig {
            flights: csv.clone(),
            time_shift: TimeShift::Yearly { until, fed },
            id_prefix: String::new(),
            plan: FeedPlan { order: FeedOrder::Time, batch: 100, repeat_percent: 0 },
            concurrency: 1,
            client: ClientConfig {
                key: format!("import-{project}"),
                until: Until::Stored,
                ..ClientConfig::development(ingest.url.trim_end_matches("/v1/events"))
            },
        };
        let summary = feed::run(&Feed::prepare(&config).unwrap(), &config, |_, _| {}).await.unwrap();
        assert_eq!(summary.accepted, summary.sent, "{summary}");
        summary.sent
    };
    assert_eq!(feed(first, None).await, 4, "the last one lands a year before its day");
    assert_eq!(feed(first + hours(24), Some(lands[2])).await, 1, "and then on its day");
    assert_eq!(feed(first + hours(24), Some(lands[3])).await, 0, "already fed");
    // Minutes of the oldest two are no longer kept.
    let [events, _, hours, days] = everywhere(&engine.writer(), &project).await;
    assert_eq!([events, hours, days], [5; 3]);
    let ids = "SELECT uniqExact(event_id) FROM events WHERE project_id = {project:String}";
    assert_eq!(count(&engine.writer(), &project, ids).await, 5, "the same flight at another time has another id");
    query.stop().await;
    ingest.stop().await;
}
