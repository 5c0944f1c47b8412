//! Converts the times of an export to a time zone, in the stream of rows.
//!
//! ClickHouse writes UTC, as RFC 3339 in milliseconds (24 bytes). It has a tz database of its own, so the local time is
//! computed here, from the database that everything else uses. The statement fixes the columns: `ts` is the third,
//! `original_ts` and `received_at` are the last two. A row of another form is an error, never passed on.

use bytes::Bytes;
use memchr::{memchr_iter, memchr2_iter, memmem};

use crate::time::{Steady, Zone, rfc3339};

/// The longest row in bytes. An event has at most 32 KiB as it comes, and a byte of it becomes at most six.
const MAX_ROW_BYTES: usize = 1 << 20;

/// Length of a time as ClickHouse writes it: `2026-11-20T12:34:56.789Z`.
const TIME: usize = 24;

/// What the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// A JSON object a line.
    Ndjson,
    /// CSV with a header.
    Csv,
}

/// Rows on their way.
#[derive(Debug)]
pub struct LocalTimes {
    rows: Rows,
    clock: Clock,
    /// The beginning of a row whose rest is still to come.
    begun: Vec<u8>,
    is_header_due: bool,
}

impl LocalTimes {
    /// For rows of which none has come yet, written in `zone`.
    pub fn new(rows: Rows, zone: Zone) -> Self {
        let clock = Clock { steady: zone.steady_around(0), zone };
        Self { rows, clock, begun: Vec::new(), is_header_due: rows == Rows::Csv }
    }

    /// What is to be sent for the next bytes; `None` when they are not the rows that ClickHouse was asked for.
    pub fn push(&mut self, chunk: &[u8]) -> Option<Bytes> {
        self.begun.extend_from_slice(chunk);
        let bytes = std::mem::take(&mut self.begun);
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8);
        let mut rest = bytes.as_slice();
        for end in ends(self.rows, &bytes) {
            let (row, after) = rest.split_at_checked(end + 1 - (bytes.len() - rest.len()))?;
            self.row(row.strip_suffix(b"\n")?, &mut out)?;
            out.push(b'\n');
            rest = after;
        }
        self.begun = rest.to_vec();
        (self.begun.len() <= MAX_ROW_BYTES).then(|| out.into())
    }

    /// Whether nothing is left at the end.
    pub fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }

    fn row(&mut self, row: &[u8], out: &mut Vec<u8>) -> Option<()> {
        if std::mem::take(&mut self.is_header_due) {
            out.extend_from_slice(row);
            return Some(());
        }
        let Places { before, ts, between, original_ts, received_at } = match self.rows {
            Rows::Ndjson => Places::of_json(row)?,
            Rows::Csv => Places::of_csv(row)?,
        };
        let (to_received, end) = match self.rows {
            Rows::Ndjson => (&b"\",\"received_at\":\""[..], &b"\"}"[..]),
            Rows::Csv => (&b"\",\""[..], &b"\""[..]),
        };
        for (text, time) in [(before, ts), (between, original_ts), (to_received, received_at)] {
            out.extend_from_slice(text);
            self.clock.write(time, out)?;
        }
        out.extend_from_slice(end);
        Some(())
    }
}

/// Where rows end. In CSV a line break within quotes ends none; a quote within quotes is doubled, so it changes nothing.
fn ends(rows: Rows, bytes: &[u8]) -> Vec<usize> {
    match rows {
        Rows::Ndjson => memchr_iter(b'\n', bytes).collect(),
        Rows::Csv => {
            let mut is_quoted = false;
            let signs = memchr2_iter(b'"', b'\n', bytes);
            let is_end = |place: &usize| {
                let is_break = bytes.get(*place) == Some(&b'\n');
                is_quoted ^= !is_break;
                is_break && !is_quoted
            };
            signs.filter(is_end).collect()
        }
    }
}

/// A row, cut at its times.
struct Places<'a> {
    before: &'a [u8],
    ts: &'a [u8],
    /// From the end of `ts` to the beginning of `original_ts`.
    between: &'a [u8],
    original_ts: &'a [u8],
    received_at: &'a [u8],
}

impl<'a> Places<'a> {
    /// A quote within a text is escaped, so the first `,"ts":"` is the column: only two texts come before it.
    fn of_json(row: &'a [u8]) -> Option<Self> {
        const NAME: &[u8] = b",\"ts\":\"";
        Self::of(row, memmem::find(row, NAME)? + NAME.len(), b"\"}", b"\",\"received_at\":\"", b",\"original_ts\":\"")
    }

    fn of_csv(row: &'a [u8]) -> Option<Self> {
        let second = 1 + quoted(row)?;
        let third = second + 1 + quoted(row.get(second..)?)?;
        // After the comma and the quote.
        Self::of(row, third + 1, b"\"", b"\",\"", b",\"")
    }

