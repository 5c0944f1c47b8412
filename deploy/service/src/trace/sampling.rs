//! Which traces are recorded whatever comes of them: a share of all, by their id, so that each service decides alike; and some of those that
//! callers ask for.

use super::Trace;
use crate::per_second::PerSecond;

/// Traces that callers may have recorded by their flag `sampled`, in a second. The others are recorded as those that nobody asked for:
/// no caller can have everything recorded.
const ASKED_A_SECOND: u32 = 10;

/// What is recorded.
#[derive(Debug)]
pub struct Sampling {
    /// Traces whose id, its last 63 bits, is below it: as the samplers of OpenTelemetry decide.
    below: u64,
    asked: PerSecond,
}

impl Sampling {
    /// `share`: from 0 to 1.
    pub fn new(share: f64) -> Self {
        let below = (share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
        Self { below, asked: PerSecond::at_most(ASKED_A_SECOND) }
    }

    /// Whether a trace is recorded that somebody outside may have asked to be.
    pub(super) fn takes(&self, trace: Trace) -> bool {
        self.is_of_the_share(trace) || (trace.is_sampled() && self.asked.takes())
    }

    fn is_of_the_share(&self, trace: Trace) -> bool {
        (trace.trace as u64) >> 1 < self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_by_id_and_everywhere_the_same() {
        let (one, other) = (Sampling::new(0.01), Sampling::new(0.01));
        let traces: Vec<Trace> = (0..100_000).map(|_| Trace::begin()).collect();
        let taken = traces.iter().filter(|trace| one.is_of_the_share(**trace)).count();
        assert!((700..1_300).contains(&taken), "{taken}");
        assert!(traces.iter().all(|trace| one.is_of_the_share(*trace) == other.is_of_the_share(trace.child())));
        assert!(traces.iter().all(|trace| Sampling::new(1.0).is_of_the_share(*trace)));
        assert!(!traces.iter().any(|trace| Sampling::new(0.0).is_of_the_share(*trace)));
    }

    #[test]
    fn callers_have_a_few_recorded_each_second_and_not_all() {
        let sampling = Sampling::new(0.0);
        let in_second = |second| (0..1_000).filter(|_| sampling.asked.takes_in(second)).count();
        assert_eq!((in_second(7), in_second(8)), (10, 10));
        let asked = (0..1_000).filter(|_| sampling.takes(Trace::begin().with_sampled(true))).count();
        assert!((1..=30).contains(&asked), "{asked}");
        assert!(!sampling.takes(Trace::begin()));
    }
}
