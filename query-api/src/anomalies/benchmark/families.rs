//! Families of series with the shapes of public anomaly benchmarks (NAB, Yahoo S5, UCR), generated from seeds. Nothing is
//! copied from them.

use std::f64::consts::TAU;

use super::shape::{DAY, HOUR, Labelled, Shape};
use crate::anomalies::simulated::{Random, WEEKDAYS, of_day};

/// Sunday, 2026-10-11, 00:00 in Berlin: two weeks before the clocks change.
const BERLIN_SUNDAY: i64 = 1_791_669_600;

/// When Berlin's clocks change, 2026-10-25T01:00Z.
const BERLIN_CHANGE: i64 = 1_792_890_000;

/// A family of series.
pub(super) struct Family {
    pub(super) name: &'static str,
    series: fn(&mut Random) -> Labelled,
}
fn season(random: &mut Random) -> Shape {
    let level = random.one_of(&[300.0, 2_000.0, 20_000.0]);
    Shape::hours(level).daily().weekly(WEEKDAYS)
}

fn clean(random: &mut Random) -> Labelled {
    season(random).counts(random)
}

fn clean_flat(random: &mut Random) -> Labelled {
    let level = random.one_of(&[20.0, 500.0, 5_000.0]);
    Shape::hours(level).counts(random)
}

/// Growth and decline, straight, bent and there and back.
fn drift(random: &mut Random) -> Labelled {
    let (most, kind) = (random.between(0.3, 1.2), random.place(0..4));
    let shape = season(random);
    let buckets = shape.len() as f64;
    let factor = move |place: usize| {
        let part = place as f64 / buckets;
        match kind {
            0 => 1.0 + most * part,
            1 => 1.0 / (1.0 + most * part),
            2 => (most * part).exp(),
            _ => 1.0 + most * (1.0 - (2.0 * part - 1.0).abs()),
        }
    };
    shape.each(|place, mean| mean * factor(place)).counts(random)
}

fn spikes(random: &mut Random) -> Labelled {
    let injected = [(2.0, 1), (3.0, 1), (5.0, 1), (1.8, 2), (2.0, 3), (1.6, 3)];
    season(random).scatter(random, &injected).counts(random)
}

fn drops(random: &mut Random) -> Labelled {
    let injected = [(0.3, 1), (0.3, 3), (0.5, 2), (0.0, 1), (0.0, 4), (0.5, 5), (0.0, 7)];
    season(random).scatter(random, &injected).counts(random)
}

/// Half a day to a third of the range.
fn outages(random: &mut Random) -> Labelled {
    let length = random.one_of(&[12, 16, 24, 36, 48, 72, 100, 150, 224]);
    season(random).scatter(random, &[(0.0, length)]).counts(random)
}

/// An outage that is not over.
fn outages_until_now(random: &mut Random) -> Labelled {
    let length = random.one_of(&[4, 12, 18, 24, 48, 72, 120, 224]);
    let mut shape = season(random);
    let end = shape.len();
    shape.inject(end - length..end, 0.0);
    shape.counts(random)
}

/// More or less from some hour on, for good: the first day is to be found, and then it is ordinary.
fn level_shifts(random: &mut Random) -> Labelled {
    let factor = random.one_of(&[0.4, 0.55, 1.6, 2.0, 3.0]);
    let mut shape = season(random);
    let at = random.place(240..shape.len() - 240);
    shape.times(at..shape.len(), factor);
    shape.events.push(at..at + 24);
    shape.counts(random)
}

/// More or less for one day to a quarter of the range, and then as before.
fn level_shifts_that_end(random: &mut Random) -> Labelled {
    let factor = random.one_of(&[0.3, 0.5, 1.7, 2.5]);
    let length = random.one_of(&[24, 36, 60, 96, 160]);
    season(random).scatter(random, &[(factor, length)]).counts(random)
}

