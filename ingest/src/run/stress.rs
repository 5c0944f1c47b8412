//! Tightens rate limits when the service can hardly take more: by memory for bodies, room in the local log, and room on its disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::rate_limit::Stress;

use crate::pipeline::Pipeline;

const EVERY: Duration = Duration::from_secs(1);

/// Never ends.
pub(super) async fn watch(pipeline: Arc<Pipeline>, folder: PathBuf, spool_bytes: u64) {
    loop {
        // Unknown is enough.
        let free = rustix::fs::statvfs(&folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let usage = Usage {
            bodies: part(pipeline.budget.reserved() as u64, pipeline.limits.open_bytes as u64),
            log: part(pipeline.metrics().log.waiting_bytes(), spool_bytes),
            disk: 1.0 - part(free, spool_bytes.saturating_mul(2)).min(1.0),
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
    /// 1 when nothing is free, 0 when twice as much is as may wait in the log.
    disk: f64,
}

impl Usage {
    fn stress(self) -> Stress {
        Stress::of(self.bodies.max(self.log).max(self.disk))
    }
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
}
