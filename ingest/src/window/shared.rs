//! The windows of all partitions of a process, under one bound.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Window;
use crate::limits::DedupLimits;

/// Ids that [`Windows`] takes from a window before it looks which one is the largest.
const TRIMMED: usize = 1_024;

/// The windows of all partitions of a process, under one bound.
#[derive(Debug)]
pub struct Windows {
    limits: DedupLimits,
    all: Mutex<Vec<Weak<Mutex<Window>>>>,
}

impl Windows {
    pub fn new(limits: DedupLimits) -> Self {
        Self { limits, all: Mutex::default() }
    }

    pub fn limits(&self) -> DedupLimits {
        self.limits
    }

    /// A window, which counts for as long as somebody has it.
    pub fn add(&self) -> Arc<Mutex<Window>> {
        let window = Arc::new(Mutex::new(Window::new(self.limits.window, self.limits.ids)));
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|window| window.strong_count() > 0);
        all.push(Arc::downgrade(&window));
        window
    }

    /// Forgets ids while there are too many in all windows together. Nobody who calls it holds a window.
    pub fn trim(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let windows: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
        drop(all);
        let mut ids: usize = windows.iter().map(|window| locked(window).ids()).sum();
        while ids > self.limits.ids
            && let Some(largest) = windows.iter().max_by_key(|window| locked(window).largest())
        {
            let mut window = locked(largest);
            let before = window.ids();
            window.forget_some((ids - self.limits.ids).min(TRIMMED));
            ids -= before - window.ids();
            if before == window.ids() {
                return;
            }
        }
    }
}

/// A window that others may look at.
pub fn locked(window: &Mutex<Window>) -> MutexGuard<'_, Window> {
    window.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event_key::KeyHasher;

    #[test]
    fn windows_share_one_bound_by_what_they_use() {
        let limits = DedupLimits { window: Duration::from_secs(86_400), ids: 1_000 };
        let (hasher, windows) = (KeyHasher::random(), Windows::new(limits));
        let idle: Vec<_> = (0..100).map(|_| windows.add()).collect();
        let (loud, quiet) = (windows.add(), windows.add());
        let put = |window: &Mutex<Window>, project: &str, ids: std::ops::Range<i64>| {
            ids.for_each(|n| locked(window).insert(hasher.key(project, &n.to_string()), n, n));
            windows.trim();
        };
        put(&quiet, "quiet", 0..100);
        put(&loud, "loud", 0..700);
        assert_eq!((locked(&quiet).ids(), locked(&loud).ids()), (100, 700), "idle ones cost nothing");
        put(&loud, "loud", 700..2_000);
        assert_eq!((locked(&quiet).ids(), locked(&loud).ids()), (100, 900));
        drop(loud);
        put(&idle[0], "late", 0..900);
        assert_eq!((locked(&quiet).ids(), locked(&idle[0]).ids()), (100, 900), "what went counts no more");
    }
}