    fn of(row: &'a [u8], ts: usize, end: &[u8], between_last: &[u8], before_last: &[u8]) -> Option<Self> {
        let (before, rest) = row.split_at_checked(ts)?;
        let (ts, rest) = rest.split_at_checked(TIME)?;
        let (rest, received_at) = last_time(rest.strip_suffix(end)?)?;
        let (between, original_ts) = last_time(rest.strip_suffix(between_last)?)?;
        between.ends_with(before_last).then_some(Self { before, ts, between, original_ts, received_at })
    }
}

fn last_time(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(bytes.len().checked_sub(TIME)?)
}

/// Length of the quoted text that is at the beginning.
fn quoted(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.strip_prefix(b"\"")?;
    loop {
        let end = memchr::memchr(b'"', rest)?;
        rest = rest.get(end + 1..)?;
        match rest.strip_prefix(b"\"") {
            Some(doubled) => rest = doubled,
            None => return Some(bytes.len() - rest.len()),
        }
    }
}

/// A zone's clock, which remembers the offset that it showed last.
#[derive(Debug)]
struct Clock {
    zone: Zone,
    steady: Steady,
}

impl Clock {
    /// A time of ClickHouse's, local.
    fn write(&mut self, time: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (at, ms) = instant(time)?;
        if !(self.steady.from..self.steady.to).contains(&at) {
            self.steady = self.zone.steady_around(at);
        }
        rfc3339::write(out, at, Some(ms), Some(self.steady.offset));
        Some(())
    }
}

/// Seconds since the epoch, and milliseconds, of `2026-11-20T12:34:56.789Z`.
fn instant(time: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(time).ok()?;
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    Some((timestamp.as_millisecond().div_euclid(1_000), timestamp.as_millisecond().rem_euclid(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: [&str; 3] = ["2026-11-20T12:34:56.789Z", "1900-01-01T00:00:00.000Z", "2026-11-20T12:35:00.001Z"];

    fn whole(rows: Rows, zone: &str, text: &str, size: usize) -> Option<String> {
        let mut times = LocalTimes::new(rows, Zone::named(zone).unwrap());
        let mut out = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            out.extend_from_slice(&times.push(chunk)?);
        }
        times.is_whole().then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_the_three_times_change_whatever_texts_say() {
        let utc = TIMES[0];
        let json = |[ts, original, received]: [&str; 3]| {
            format!(
                "{{\"event_id\":\"a,\\\"ts\\\":\\\"{utc}\",\"event_type\":\"ts\",\"ts\":\"{ts}\",\"value\":null,\
                 \"props\":{{\"x\":\"1\",\"ts\":\"{utc}\",\"original_ts\":\"{utc}\"}},\"num_props\":{{}},\
                 \"original_ts\":\"{original}\",\"received_at\":\"{received}\"}}\n"
            )
        };
        let csv = |[ts, original, received]: [&str; 3]| {
            format!(
                "\"a\"\",\"\"{utc}\",\"b\n\",\"{ts}\",\"{{\"\"ts\"\":\"\"{utc}\"\"}}\n\",\"{original}\",\"{received}\"\n"
            )
        };
        // In 1900 it was 05:21:10 ahead.
        let local = ["2026-11-20T18:04:56.789+05:30", "1900-01-01T05:21:00.000+05:21", "2026-11-20T18:05:00.001+05:30"];
        let with_header = |rows: String| format!("\"event_id\",\"event_type\",\"ts\"\n{rows}");
        for (rows, text, expected) in [
            (Rows::Ndjson, json(TIMES).repeat(2), json(local).repeat(2)),
            (Rows::Csv, with_header(csv(TIMES).repeat(2)), with_header(csv(local).repeat(2))),
        ] {
            for size in 1..=text.len() {
                assert_eq!(whole(rows, "Asia/Kolkata", &text, size).as_ref(), Some(&expected), "{size}");
            }
        }
    }

    #[test]
    fn what_is_no_row_is_refused_and_memory_is_bounded() {
        assert_eq!(whole(Rows::Ndjson, "Asia/Kolkata", "{\"a\":1}\n", 3), None);
        assert_eq!(whole(Rows::Ndjson, "Asia/Kolkata", "{\"event_id\":", 30), None);
        assert_eq!(whole(Rows::Csv, "Asia/Kolkata", "\"a\"\n\"x\",\"y\n\n__exception__\r\n", 9), None);
        let mut times = LocalTimes::new(Rows::Csv, Zone::utc());
        assert!(times.push(&vec![b'"'; MAX_ROW_BYTES]).is_some());
        assert_eq!(times.push(b"x"), None);
    }
}
