//! Tightens rate limits when the service can hardly take more: by memory for bodies, room in the local log, and room on its disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::rate_limit::Stress;

use crate::log::local::Limits;
use crate::pipeline::Pipeline;

const EVERY: Duration = Duration::from_secs(1);

/// Never ends.
pub(super) async fn watch(pipeline: Arc<Pipeline>, folder: PathBuf, log: Limits) {
    loop {
        // Unknown is enough.
        let free = rustix::fs::statvfs(&folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let usage = Usage {
            bodies: part(pipeline.budget.reserved() as u64, pipeline.limits.open_bytes as u64),
            log: part(pipeline.metrics().log.waiting_bytes(), log.bytes),
            disk: of_disk(free, log),
        };
        pipeline.rate_limits.set_stress(usage.stress());
        tokio::time::sleep(EVERY).await;
    }
}

/// Which part of what there is is in use, 0 to 1.
#[derive(Debug, Clone, Copy)]
struct Usage {
    bodies: f64,
    log: f64,
    /// See [`of_disk`].
    disk: f64,
}

impl Usage {
    fn stress(self) -> Stress {
        Stress::of(self.bodies.max(self.log).max(self.disk))
    }
}

/// 1 when the log has no more room on its disk, 0 when it has room for twice as much as may wait in it.
fn of_disk(free: u64, log: Limits) -> f64 {
    let room = free.saturating_sub(log.reserved_bytes());
    1.0 - part(room, log.bytes.saturating_mul(2)).min(1.0)
}

fn part(used: u64, all: u64) -> f64 {
    used as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_of_all_decides() {
        let of = |bodies, log, disk| Usage { bodies, log, disk }.stress();
        assert_eq!(of(0.7, 0.1, 0.0), Stress::Calm);
        assert_eq!(of(0.0, 0.8, 0.0), Stress::High);
        assert_eq!(of(0.0, 0.8, 0.95), Stress::Severe);
    }

    #[test]
    fn limits_tighten_before_the_log_finds_no_room_on_its_disk() {
        for bytes in [1 << 20, 1 << 30, 1 << 36] {
            let log = Limits { bytes, age: Duration::from_secs(1) };
            let of = |room: u64| Stress::of(of_disk(log.reserved_bytes() + room, log));
            assert_eq!((of(bytes), of(bytes / 2), of(bytes / 5)), (Stress::Calm, Stress::High, Stress::Severe));
            assert_eq!((of(0), of(u64::MAX / 2)), (Stress::Severe, Stress::Calm));
        }
    }
}
