//! The position of a worker in Kafka's log, and whether the next records follow it. No I/O.
//!
//! ```text
//! committed 100, log 0..160     100 101 …         they follow one another
//! committed 100, log 130..160   130 …             30 records were removed before they were read: lost, and counted
//! committed 100, log 0..35      35 …, or 0 …      a broker lost the end of its log, and what comes now has these offsets again
//! ```

use std::time::{Duration, Instant};

/// For so long after a seek the records from before it may still come.
const STALE_FOR: Duration = Duration::from_secs(30);

/// The log did not go on where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// The offset that should have come.
    pub from: i64,
    /// The one that came.
    pub to: i64,
}

/// What to do with the record at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is the next one.
    Judge,
    /// It was judged, or is known to be stored.
    Skip,
    /// It is not the next one.
    Jump(Jump),
}

/// See the module. By default whatever comes is right: the local log knows by itself what it lost.
#[derive(Debug, Default)]
pub struct Position {
    is_checked: bool,
    /// `None`: nothing came yet.
    next: Option<i64>,
    skip_below: Option<i64>,
    /// Kafka was asked to begin again here.
    sought: Option<(i64, Instant)>,
}

impl Position {
    /// A worker that goes on at the committed offset, from which Kafka was asked to begin.
    pub fn at(committed: Option<i64>) -> Self {
        let sought = committed.map(|next| (next, Instant::now()));
        Self { is_checked: true, next: committed, skip_below: None, sought }
    }

    /// What comes at an offset.
    pub fn step(&mut self, offset: i64) -> Step {
        let Some(next) = self.next else { return Step::Judge };
        if offset < next && self.sought.is_some_and(|(sought, at)| sought == offset && at.elapsed() < STALE_FOR) {
            // What had come before the seek comes once more.
            self.sought = None;
            self.skip_below = Some(next);
        }
        if self.skip_below.is_some_and(|below| offset < below) {
            return Step::Skip;
        }
        match offset == next {
            true => Step::Judge,
            false => Step::Jump(Jump { from: next, to: offset }),
        }
    }

    /// A record was judged.
    pub fn taken(&mut self, offset: i64) {
        self.skip_below = None;
        self.next = self.is_checked.then_some(offset + 1);
    }

    /// The log goes on here.
    pub fn go_on_at(&mut self, offset: i64) {
        self.next = Some(offset);
        self.skip_below = None;
    }

    /// Kafka was asked to begin again here; what comes before it is stored.
    pub fn sought(&mut self, offset: i64) {
        self.next = Some(offset);
        self.skip_below = Some(offset);
        self.sought = Some((offset, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(position: &mut Position, offsets: &[i64]) -> Vec<Step> {
        let step = |offset: &i64| {
            let step = position.step(*offset);
            if step == Step::Judge {
                position.taken(*offset);
            }
            step
        };
        offsets.iter().map(step).collect()
    }

    #[test]
    fn records_follow_one_another_and_jumps_show() {
        use Step::{Judge, Skip};
        let jump = |from, to| Step::Jump(Jump { from, to });
        let mut position = Position::at(Some(100));
        assert_eq!(steps(&mut position, &[100, 101]), [Judge, Judge]);
        assert_eq!(steps(&mut position, &[100, 101, 102]), [Skip, Skip, Judge], "from before the seek");
        assert_eq!(steps(&mut position, &[100]), [jump(103, 100)], "once");
        position.go_on_at(100);
        assert_eq!(steps(&mut position, &[100, 101, 150]), [Judge, Judge, jump(102, 150)]);
        position.go_on_at(150);
        assert_eq!(steps(&mut position, &[150, 0]), [Judge, jump(151, 0)]);
        position.sought(20);
        assert_eq!(
            steps(&mut position, &[0, 1, 19, 20, 21, 20, 21, 22]),
            [Skip, Skip, Skip, Judge, Judge, Skip, Skip, Judge]
        );
        assert_eq!(steps(&mut Position::at(None), &[7, 3]), [Judge, jump(8, 3)]);
        assert_eq!(steps(&mut Position::default(), &[7, 3]), [Judge, Judge]);
    }
}
