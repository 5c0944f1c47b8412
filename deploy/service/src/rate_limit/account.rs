//! What one caller may do in this process: tokens lent by Redis, or a bucket of its own while Redis is away. Pure: the time is passed in.
//!
//! ```text
//! leases, the older first                      -> nearly used up: the next one is asked for
//!                                              -> over: what is left of it is given back with the next exchange
//! Redis had fewer than were needed             -> empty until it has one again
//! Redis is away                                -> a local bucket, which begins with this instance's share of what Redis had left; what it
//!                                                 admits is owed, and Redis takes it off when it is back
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::bucket::Bucket;
use super::rule::Rule;

/// How long lent tokens may be used, from when they were asked for; the script counts them as lent for at least as long.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// Tokens of the first lease.
const FIRST_CHUNK: u64 = 8;
const LEAST_CHUNK: u64 = 4;
const MOST_CHUNK: u64 = 1 << 16;

/// Of a caller that asked within [`KEPT_CURRENT`], what Redis has left is known as of so long ago, if Redis is there.
const CURRENT: Duration = Duration::from_secs(2);
const KEPT_CURRENT: Duration = Duration::from_secs(600);

/// Redis lends no more than such a part of what it has, unless more is needed.
const PART: u64 = 8;

/// Tokens, and the epoch of Redis's clock in which it lent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lent {
    pub(super) tokens: u64,
    pub(super) epoch: u64,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    lent: Lent,
    ends: Instant,
    granted: u64,
}

/// What became of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landing {
    UnderWay,
    Done,
    Failed,
}

/// What became of what an account handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    Taken,
    /// Redis did not answer.
    Unknown,
    Unsent,
}

/// What a bucket in Redis had left, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) left: u64,
    /// By Redis's clock, in milliseconds since 1970.
    pub(super) at_ms: u64,
}

/// What Redis is asked for.
#[derive(Debug, Clone)]
pub(super) struct LeaseRequest {
    pub(super) name: Arc<str>,
    pub(super) rule: Rule,
    pub(super) needed: u64,
    pub(super) wanted: u64,
    /// Not used, and back in the bucket.
    pub(super) back: u64,
    /// Lent, and now used or given back: no longer to be reckoned with.
    pub(super) settled: Vec<Lent>,
    pub(super) owed: u64,
    /// What of it was handed over before, and Redis did not answer.
    pub(super) repeated: u64,
    /// A Redis that lost the bucket begins it with this, and what came since.
    pub(super) known: Option<Known>,
}

/// What it said.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseReply {
    pub(super) lent: Lent,
    /// What the bucket has left.
    pub(super) left: Known,
    /// Until it has another one.
    pub(super) wait: Duration,
    /// When it was asked.
    pub(super) sent: Instant,
}

/// What a caller was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) tokens: u64,
    /// What is left, here and, as far as is known, in Redis.
    pub(super) left: u64,
    /// Until all that are missing are there, as far as the bucket ever holds so many.
    pub(super) wait: Duration,
}

#[derive(Debug)]
pub(super) struct Account {
    name: Option<Arc<str>>,
    rule: Rule,
    /// The older one first. Mostly two.
    leases: VecDeque<Lease>,
    /// To be given back.
    back: u64,
    /// What of leases was used or is given back, since the last exchange.
    settled: Vec<Lent>,
    chunk: u64,
    /// What Redis had left at the last exchange, and when that was.
    left: Option<Known>,
    left_at: Instant,
    empty_until: Option<Instant>,
    owed: u64,
    /// What of it was handed over once, and Redis did not answer.
    repeated: u64,
    local: Option<Bucket>,
    flight: Option<watch::Receiver<Landing>>,
    /// Whether what it gives back is on its way, though nobody asks.
    is_handing_over: bool,
    used_at: Instant,
}

impl Account {
    pub(super) fn new(rule: Rule, now: Instant) -> Self {
        Self {
            name: None,
            rule,
            leases: VecDeque::new(),
            back: 0,
            settled: Vec::new(),
            chunk: FIRST_CHUNK,
            left: None,
            left_at: now,
            empty_until: None,
            owed: 0,
            repeated: 0,
            local: None,
            flight: None,
            is_handing_over: false,
            used_at: now,
        }
    }

