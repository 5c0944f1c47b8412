//! What an event goes through in the ingester, without HTTP, disk and ClickHouse: the parts of `pipeline`, `direct/append` and
//! `worker/batch`, one after the other.

use tallyhouse_ingest::agent::Agents;
use tallyhouse_ingest::batch::Builder;
use tallyhouse_ingest::cardinality::CardinalityLimiter;
use tallyhouse_ingest::decode;
use tallyhouse_ingest::event_key::{EventKey, KeyHasher};
use tallyhouse_ingest::log::local::frame;
use tallyhouse_schema::body::{self, Decoded, Layout};
use tallyhouse_schema::normalise::{Context, ProjectRules};
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::{Catalogue, wire};

const NOW: i64 = 1_800_000_000_000;
const SALT: u32 = 7;
const PROJECT: &str = "shop";

const USER_AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
];
const COUNTRIES: [&str; 5] = ["DE", "FR", "US", "BR", "IN"];
const EVENT_TYPES: [&str; 4] = ["page_view", "click", "add_to_cart", "checkout"];

fn of<T: Copy + Default>(all: &[T], n: usize) -> T {
    all.get(n % all.len()).copied().unwrap_or_default()
}

/// An event as a web shop sends it: eight properties, an address, a user agent and a country.
pub(crate) fn event(n: usize) -> String {
    format!(
        concat!(
            r#"{{"eventId":"7c9e6679-7425-40de-944b-{n:012x}","eventType":"{kind}","userId":"user-{user:05}","sessionId":"s-{user:08x}","#,
            r#""timestamp":"2027-01-15T07:59:58.123Z","properties":{{"path":"/products/{n}","title":"Winter jacket, blue","referrer":"newsletter","#,
            r#""plan":"standard","value":{cents}.25,"currency":"EUR","duration_ms":{n},"is_member":true}},"#,
            r#""context":{{"ip":"203.0.113.{octet}","userAgent":"{agent}","country":"{country}","locale":"de-DE"}}}}"#
        ),
        n = n,
        kind = of(&EVENT_TYPES, n),
        user = n % 1_000,
        cents = n % 400,
        octet = n % 250 + 1,
        agent = of(&USER_AGENTS, n),
        country = of(&COUNTRIES, n),
    )
}

/// A body of so many events, and different ones for each `round`.
pub(crate) fn body(round: usize, events: usize) -> Vec<u8> {
    let events: Vec<String> = (0..events).map(|n| event(round * events + n)).collect();
    format!("[{}]", events.join(",")).into_bytes()
}

/// A schema of twenty properties, and events of that type.
pub(crate) mod schema {
    /// Types, bounds, lengths, a pattern, formats and an enumeration, as schemas of orders have them.
    pub(crate) const DOCUMENT: &str = r#"{"eventType":"order","schema":{"required":["order_id","amount","currency","customer"],"properties":{
        "order_id":{"type":"string","format":"uuid"},"amount":{"type":"number","minimum":0},"currency":{"enum":["EUR","USD","GBP"]},
        "coupon":{"type":["string","null"],"pattern":"^[A-Z0-9-]{4,12}$"},"items":{"type":"integer","minimum":1,"maximum":1000},
        "express":{"type":"boolean"},"shipped_at":{"type":"string","format":"date-time"},"channel":{"enum":["web","app","store"]},
        "campaign":{"type":"string","maxLength":64},"discount":{"type":"number","minimum":0,"maximum":1},"tax":{"type":"number","minimum":0},
        "payment":{"type":"string","minLength":2,"maxLength":32},"is_gift":{"type":"boolean"},"warehouse":{"type":"string","pattern":"^W[0-9]+$"},
        "weight":{"type":"number","exclusiveMinimum":0},"note":{"type":"string","maxLength":200},"language":{"type":"string","minLength":2},
        "customer":{"type":"object","required":["tier"],"properties":{"tier":{"enum":["new","silver","gold"]},"since":{"type":"string","format":"date"},
        "orders":{"type":"integer","minimum":0}}}}}}"#;

    /// The same declaration without a schema.
    pub(crate) const NONE: &str = r#"{"eventType":"order"}"#;

    pub(crate) fn event(n: usize) -> String {
        format!(
            concat!(
                r#"{{"eventId":"7c9e6679-7425-40de-944b-{n:012x}","eventType":"order","userId":"user-{n:05}","sessionId":"s-{n:08x}","#,
                r#""timestamp":"2027-01-15T07:59:58.123Z","properties":{{"order_id":"7c9e6679-7425-40de-944b-{n:012x}","amount":{n}.25,"currency":"EUR","#,
                r#""coupon":"WINTER-{n}","items":3,"express":true,"shipped_at":"2027-01-15T09:00:00Z","channel":"web","campaign":"newsletter","discount":0.15,"#,
                r#""tax":4.2,"payment":"card","is_gift":false,"warehouse":"W{n}","weight":1.75,"note":"Leave it at the door","language":"de-DE","#,
                r#""customer":{{"tier":"gold","since":"2020-02-29","orders":17}}}},"context":{{"ip":"203.0.113.7","userAgent":"{agent}","country":"DE"}}}}"#
            ),
            n = n,
            agent = super::of(&super::USER_AGENTS, n),
        )
    }

    pub(crate) fn body(events: usize) -> Vec<u8> {
        let events: Vec<String> = (0..events).map(event).collect();
        format!("[{}]", events.join(",")).into_bytes()
    }
}

