//! A brute-force model of funnels and retention: slow, plain, and sharing no code with the statements.

use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// An event, as far as the questions of the tests see it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub(super) ms: i64,
    /// 0 is nobody.
    pub(super) user: u64,
    pub(super) event_type: char,
    pub(super) country: String,
    pub(super) page: char,
}

/// Which events are meant: a type, and perhaps a page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Matcher {
    pub(super) event_type: Option<char>,
    pub(super) page: Option<char>,
}

impl Matcher {
    pub(super) fn holds(self, event: &Event) -> bool {
        self.event_type.is_none_or(|wanted| wanted == event.event_type)
            && self.page.is_none_or(|wanted| wanted == event.page)
    }
}

#[derive(Debug, Clone)]
pub(super) struct FunnelQuestion {
    pub(super) steps: Vec<Matcher>,
    pub(super) all: Matcher,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) window_ms: i64,
    pub(super) strict: bool,
}

/// A fraction as it can be compared: decimals are not the same on the way there and back.
pub(super) fn millionths(number: f64) -> i64 {
    (number * 1e6).round() as i64
}

/// People who reached each step, and the median time from the step before, in microseconds.
pub(super) type Steps = Vec<(u64, Option<i64>)>;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FunnelAnswer {
    pub(super) total: Steps,
    /// In the order of the answer.
    pub(super) by_country: Vec<(String, Steps)>,
    pub(super) events: u64,
    pub(super) nobodys: u64,
}

/// What became of a person: the seconds to each step reached, from the step before; and the value it began with.
struct Attempt {
    seconds: Vec<f64>,
    country: String,
}

pub(super) fn funnel(events: &[Event], question: &FunnelQuestion) -> FunnelAnswer {
    let is_step = |event: &Event| question.steps.iter().any(|step| step.holds(event));
    let looked_at: Vec<&Event> = events
        .iter()
        .filter(|event| (question.from * 1_000..question.to * 1_000).contains(&event.ms) && question.all.holds(event))
        .filter(|event| question.strict || is_step(event))
        .collect();
    let mut people: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    for event in looked_at.iter().filter(|event| event.user != 0) {
        people.entry(event.user).or_default().push(event);
    }
    let attempts: Vec<Attempt> = people.into_values().filter_map(|events| best(events, question)).collect();
    let count = question.steps.len();
    let mut by_value: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in &attempts {
        by_value.entry(&attempt.country).or_default().push(attempt);
    }
    let mut ranked: Vec<_> = by_value.into_iter().collect();
    ranked.sort_by_key(|(value, attempts)| (*value == "__other__", std::cmp::Reverse(attempts.len()), *value));
    let top = ranked.iter().take(10).filter(|(value, _)| *value != "__other__").count();
    let others: Vec<&Attempt> = ranked.split_off(top).into_iter().flat_map(|(_, attempts)| attempts).collect();
    let mut by_country: Vec<(String, Steps)> =
        ranked.into_iter().map(|(value, attempts)| (value.to_owned(), steps(&attempts, count))).collect();
    if !others.is_empty() {
        by_country.push(("__other__".to_owned(), steps(&others, count)));
    }
    FunnelAnswer {
        total: steps(&attempts.iter().collect::<Vec<_>>(), count),
        by_country,
        events: looked_at.len() as u64,
        nobodys: looked_at.iter().filter(|event| event.user == 0).count() as u64,
    }
}

fn steps(attempts: &[&Attempt], count: usize) -> Steps {
    let of_step = |place: usize| {
        let mut seconds: Vec<f64> = attempts.iter().filter_map(|attempt| attempt.seconds.get(place).copied()).collect();
        seconds.sort_by(f64::total_cmp);
        let middle = (seconds.get(seconds.len().wrapping_sub(1) / 2), seconds.get(seconds.len() / 2));
        let median = if let (Some(a), Some(b)) = middle { Some(millionths((a + b) / 2.0)) } else { None };
        (seconds.len() as u64, median.filter(|_| place > 0))
    };
    (0..count).map(of_step).collect()
}