    /// Somebody asks, with the rule that holds now.
    pub(super) fn begin(&mut self, rule: Rule, now: Instant) {
        self.rule = rule;
        self.used_at = self.used_at.max(now);
        self.expire(now);
    }

    pub(super) fn used_at(&self) -> Instant {
        self.used_at
    }

    /// Takes lent tokens; `None` when Redis may have what is missing.
    pub(super) fn take_lent(&mut self, want: u64, now: Instant) -> Option<Taken> {
        let is_empty = self.empty_until.is_some_and(|until| now < until);
        if self.lent() < want && !is_empty {
            return None;
        }
        Some(self.take_what_is_lent(want, now))
    }

    /// Whether there is one, which is not taken; `None` when Redis may have one.
    pub(super) fn look_at_lent(&self, now: Instant) -> Option<Taken> {
        let (lent, left) = (self.lent(), self.left_in_redis());
        if lent > 0 {
            return Some(Taken { tokens: 1, left: lent + left, wait: Duration::ZERO });
        }
        let until = self.empty_until.filter(|until| now < *until)?;
        Some(Taken { tokens: 0, left, wait: until.saturating_duration_since(now) })
    }

    /// The same, when nobody is asked for more.
    pub(super) fn take_what_is_lent(&mut self, want: u64, now: Instant) -> Taken {
        let mut missing = want;
        while let Some(lease) = self.leases.front_mut().filter(|_| missing > 0) {
            let part = Lent { tokens: lease.lent.tokens.min(missing), ..lease.lent };
            lease.lent.tokens -= part.tokens;
            missing -= part.tokens;
            if lease.lent.tokens == 0 {
                self.leases.pop_front();
            }
            self.settle(part);
        }
        let until_one = self.empty_until.map_or(Duration::from_millis(1), |until| until.saturating_duration_since(now));
        let others = missing.min(self.rule.burst) as f64 - 1.0;
        let wait = if missing == 0 { Duration::ZERO } else { until_one + self.rule.time_of(others) };
        Taken { tokens: want - missing, left: self.lent() + self.left_in_redis(), wait }
    }

    /// Takes from what is lent, and then from the local bucket of one of so many instances.
    pub(super) fn take_local(&mut self, want: u64, instances: u64, is_owed: bool, now: Instant) -> Taken {
        let of_lease = self.take_what_is_lent(want, now).tokens;
        let (rule, bucket) = self.local_bucket(instances, now);
        let taken = bucket.take(&rule, want - of_lease, now);
        if is_owed {
            self.owed = self.owed.saturating_add(taken);
        }
        let (tokens, (rule, bucket)) = (of_lease + taken, self.local_bucket(instances, now));
        let wait = if tokens < want { bucket.wait_for(&rule, want - tokens) } else { Duration::ZERO };
        Taken { tokens, left: bucket.left(&rule, now), wait }
    }

    /// Whether there is one, which is not taken.
    pub(super) fn look_at_local(&mut self, instances: u64, now: Instant) -> Taken {
        let lent = self.lent();
        let (rule, bucket) = self.local_bucket(instances, now);
        let left = lent + bucket.left(&rule, now);
        Taken { tokens: left.min(1), left, wait: if left > 0 { Duration::ZERO } else { bucket.wait_for(&rule, 1) } }
    }

    fn local_bucket(&mut self, instances: u64, now: Instant) -> (Rule, &mut Bucket) {
        let rule = self.rule.divided(instances);
        let bucket = self.local.get_or_insert_with(|| {
            // What Redis had left, and what came since, is everybody's; a caller that it never heard of has all of its share.
            let share = self.left.map(|known| (known.left / instances.max(1)).min(rule.burst));
            share.map_or_else(|| Bucket::with(rule.burst, now), |share| Bucket::with(share, self.left_at))
        });
        (rule, bucket)
    }

    /// Takes back what was not used after all.
    pub(super) fn give_back(&mut self, tokens: u64, instances: u64) {
        self.empty_until = None;
        match &mut self.local {
            Some(bucket) => {
                bucket.give_back(&self.rule.divided(instances), tokens);
                self.owed = self.owed.saturating_sub(tokens);
            }
            // Settled when it was used.
            None => self.back += tokens,
        }
    }