/// The day begins six hours later, or has no peak, from some midnight on. Its first day is to be found; how long it takes to
/// learn the new one is nobody's business.
fn changed_seasons(random: &mut Random) -> Labelled {
    let (day, is_later) = (random.place(14..21), random.uniform() < 0.5);
    let level = random.one_of(&[300.0, 2_000.0]);
    let changed = |place: usize| if is_later { of_day((place + 18) as f64 % 24.0 / 24.0) } else { 0.8 };
    let plain = |place: usize| of_day((place % 24) as f64 / 24.0);
    let mut shape =
        Shape::hours(level).each(|place, mean| mean * if place < day * 24 { plain(place) } else { changed(place) });
    shape.events.push(day * 24..day * 24 + 24);
    shape.unclear.push(day * 24 + 24..shape.len());
    shape.counts(random)
}

/// An average with gaps, which are nothing to flag, and spikes.
fn missing_data(random: &mut Random) -> Labelled {
    let shape = Shape::hours(40.0).each(|place, mean| mean * (1.0 + 0.3 * (TAU * (place % 24) as f64 / 24.0).sin()));
    let mut labelled = shape.scatter(random, &[(1.8, 1), (0.4, 2), (1.7, 4)]).averages(random);
    for _ in 0..12 {
        let (at, length) = (random.place(0..640), random.one_of(&[1, 2, 5, 12, 30]));
        if labelled.events.iter().all(|event| event.start > at + length || event.end < at) {
            labelled.values[at..at + length].fill(None);
        }
    }
    labelled
}

/// The noise is 2.5 times as large from some day on: nothing to be woken up for.
fn noise_changes(random: &mut Random) -> Labelled {
    let mut shape = season(random);
    let at = random.place(240..430);
    shape.noise[at..].fill(0.15);
    shape.unclear.push(at..at + 24);
    shape.counts(random)
}

/// Values that are ordinary, but not at this hour.
fn contextual(random: &mut Random) -> Labelled {
    let shape = Shape::hours(random.one_of(&[500.0, 5_000.0])).daily();
    let mut shape = shape.scatter(random, &[]);
    let level = shape.means.clone();
    for day in [9, 15, 22] {
        let (night, noon) = (day * 24 + random.place(1..4), (day + 2) * 24 + random.place(11..14));
        let (of_noon, of_night) = (level[day * 24 + 14] * 0.7, level[day * 24 + 5]);
        shape.means[night..night + 2].fill(of_noon);
        shape.means[noon..noon + 3].fill(of_night);
        shape.events.extend([night..night + 2, noon..noon + 3]);
    }
    shape.counts(random)
}

/// What happens in the first and in the last hours.
fn ends(random: &mut Random) -> Labelled {
    let mut shape = Shape::hours(random.one_of(&[500.0, 5_000.0])).noisy(0.08);
    let (end, length) = (shape.len(), random.one_of(&[1, 2, 3, 5]));
    let (first, last) = (random.place(1..4), random.place(0..3));
    shape.inject(first..first + length, random.one_of(&[2.0, 2.5]));
    shape.inject(end - last - length..end - last, random.one_of(&[0.2, 2.0]));
    shape.counts(random)
}

/// Mostly zeros, with bursts.
fn sparse(random: &mut Random) -> Labelled {
    let level = random.one_of(&[0.05, 0.2, 0.6]);
    let mut shape = Shape::hours(level);
    for _ in 0..3 {
        let at = shape.free(random, 2);
        shape.means[at..at + 2].fill(15.0);
        shape.events.push(at..at + 2);
    }
    shape.counts(random)
}

/// A few events an hour, and a day or more without any.
fn few(random: &mut Random) -> Labelled {
    let (level, length) = (random.one_of(&[3.0, 6.0, 12.0]), random.one_of(&[24, 48, 96]));
    Shape::hours(level).noisy(0.0).scatter(random, &[(0.0, length)]).counts(random)
}

