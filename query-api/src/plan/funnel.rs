//! The plan of a funnel: raw events, by the table's key.

use serde::Serialize;

use super::scan::Scan;
use crate::condition::{Condition, Field};
use crate::request::funnel::{Funnel, Order, Step};
use crate::time::Zone;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename = "funnel")]
pub struct FunnelPlan {
    /// From this second since the epoch on.
    pub from: i64,
    /// To this one, exclusive.
    pub to: i64,
    /// Whose clocks instants are shown on.
    pub timezone: Zone,
    /// The longest time from the first step to the last, in seconds.
    pub window_s: i64,
    /// What may happen between two steps.
    pub order: Order,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What must hold of every event.
    pub condition: Condition,
    /// What the first step's event is told apart by.
    pub breakdown: Option<Field>,
}

/// Plans a funnel at `now_ms`. Everything that can be asked can be read.
pub fn plan(query: &Funnel, now_ms: i64) -> FunnelPlan {
    let (from, to) = query.range.bounds(now_ms);
    FunnelPlan {
        from,
        to,
        timezone: query.zone.clone(),
        window_s: query.within_s,
        order: query.order,
        steps: query.steps.clone(),
        condition: query.condition.clone(),
        breakdown: query.breakdown.clone(),
    }
}

impl FunnelPlan {
    /// What must hold of an event to be looked at: in a strict order every event matters, else only those of a step.
    pub fn looked_at(&self) -> Condition {
        match self.order {
            Order::StrictOrder => self.condition.clone(),
            Order::Ordered => {
                let steps = self.steps.iter().map(|step| step.condition.clone()).collect();
                self.condition.clone().and(Condition::Or(steps))
            }
        }
    }

    /// Which events it looks at.
    pub fn scan(&self) -> Scan {
        Scan::of(self.from, self.to, &self.looked_at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::funnel::with;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    #[test]
    fn the_same_question_has_the_same_plan_within_a_minute() {
        let planned = |now| plan(&with("order", r#""ordered""#, now).unwrap(), now);
        assert_eq!(planned(NOW), planned(NOW + 1_000));
        assert_ne!(planned(NOW), planned(NOW + 60_000));
        let text = serde_json::to_string(&planned(NOW)).unwrap();
        assert!(text.starts_with(r#"{"kind":"funnel","from":"#), "{text}");
    }

    #[test]
    fn only_events_of_a_step_are_looked_at_unless_order_is_strict() {
        let scan = |order| plan(&with("order", order, NOW).unwrap(), NOW).scan().types;
        assert_eq!(scan(r#""ordered""#), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(scan(r#""strict_order""#), None);
    }
}