    /// The exchange that is under way, if there is one.
    pub(super) fn flight(&self) -> Option<watch::Receiver<Landing>> {
        self.flight.clone()
    }

    /// Whether the next lease should be asked for before this one is used up.
    pub(super) fn wants_more(&self, now: Instant) -> bool {
        let is_empty = self.empty_until.is_some_and(|until| now < until);
        let may_have = self.left_in_redis() >= PART;
        self.flight.is_none() && !is_empty && may_have && self.lent() <= self.chunk / 4
    }

    /// Begins an exchange: what to ask for, and who tells of its end.
    pub(super) fn ask(
        &mut self,
        needed: u64,
        name: impl FnOnce() -> Arc<str>,
    ) -> (LeaseRequest, watch::Sender<Landing>) {
        let (sender, receiver) = watch::channel(Landing::UnderWay);
        self.flight = Some(receiver);
        let name = Arc::clone(self.name.get_or_insert_with(name));
        let request = LeaseRequest {
            name,
            rule: self.rule,
            needed,
            wanted: self.chunk.max(needed),
            back: std::mem::take(&mut self.back),
            settled: std::mem::take(&mut self.settled),
            repeated: std::mem::take(&mut self.repeated).min(self.owed),
            owed: std::mem::take(&mut self.owed),
            known: self.left,
        };
        // Used up before its end: the next one may be larger.
        self.chunk = (self.chunk * 2).min((self.rule.burst / PART).clamp(LEAST_CHUNK, MOST_CHUNK));
        (request, sender)
    }

    pub(super) fn landed(&mut self, request: &LeaseRequest, reply: LeaseReply, now: Instant) {
        self.flight = None;
        self.local = None;
        (self.left, self.left_at) = (Some(reply.left), reply.sent);
        self.empty_until = (reply.lent.tokens < request.needed).then(|| now + reply.wait);
        if reply.lent.tokens > 0 {
            self.leases.push_back(Lease { lent: reply.lent, ends: reply.sent + LEASE, granted: reply.lent.tokens });
        }
    }

    /// Redis did not answer. Gives how much of what is owed is given up.
    pub(super) fn failed(&mut self, request: &LeaseRequest) -> u64 {
        self.flight = None;
        self.owe_unknown(request)
    }

    /// It was not asked.
    pub(super) fn not_sent(&mut self, request: &LeaseRequest) {
        self.flight = None;
        self.keep_again(request);
    }

    /// Whether Redis did what it was asked for is not known. What is owed is sent twice at most, as a slow Redis may have taken it each time;
    /// what was given back is not sent again. Gives how much of what is owed is given up.
    fn owe_unknown(&mut self, request: &LeaseRequest) -> u64 {
        let again = request.owed.saturating_sub(request.repeated);
        self.owed = self.owed.saturating_add(again);
        self.repeated = self.repeated.saturating_add(again);
        request.repeated
    }

    fn keep_again(&mut self, request: &LeaseRequest) {
        self.owed = self.owed.saturating_add(request.owed);
        self.repeated = self.repeated.saturating_add(request.repeated);
        self.back += request.back;
        request.settled.iter().for_each(|settled| self.settle(*settled));
    }

    /// What is to be given back though nobody asks: leases that are over.
    pub(super) fn left_over(&mut self, now: Instant) -> Option<LeaseRequest> {
        self.expire(now);
        self.hand_over()
    }

    /// The same at the end of the process, of all leases.
    pub(super) fn close(&mut self) -> Option<LeaseRequest> {
        while let Some(lease) = self.leases.pop_front() {
            self.return_lease(lease);
        }
        self.hand_over()
    }

    fn hand_over(&mut self) -> Option<LeaseRequest> {
        if self.back + self.owed == 0 {
            return None;
        }
        self.exchange_unasked()
    }

    /// Whether what Redis has left is to be looked at though nobody asks: others take of it, and an outage begins with what was left last.
    pub(super) fn is_outdated(&self, now: Instant) -> bool {
        let is_free = self.flight.is_none() && !self.is_handing_over && self.name.is_some();
        let is_used = now.saturating_duration_since(self.used_at) < KEPT_CURRENT;
        is_free && is_used && self.left.is_some() && now.saturating_duration_since(self.left_at) > CURRENT
    }