/// What a process has, and what one request's events are written as.
pub(crate) struct HotPath {
    catalogue: Catalogue,
    rules: ProjectRules,
    users: UserHasher,
    keys: KeyHasher,
    agents: Agents,
    cardinality: CardinalityLimiter,
}

/// Records as they are in the local log, one after the other.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<usize>,
    pub(crate) keys: Vec<EventKey>,
}

impl Records {
    /// Room for so many, so that what is measured is the events'.
    pub(crate) fn for_events(events: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(events * 1_024),
            ends: Vec::with_capacity(events),
            keys: Vec::with_capacity(events),
        }
    }
}

impl Default for HotPath {
    fn default() -> Self {
        Self {
            catalogue: Catalogue::default(),
            rules: ProjectRules {
                project: PROJECT.to_owned(),
                late_window_days: 7,
                retention_days: 730,
                may_import: false,
            },
            users: UserHasher::new([1; 16]),
            keys: KeyHasher::random(),
            agents: Agents::default(),
            cardinality: CardinalityLimiter::default(),
        }
    }
}

impl HotPath {
    /// One with a declaration.
    pub(crate) fn declaring(document: &str) -> Self {
        Self { catalogue: Catalogue::from_documents([document]).expect("it can be used"), ..Self::default() }
    }

    /// Bytes of a body -> records.
    pub(crate) fn take(&self, body: &[u8], out: &mut Records) {
        let Ok(Decoded::Clean(text)) = body::decode(body) else { panic!("the body is text") };
        let agent = |user_agent: &str| self.agents.read(user_agent);
        let new_id = || unreachable!("each event has an id");
        let context = Context {
            catalogue: &self.catalogue,
            rules: &self.rules,
            hasher: &self.users,
            agent: &agent,
            new_id: &new_id,
            received_at: NOW,
        };
        let read = decode::events(&text, Layout::Json, context).expect("it is JSON");
        assert!(read.refusals.is_empty() && read.warnings.is_empty());
        let mut events = read.events;
        self.cardinality.apply(PROJECT, 1_000, |_| false, &mut events, |_| panic!("there are few values"));
        for event in &events {
            frame::write_record(SALT, &mut out.bytes, |out| wire::encode(PROJECT, event, out));
            out.ends.push(out.bytes.len());
            out.keys.push(self.keys.key(PROJECT, &event.event_id));
        }
    }

    /// Records -> columns.
    pub(crate) fn store(&self, records: &Records) -> Builder {
        let mut builder = Builder::default();
        let mut start = 0;
        for end in &records.ends {
            let payload = records.bytes.get(start + frame::RECORD_HEADER..*end).unwrap_or_default();
            let record = wire::decode(payload).expect("it was just written");
            builder.push(record.project, &record.event);
            start = *end;
        }
        builder
    }
}