/// Every attempt there is, as (index of its last event, index of its first), a set for each step.
fn best(mut events: Vec<&Event>, question: &FunnelQuestion) -> Option<Attempt> {
    let steps = &question.steps;
    let matched = |event: &Event| steps.iter().map(|step| step.holds(event)).collect::<Vec<bool>>();
    let key = |event: &Event| {
        let matched = matched(event);
        let first = matched.iter().position(|holds| *holds).unwrap_or(usize::MAX);
        (event.ms, first, matched.into_iter().rev().collect::<Vec<_>>())
    };
    events.sort_by_key(|event| key(event));
    let fits = |last: usize, first: usize| events[last].ms - events[first].ms <= question.window_ms;
    let mut sets: Vec<BTreeSet<(usize, usize)>> = Vec::new();
    for step in steps {
        let here: Vec<usize> = (0..events.len()).filter(|index| step.holds(events[*index])).collect();
        let set = match sets.last() {
            None => here.iter().map(|index| (*index, *index)).collect(),
            Some(before) => {
                let follows = |last: usize, index: usize| {
                    if question.strict { last + 1 == index } else { last < index }
                };
                let pairs = here.iter().flat_map(|index| before.iter().map(move |attempt| (*index, *attempt)));
                pairs
                    .filter(|(index, (last, first))| follows(*last, *index) && fits(*index, *first))
                    .map(|(index, (_, first))| (index, first))
                    .collect()
            }
        };
        sets.push(set);
    }
    sets.retain(|set| !set.is_empty());
    let reached = |step: usize| sets[step].first().unwrap().0;
    let seconds = (0..sets.len()).map(|step| {
        let at = reached(step);
        let Some(before) = step.checked_sub(1) else { return 0.0 };
        let leading = sets[before]
            .iter()
            .filter(|(last, first)| *last < at && fits(at, *first) && (!question.strict || last + 1 == at));
        (events[at].ms - leading.map(|(last, _)| events[*last].ms).max().unwrap()) as f64 / 1_000.0
    });
    let seconds: Vec<f64> = seconds.collect();
    let end = reached(sets.len().checked_sub(1)?);
    let start = sets.last()?.iter().filter(|(last, _)| *last == end).map(|(_, first)| *first).max()?;
    let alike = events.iter().filter(|event| key(event) == key(events[start]));
    Some(Attempt { seconds, country: alike.map(|event| event.country.clone()).min()? })
}

#[derive(Debug, Clone)]
pub(super) struct RetentionQuestion {
    pub(super) cohort: Matcher,
    pub(super) returns: Matcher,
    pub(super) zone: String,
    /// Both included.
    pub(super) dates: (Date, Date),
    pub(super) weeks: bool,
    pub(super) periods: usize,
    /// The present, in whole minutes.
    pub(super) now: i64,
}

/// People of a cohort, whether it is partial, and those who came back in each period, and whether that is over.
pub(super) type Row = (u64, bool, Vec<Option<(u64, bool)>>);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RetentionAnswer {
    pub(super) rows: Vec<Row>,
    /// In millionths.
    pub(super) average: Vec<Option<i64>>,
    pub(super) events: u64,
    pub(super) nobodys: u64,
}

pub(super) fn retention(events: &[Event], question: &RetentionQuestion) -> RetentionAnswer {
    let zone = TimeZone::get(&question.zone).unwrap();
    let start_of = |date: Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_second();
    let unit_of = |date: Date| {
        let back = i64::from(date.weekday().to_monday_zero_offset());
        if question.weeks { date - back.days() } else { date }
    };
    let after = |date: Date, periods: i64| date + (periods * if question.weeks { 7 } else { 1 }).days();
    let unit_at = |ms: i64| unit_of(jiff::Timestamp::from_millisecond(ms).unwrap().to_zoned(zone.clone()).date());
    let (first_date, last_date) = question.dates;
    let (from, to) = (start_of(first_date), start_of(last_date + 1.day()));
    let last_unit_end = start_of(after(unit_of(last_date), question.periods as i64 + 1));
    let until = last_unit_end.min(question.now);
    let looked_at: Vec<&Event> = events
        .iter()
        .filter(|event| (from * 1_000..until * 1_000).contains(&event.ms))
        .filter(|event| question.cohort.holds(event) || question.returns.holds(event))
        .collect();
    let mut began: BTreeMap<u64, i64> = BTreeMap::new();
    for event in &looked_at {
        if event.user != 0 && question.cohort.holds(event) && event.ms < to * 1_000 {
            let first = began.entry(event.user).or_insert(event.ms);
            *first = (*first).min(event.ms);
        }
    }
    let mut back: BTreeSet<(Date, Date, u64)> = BTreeSet::new();
    for event in looked_at.iter().filter(|event| question.returns.holds(event)) {
        if let Some(first) = began.get(&event.user).filter(|first| event.ms > **first) {
            back.insert((unit_at(*first), unit_at(event.ms), event.user));
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut cohort = unit_of(first_date);
    while cohort <= last_date {
        let people = began.values().filter(|first| unit_at(**first) == cohort).count() as u64;
        let period = |n: usize| {
            let (unit, next) = (after(cohort, n as i64), after(cohort, n as i64 + 1));
            let users = back.iter().filter(|(own, at, _)| *own == cohort && *at == unit).count() as u64;
            (start_of(unit) < until).then(|| (users, start_of(next) > until))
        };
        let partial = start_of(cohort) < from || start_of(after(cohort, 1)) > to;
        rows.push((people, partial, (0..=question.periods).map(period).collect()));
        cohort = after(cohort, 1);
    }
    let average = |n: usize| {
        let over = || rows.iter().filter(|row| matches!(row.2[n], Some((_, false))));
        let people: u64 = over().map(|row| row.0).sum();
        let came: u64 = over().map(|row| row.2[n].unwrap().0).sum();
        over().next().map(|_| if people == 0 { 0 } else { millionths(came as f64 / people as f64) })
    };
    RetentionAnswer {
        average: (0..=question.periods).map(average).collect(),
        events: looked_at.len() as u64,
        nobodys: looked_at.iter().filter(|event| event.user == 0).count() as u64,
        rows,
    }
}