    /// Asks for nothing but what is left.
    pub(super) fn look(&mut self) -> Option<LeaseRequest> {
        self.exchange_unasked()
    }

    /// What was left, as an exchange said that began then.
    pub(super) fn learned(&mut self, left: Known, sent: Instant) {
        if self.left.is_none() || sent >= self.left_at {
            (self.left, self.left_at) = (Some(left), sent);
        }
    }

    /// As far as is known.
    fn left_in_redis(&self) -> u64 {
        self.left.map_or(0, |known| known.left)
    }

    fn exchange_unasked(&mut self) -> Option<LeaseRequest> {
        let is_free = self.flight.is_none() && !self.is_handing_over;
        let name = self.name.clone().filter(|_| is_free)?;
        self.is_handing_over = true;
        let (back, owed) = (std::mem::take(&mut self.back), std::mem::take(&mut self.owed));
        let repeated = std::mem::take(&mut self.repeated).min(owed);
        let settled = std::mem::take(&mut self.settled);
        Some(LeaseRequest {
            name,
            rule: self.rule,
            needed: 0,
            wanted: 0,
            back,
            settled,
            owed,
            repeated,
            known: self.left,
        })
    }

    /// What became of what was handed over. That may end beside an exchange which somebody waits for. Gives how much of what is owed is given
    /// up.
    pub(super) fn handed_over(&mut self, request: &LeaseRequest, handed: Handed) -> u64 {
        self.is_handing_over = false;
        match handed {
            Handed::Taken => 0,
            Handed::Unknown => self.owe_unknown(request),
            Handed::Unsent => {
                self.keep_again(request);
                0
            }
        }
    }

    /// What was handed over is lost: its bucket fills up again.
    pub(super) fn hand_over_lost(&mut self) {
        self.is_handing_over = false;
    }

    /// Whether forgetting it changes nothing: a new one would have no more, with Redis or without.
    pub(super) fn is_forgettable(&mut self, instances: u64, now: Instant) -> bool {
        let rule = self.rule.divided(instances);
        let is_as_new = match (&mut self.local, self.left) {
            (Some(bucket), _) => bucket.is_full(&rule, now),
            (None, Some(known)) => Bucket::with(known.left, self.left_at).is_full(&self.rule, now),
            (None, None) => true,
        };
        let is_idle = now.saturating_duration_since(self.used_at) > 2 * LEASE;
        let is_under_way = self.flight.is_some() || self.is_handing_over;
        is_idle && is_as_new && !is_under_way && self.lent() + self.back + self.owed == 0
    }

    fn lent(&self) -> u64 {
        self.leases.iter().map(|lease| lease.lent.tokens).sum()
    }

    /// Leases end in the order in which they were asked for.
    fn expire(&mut self, now: Instant) {
        while let Some(lease) = self.leases.pop_front_if(|lease| now >= lease.ends) {
            if lease.lent.tokens * 2 > lease.granted {
                self.chunk = (self.chunk / 2).max(LEAST_CHUNK);
            }
            self.return_lease(lease);
        }
    }

    fn return_lease(&mut self, lease: Lease) {
        self.back += lease.lent.tokens;
        self.settle(lease.lent);
    }

