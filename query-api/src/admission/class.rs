//! The classes of queries and the limits of each: slots, queue, time and resources of ClickHouse.

use std::time::Duration;

use tokio::time::Instant;

/// How urgent a question is. The order is that of importance under stress: what comes later is refused first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Series and reports from the rollups. Refused last: what people look at.
    Dashboard,
    /// The last minutes. Cheap, asked every second, and a value of a moment ago is as good.
    Realtime,
    /// Ticks of streams. Each is asked again within seconds, by as many as there are streams: they must not queue before panels.
    Stream,
    /// Raw events, SQL, funnels: each may take as long as a thousand dashboards. Refused first.
    AdHoc,
}

impl Class {
    /// All of them, the last to be refused first.
    pub const ALL: [Self; 4] = [Self::Dashboard, Self::Realtime, Self::Stream, Self::AdHoc];

    /// As in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dashboard => "dashboard",
            Self::Realtime => "realtime",
            Self::Stream => "stream",
            Self::AdHoc => "ad_hoc",
        }
    }
}

/// A request for a query permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionRequest {
    /// How urgent it is.
    pub class: Class,
    /// The project. Projects are served in turn.
    pub project: String,
    /// When whoever asks no longer waits; `None` for work that nobody waits for. The deadline of the class holds all the same.
    pub deadline: Option<Instant>,
}

/// What a class may take in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Queries at once.
    pub concurrency: usize,
    /// Questions that may wait.
    pub queue: usize,
    /// From the question to the answer: waiting and running.
    pub deadline: Duration,
}

impl Limits {
    /// Questions of one project that may wait: half of the queue, so that one project alone is served well and two are
    /// never in each other's way.
    pub const fn share(&self) -> usize {
        self.queue.div_ceil(2)
    }

    /// Slots that one project may hold: all but one, so that another project that comes finds one, however long the first one's
    /// queries take. A query that runs cannot be asked to leave.
    pub const fn slots_of_project(&self) -> usize {
        if self.concurrency > 1 { self.concurrency - 1 } else { 1 }
    }

    /// The longest wait: half of the deadline, so that whoever gets a permit has at least as long to run.
    pub fn longest_wait(&self) -> Duration {
        self.deadline / 2
    }
}

/// The limits of every class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Of [`Class::Realtime`].
    pub realtime: Limits,
    /// Of [`Class::Dashboard`].
    pub dashboard: Limits,
    /// Of [`Class::Stream`].
    pub stream: Limits,
    /// Of [`Class::AdHoc`].
    pub ad_hoc: Limits,
}

impl Policy {
    /// Limits for `total` queries at once over all classes: a fifth ad hoc and a fifth real-time, a tenth for streams, the rest
    /// dashboards, and at least one each. Ad hoc has two where there are three in all, so that a statement of one project is not
    /// waited for by all others. No class lends its slots: a query that runs cannot be asked to leave.
    ///
    /// The lengths of the queues are chosen, not measured: at 50 ms a dashboard and 8 ms a real-time question, the slots
    /// of the default total empty them within the longest wait. That of ad hoc holds people, who would rather wait than
    /// ask again.
    pub fn for_total(total: usize) -> Self {
        let ad_hoc = (total / 5).max(if total > 2 { 2 } else { 1 });
        let (realtime, stream) = ((total / 5).max(1), (total / 10).max(1));
        let dashboard = total.saturating_sub(ad_hoc + realtime + stream).max(1);
        let limits =
            |concurrency, queue, seconds| Limits { concurrency, queue, deadline: Duration::from_secs(seconds) };
        Self {
            realtime: limits(realtime, 256, 2),
            dashboard: limits(dashboard, 512, 10),
            stream: limits(stream, 256, 10),
            ad_hoc: limits(ad_hoc, 256, 30),
        }
    }

    /// The limits of a class.
    pub const fn of(&self, class: Class) -> &Limits {
        match class {
            Class::Realtime => &self.realtime,
            Class::Dashboard => &self.dashboard,
            Class::Stream => &self.stream,
            Class::AdHoc => &self.ad_hoc,
        }
    }
}

/// The shortest limit that ClickHouse's profile `reader` takes, and the longest that a query of ours is given, in seconds.
const EXECUTION_TIME: (u64, u64) = (1, 30);

