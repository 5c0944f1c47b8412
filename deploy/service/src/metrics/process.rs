//! What this process takes of its machine, under the names that every exporter uses, read from `/proc` when somebody looks. Where there is no
//! `/proc`, and for each value that cannot be read, there is no series.
//!
//! The embedded ClickHouse is a process of its own: its memory is `tallyhouse_clickhouse_memory_bytes`.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use super::registry::{Description, Kind, Registry};

/// `process_*`.
struct Process {
    cpu: Counter,
    gauges: [(Gauge, Read); 7],
    descs: Vec<Desc>,
}

const CPU: (&str, &str) = ("process_cpu_seconds_total", "Processor time that the process took, user and system");

type Read = fn(&Reading) -> Option<f64>;

const GAUGES: [(&str, &str, Read); 7] = [
    ("process_resident_memory_bytes", "Resident memory of the process", |now| now.resident),
    ("process_virtual_memory_bytes", "Virtual memory of the process", |now| now.virtual_memory),
    ("process_open_fds", "Open file descriptors of the process", |now| now.open_fds),
    ("process_max_fds", "File descriptors that the process may open", |now| now.max_fds),
    ("process_threads", "Threads of the process", |now| now.threads),
    ("process_start_time_seconds", "When the process began, in seconds since 1970", |now| now.started),
    ("process_cpu_cores", "Processors that the process may use", |_| {
        Some(std::thread::available_parallelism().ok()?.get() as f64)
    }),
];

/// Registers them.
pub(super) fn register(registry: &Registry) -> prometheus::Result<()> {
    let cpu = Counter::new(CPU.0, CPU.1)?;
    let mut gauges = Vec::with_capacity(GAUGES.len());
    for (name, help, read) in GAUGES {
        gauges.push((Gauge::new(name, help)?, read));
    }
    let descs = cpu.desc().into_iter().chain(gauges.iter().flat_map(|(gauge, _)| gauge.desc())).cloned().collect();
    let Ok(gauges) = gauges.try_into() else { return Ok(()) };
    let descriptions = GAUGES.map(|(name, help, _)| Description::new(name, Kind::Gauge, help, &[]));
    let cpu_description = Description::new(CPU.0, Kind::Counter, CPU.1, &[]);
    registry.collect_from(Process { cpu, gauges, descs }, [cpu_description].into_iter().chain(descriptions))
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = Reading::now();
        let mut families = Vec::new();
        if let Some(seconds) = now.cpu {
            // Two that look at once add no more than what passed between them.
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
            families.extend(self.cpu.collect());
        }
        for (gauge, read) in &self.gauges {
            if let Some(value) = read(&now) {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

/// What `/proc` says at a moment.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    cpu: Option<f64>,
    resident: Option<f64>,
    virtual_memory: Option<f64>,
    threads: Option<f64>,
    started: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
}

/// Columns of `/proc/self/stat` after the name of the program (proc(5)).
mod column {
    pub(super) const USER_TICKS: usize = 11;
    pub(super) const SYSTEM_TICKS: usize = 12;
    pub(super) const THREADS: usize = 17;
    pub(super) const START_TICKS: usize = 19;
    pub(super) const VIRTUAL_BYTES: usize = 20;
    pub(super) const RESIDENT_PAGES: usize = 21;
}

impl Reading {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let booted = fs::read_to_string("/proc/stat").ok().and_then(|text| booted(&text));
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let mut reading = Self::of_stat(&stat, booted, ticks, rustix::param::page_size() as f64);
        // The descriptor of the listing itself is not one of the process.
        reading.open_fds = fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as f64);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        reading.max_fds = limit.current.map(|limit| limit as f64);
        reading
    }

    fn of_stat(stat: &str, booted: Option<f64>, ticks: f64, page: f64) -> Self {
        // The name may hold anything, also brackets and blanks.
        let Some((_, rest)) = stat.rsplit_once(") ") else { return Self::default() };
        let columns: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |column: usize| columns.get(column)?.parse::<f64>().ok();
        let cpu = number(column::USER_TICKS).zip(number(column::SYSTEM_TICKS));
        Self {
            cpu: cpu.map(|(user, system)| (user + system) / ticks),
            resident: number(column::RESIDENT_PAGES).map(|pages| pages * page),
            virtual_memory: number(column::VIRTUAL_BYTES),
            threads: number(column::THREADS),
            started: number(column::START_TICKS).zip(booted).map(|(after, booted)| booted + after / ticks),
            ..Self::default()
        }
    }
}

/// When the machine started, of `/proc/stat`.
fn booted(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted_after_a_name_that_may_hold_anything() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1000 4096000 25 18446744073709551615";
        let read = Reading::of_stat(stat, Some(5_000.0), 100.0, 4_096.0);
        let expected = Reading {
            cpu: Some(3.0),
            resident: Some(25.0 * 4_096.0),
            virtual_memory: Some(4_096_000.0),
            threads: Some(9.0),
            started: Some(5_010.0),
            ..Reading::default()
        };
        assert_eq!(read, expected);
        assert_eq!(Reading::of_stat("", Some(1.0), 100.0, 4_096.0), Reading::default());
        assert_eq!(booted("cpu 1 2\nbtime 1764000000\nprocesses 5\n"), Some(1_764_000_000.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen_and_a_file_more_is_counted() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let value = |name: &str| {
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no {name}"));
            let metric = &family.get_metric()[0];
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        for (name, ..) in GAUGES {
            assert!(value(name) > 0.0, "{name}");
        }
        let (before, began) = (value("process_open_fds"), value(CPU.0));
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        // Other tests open and close files meanwhile.
        assert!(value("process_open_fds") > before + 5.0);
        drop(files);
        let mut sum = 0_u64;
        while value(CPU.0) <= began {
            sum = (0..1_000_000_u64).fold(sum, |sum, number| sum.wrapping_mul(31).wrapping_add(number));
        }
        assert_ne!(sum, 1);
    }
}