    /// The script knows two epochs; of older ones nothing is reckoned with.
    fn settle(&mut self, lent: Lent) {
        match self.settled.iter_mut().find(|settled| settled.epoch == lent.epoch) {
            Some(settled) => settled.tokens += lent.tokens,
            None => {
                let newest = self.settled.iter().map(|settled| settled.epoch).max().unwrap_or(0).max(lent.epoch);
                self.settled.retain(|settled| settled.epoch + 1 >= newest);
                self.settled.push(lent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule::per_minute(1_000);

    fn name() -> Arc<str> {
        "bucket".into()
    }

    fn reply(tokens: u64, left: u64, wait_ms: u64, sent: Instant) -> LeaseReply {
        LeaseReply { lent: Lent { tokens, epoch: 1 }, left: known(left), wait: Duration::from_millis(wait_ms), sent }
    }

    fn known(left: u64) -> Known {
        Known { left, at_ms: 7 }
    }

    /// An account that has just been lent so much.
    fn with(tokens: u64, left: u64, now: Instant) -> Account {
        let mut account = Account::new(RULE, now);
        let (request, _) = account.ask(1, name);
        account.landed(&request, reply(tokens, left, 0, now), now);
        account
    }

    #[test]
    fn lent_tokens_are_used_until_their_end_and_then_given_back() {
        let start = Instant::now();
        let mut account = with(8, 992, start);
        assert_eq!(account.take_lent(1, start), Some(Taken { tokens: 1, left: 7 + 992, wait: Duration::ZERO }));
        let end = start + LEASE;
        account.begin(RULE, end);
        assert_eq!(account.take_lent(1, end), None, "they are over");
        let (request, _) = account.ask(1, name);
        assert_eq!((request.needed, request.back, request.settled), (1, 7, vec![Lent { tokens: 8, epoch: 1 }]));
    }

    #[test]
    fn the_next_lease_is_asked_for_before_the_last_is_used_up_and_is_larger() {
        let start = Instant::now();
        let mut account = with(8, 992, start);
        assert!(!account.wants_more(start));
        assert!(account.take_lent(6, start).is_some());
        assert!(account.wants_more(start));
        let (request, _) = account.ask(0, name);
        assert_eq!((request.needed, request.wanted), (0, 16));
        assert!(!account.wants_more(start), "one at a time");
        account.landed(&request, reply(16, 976, 0, start), start);
        assert_eq!(account.take_lent(18, start).map(|taken| (taken.tokens, taken.left)), Some((18, 976)));
    }

    #[test]
    fn an_empty_bucket_is_not_asked_before_it_has_one_again() {
        let start = Instant::now();
        let mut account = Account::new(RULE, start);
        let (request, _) = account.ask(5, name);
        account.landed(&request, reply(3, 0, 60, start), start);
        let soon = start + Duration::from_millis(10);
        let taken = account.take_lent(5, soon).unwrap();
        assert_eq!((taken.tokens, taken.left), (3, 0));
        assert!(taken.wait >= Duration::from_millis(50), "{:?}", taken.wait);
        assert_eq!(account.take_lent(1, soon).unwrap().tokens, 0);
        assert_eq!(account.take_lent(1, start + Duration::from_millis(60)), None, "it may have one again");
    }

    #[test]
    fn while_redis_is_away_the_share_of_what_it_had_left_is_there_and_owed() {
        let start = Instant::now();
        let mut account = with(8, 300, start);
        let taken = account.take_local(1_000, 3, true, start);
        assert_eq!(taken.tokens, 8 + 100, "what is lent, and a third of what was left");
        assert!(taken.wait > Duration::ZERO);
        assert_eq!(account.take_local(1, 3, true, start).tokens, 0);
        let (request, _) = account.ask(1, name);
        assert_eq!(request.owed, 100);
        account.failed(&request);
        let (again, _) = account.ask(1, name);
        assert_eq!(again.owed, 100, "it is asked for until Redis took it");
        assert_eq!(account.failed(&again), 100, "Redis may have taken it twice");
        assert_eq!(account.ask(1, name).0.owed, 0);
        // Of a caller that Redis never heard of.
        let mut new = Account::new(RULE, start);
        assert_eq!(new.take_local(1_000, 3, false, start).tokens, 333);
        assert_eq!(new.ask(1, name).0.owed, 0, "without Redis nothing is owed");
    }

    #[test]
    fn an_outage_begins_with_what_others_have_left() {
        let start = Instant::now();
        let mut account = with(8, 300, start);
        let later = start + Duration::from_secs(5);
        assert!(!account.is_outdated(start) && account.is_outdated(later));
        let request = account.look().unwrap();
        assert_eq!((request.needed, request.wanted, request.known), (0, 0, Some(known(300))));
        assert!(!account.is_outdated(later), "it is on its way");
        account.learned(known(30), later);
        assert_eq!(account.handed_over(&request, Handed::Taken), 0);
        account.learned(known(200), start);
        assert_eq!(account.take_local(1_000, 3, true, later).tokens, 8 + 10);
        assert!(!account.is_outdated(start + 2 * KEPT_CURRENT), "nobody asks any more");
    }

    #[test]
    fn redis_that_comes_and_goes_fills_no_bucket() {
        let start = Instant::now();
        let mut account = with(0, 300, start);
        assert_eq!(account.take_local(1_000, 1, true, start).tokens, 300);
        for _ in 0..5 {
            let (request, _) = account.ask(1, name);
            account.not_sent(&request);
            assert_eq!(account.take_local(1_000, 1, true, start).tokens, 0);
        }
        let (request, _) = account.ask(1, name);
        assert_eq!(request.owed, 300);
        account.landed(&request, reply(0, 0, 60, start), start);
        assert_eq!(account.take_local(1_000, 1, true, start).tokens, 0, "as Redis had nothing left");
    }

    #[test]
    fn an_outage_gives_an_idle_caller_what_came_since_and_no_more() {
        let start = Instant::now();
        let mut account = with(0, 0, start);
        let later = start + 3 * LEASE;
        assert!(!account.is_forgettable(1, later));
        assert_eq!(account.take_local(1_000, 1, true, later).tokens, 500);
    }

    #[test]
    fn what_redis_did_not_take_is_handed_over_again() {
        let start = Instant::now();
        let mut account = with(8, 300, start);
        assert_eq!(account.take_local(200, 1, true, start).tokens, 200);
        account.back = 3;
        for (handed, back) in [(Handed::Unsent, 3), (Handed::Unknown, 3), (Handed::Unsent, 0)] {
            let request = account.left_over(start).unwrap();
            assert_eq!((request.owed, request.back), (192, back));
            assert!(account.left_over(start).is_none(), "it is on its way");
            assert_eq!(account.handed_over(&request, handed), 0);
        }
        let request = account.left_over(start).unwrap();
        account.handed_over(&request, Handed::Taken);
        assert!(account.left_over(start).is_none());
    }

    #[test]
    fn a_debt_that_redis_may_have_taken_is_sent_twice_at_most() {
        let start = Instant::now();
        let mut account = with(0, 300, start);
        assert_eq!(account.take_local(200, 1, true, start).tokens, 200);
        let request = account.left_over(start).unwrap();
        assert_eq!(account.handed_over(&request, Handed::Unknown), 0);
        assert_eq!(account.take_local(50, 1, true, start).tokens, 50);
        let request = account.left_over(start).unwrap();
        assert_eq!((request.owed, request.repeated), (250, 200));
        assert_eq!(account.handed_over(&request, Handed::Unknown), 200);
        let request = account.left_over(start).unwrap();
        assert_eq!(request.owed, 50);
        assert_eq!(account.handed_over(&request, Handed::Unknown), 50);
        assert!(account.left_over(start).is_none());
        // Of a task that ended without a word.
        account.take_local(10, 1, true, start);
        assert!(account.left_over(start).is_some());
        account.hand_over_lost();
        account.take_local(10, 1, true, start);
        assert!(account.left_over(start).is_some());
    }

    #[test]
    fn what_was_not_used_is_there_again() {
        let start = Instant::now();
        let mut account = with(8, 0, start);
        assert!(account.take_lent(8, start).is_some());
        account.give_back(5, 1);
        let (request, _) = account.ask(1, name);
        assert_eq!((request.back, request.settled), (5, vec![Lent { tokens: 8, epoch: 1 }]));
        let mut local = Account::new(RULE, start);
        assert_eq!(local.take_local(1_000, 1, true, start).tokens, 1_000);
        local.give_back(10, 1);
        assert_eq!(local.take_local(1_000, 1, true, start).tokens, 10);
    }

    #[test]
    fn an_idle_account_gives_back_what_it_has_and_is_forgotten() {
        let start = Instant::now();
        let mut account = with(8, 0, start);
        assert!(account.left_over(start).is_none());
        let later = start + 3 * LEASE;
        assert!(!account.is_forgettable(1, later));
        let request = account.left_over(later).unwrap();
        assert_eq!(request.back, 8);
        let full = start + Duration::from_secs(60);
        assert!(!account.is_forgettable(1, full), "it may have to take it back");
        account.handed_over(&request, Handed::Taken);
        assert!(!account.is_forgettable(1, later), "without Redis a new one would begin with a full bucket");
        assert!(account.is_forgettable(1, full));
        let mut local = Account::new(RULE, start);
        local.take_local(500, 1, false, start);
        assert!(!local.is_forgettable(1, start + Duration::from_secs(25)), "it would begin with a full bucket");
        assert!(local.is_forgettable(1, start + Duration::from_secs(31)));
    }
}