/// What ClickHouse is told about a query that has `remaining` left. Our own clock stops it to the millisecond;
/// `max_execution_time` is for the case that we are gone, so it is rounded up.
///
/// With `wait_end_of_query` an error cannot arrive in the middle of an answer, and the summary of what was read is whole.
pub(super) fn settings(class: Class, remaining: Duration) -> Vec<(&'static str, String)> {
    let (least, most) = EXECUTION_TIME;
    let seconds = (remaining.as_secs() + u64::from(remaining.subsec_nanos() > 0)).clamp(least, most);
    let common = [
        ("max_execution_time", seconds.to_string()),
        ("max_result_rows", MAX_RESULT_ROWS.to_string()),
        ("max_result_bytes", MAX_RESULT_BYTES.to_string()),
        ("result_overflow_mode", "throw".to_owned()),
        ("wait_end_of_query", "1".to_owned()),
        ("cancel_http_readonly_queries_on_client_close", "1".to_owned()),
    ];
    let of_class = work(class).iter().map(|(name, value)| (*name, (*value).to_owned()));
    common.into_iter().chain(of_class).collect()
}

/// Rows of an answer.
pub const MAX_RESULT_ROWS: u64 = 500_000;

/// Bytes of an answer.
const MAX_RESULT_BYTES: u64 = 100 << 20;

/// How long a query gives way to more important ones before each of its blocks, in milliseconds. The default of a second would
/// starve ad hoc beside dashboards that never pause, and while it waits a query does not notice a KILL.
const STEP: (&str, &str) = ("low_priority_query_wait_time_ms", "50");

/// What ClickHouse may spend on a query of a class.
///
/// What keeps ad hoc from slowing dashboards, tried on ClickHouse 26.7 with two cores: p50 of a dashboard query of 30 ms
/// beside one endless ad hoc query, ten rounds each.
///
/// | set | p50 |
/// |---|---|
/// | nothing | 52 ms |
/// | `max_threads` = 1 | 58 ms |
/// | `priority` | 39 ms |
/// | `priority`, `max_threads` | 34 ms |
/// | `os_thread_priority` = 19 | 33 ms |
/// | all three | 29 ms |
///
/// `os_thread_priority` works only where ClickHouse has the capability `CAP_SYS_NICE` and is ignored elsewhere, hence the
/// others; at 10 rather than 19 a query still has time to notice a KILL while all cores are busy. Small blocks let it give
/// way, and stop, sooner.
const fn work(class: Class) -> &'static [(&'static str, &'static str)] {
    match class {
        Class::Realtime => {
            &[("priority", "1"), STEP, ("max_memory_usage", "536870912"), ("max_rows_to_read", "100000000")]
        }
        Class::Dashboard => {
            &[("priority", "2"), STEP, ("max_memory_usage", "1073741824"), ("max_rows_to_read", "500000000")]
        }
        Class::Stream => &[
            ("priority", "3"),
            STEP,
            ("max_threads", "1"),
            ("max_memory_usage", "1073741824"),
            ("max_rows_to_read", "500000000"),
        ],
        Class::AdHoc => &[
            ("priority", "3"),
            STEP,
            ("os_thread_priority", "10"),
            ("max_threads", "1"),
            ("max_block_size", "8192"),
            ("max_memory_usage", "2147483648"),
            ("max_rows_to_read", "1000000000"),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_split_and_nobody_is_left_without() {
        let split = |total| Class::ALL.map(|class| Policy::for_total(total).of(class).concurrency);
        assert_eq!(split(10), [5, 2, 1, 2]);
        assert_eq!(split(8), [4, 1, 1, 2]);
        assert_eq!(split(64), [34, 12, 6, 12]);
        assert_eq!(split(1), [1, 1, 1, 1]);
    }

    #[test]
    fn one_project_leaves_a_slot_to_others_where_there_are_two() {
        let of_project =
            |concurrency| Limits { concurrency, queue: 2, deadline: Duration::from_secs(1) }.slots_of_project();
        assert_eq!([1, 2, 5].map(of_project), [1, 1, 4]);
    }

    #[test]
    fn clickhouse_is_told_what_remains_in_whole_seconds_it_accepts() {
        let told = |millis| {
            let settings = settings(Class::Dashboard, Duration::from_millis(millis));
            settings.into_iter().find(|(name, _)| *name == "max_execution_time").unwrap().1
        };
        assert_eq!([told(0), told(1_000), told(1_001), told(90_000)], ["1", "1", "2", "30"]);
    }

    #[test]
    fn no_setting_is_sent_twice() {
        for class in Class::ALL {
            let mut names: Vec<_> = settings(class, Duration::ZERO).into_iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            let sent = names.len();
            names.dedup();
            assert_eq!(names.len(), sent, "{class:?}");
        }
    }
}