/// Offices: next to nothing at weekends, and an outage or a rush of a day or two on working days.
fn weekends(random: &mut Random) -> Labelled {
    let mut shape =
        Shape::hours(random.one_of(&[1_000.0, 8_000.0])).daily().weekly([1.0, 1.0, 1.0, 1.0, 1.0, 0.08, 0.08]);
    let (day, hours) = (random.one_of(&[8, 9, 15, 16, 22]), random.one_of(&[20, 30, 44]));
    shape.inject(day * 24 + 2..day * 24 + 2 + hours, random.one_of(&[0.0, 0.2, 2.5]));
    shape.counts(random)
}

/// A season by the clocks on the wall, which change in the middle.
fn change_of_clocks(random: &mut Random) -> Labelled {
    let mut shape = Shape::hours(2_000.0).noisy(0.06);
    (shape.from, shape.zone) = (BERLIN_SUNDAY, "Europe/Berlin");
    let local = |place: usize| {
        let at = BERLIN_SUNDAY + place as i64 * HOUR;
        ((at + if at < BERLIN_CHANGE { 2 * HOUR } else { HOUR }).rem_euclid(DAY) / HOUR) as f64
    };
    shape.each(|place, mean| mean * of_day(local(place) / 24.0)).scatter(random, &[(2.0, 1), (0.0, 14)]).counts(random)
}

/// Twelve weeks of days.
fn days(random: &mut Random) -> Labelled {
    let length = random.one_of(&[2, 3, 5, 9, 14, 28]);
    let shape = Shape::flat(DAY, 84, 50_000.0).noisy(0.05).weekly(WEEKDAYS);
    let factor = random.one_of(&[0.0, 0.3, 1.8]);
    shape.scatter(random, &[(factor, length)]).counts(random)
}

/// Three days of minutes: a spike and hours of nothing.
fn minutes(random: &mut Random) -> Labelled {
    let length = random.one_of(&[3, 20, 90, 400, 900]);
    let shape = Shape::flat(60, 4_320, random.one_of(&[40.0, 400.0])).daily();
    shape.scatter(random, &[(4.0, 2), (0.0, length)]).counts(random)
}

/// An average that is higher or lower, for one to nine days.
fn averages_that_shift(random: &mut Random) -> Labelled {
    let length = random.one_of(&[3, 10, 24, 60, 200]);
    let shape = Shape::hours(random.one_of(&[12.0, 250.0])).noisy(0.05);
    let factor = random.one_of(&[0.6, 1.4, 2.0]);
    shape.scatter(random, &[(factor, length)]).averages(random)
}

pub(super) const FAMILIES: [Family; 21] = [
    Family { name: "clean season", series: clean },
    Family { name: "clean, no season", series: clean_flat },
    Family { name: "drift", series: drift },
    Family { name: "noise changes", series: noise_changes },
    Family { name: "spikes", series: spikes },
    Family { name: "drops", series: drops },
    Family { name: "outages, 12 h to a third", series: outages },
    Family { name: "outages until now", series: outages_until_now },
    Family { name: "level shifts", series: level_shifts },
    Family { name: "level shifts that end", series: level_shifts_that_end },
    Family { name: "changed seasons", series: changed_seasons },
    Family { name: "missing data (average)", series: missing_data },
    Family { name: "contextual", series: contextual },
    Family { name: "first and last hours", series: ends },
    Family { name: "sparse counts", series: sparse },
    Family { name: "few events, outages", series: few },
    Family { name: "weekends", series: weekends },
    Family { name: "change of clocks", series: change_of_clocks },
    Family { name: "days", series: days },
    Family { name: "minutes", series: minutes },
    Family { name: "averages that shift", series: averages_that_shift },
];

/// Series of each family.
pub(super) const SERIES: u64 = 12;

impl Family {
    /// The series of a seed.
    pub(super) fn labelled(&self, seed: u64) -> Labelled {
        let name = self.name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        (self.series)(&mut Random(name.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }
}
