//! `?fresh=true`: bypasses the cache, at most once in 5 s per caller, over all instances that share a Redis.
//!
//! ```text
//! asked of this instance just now                        -> no
//! else: a key in Redis that lives for the pause, if new  -> yes
//!                                         it is there    -> no
//!                                         Redis is away  -> yes: each instance counts for itself
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tallyhouse_service::redis;
use tallyhouse_sql::hex;

use super::RedisTimeBudget;
use super::shared::{Request, SharedCache};
use crate::request::BadRequest;

const NAME: &str = "fresh";

/// Between two computations for one caller.
const PAUSE_MS: i64 = 5_000;

/// Callers that are remembered. When all of them asked within the pause, a further one gets the cached answer.
const MOST: usize = 10_000;

/// Who asked for a fresh answer, when.
#[derive(Default)]
pub struct Limiter {
    here: Local,
    fleet: Option<Arc<SharedCache>>,
}

impl Limiter {
    /// Of the instances that share a Redis, or of this one.
    pub fn new(fleet: Option<Arc<SharedCache>>) -> Self {
        Self { here: Local::default(), fleet }
    }

    /// Whether the holder of `key` may go past the cache now; if so, that counts.
    pub async fn allows(&self, key: &str, now_ms: i64) -> bool {
        if !self.here.allows(key, now_ms) {
            return false;
        }
        let Some(fleet) = &self.fleet else { return true };
        // A digest: Redis is not told keys.
        let name = format!("tallyhouse:fresh:{}", hex(&Sha256::digest(key)));
        let mut command = redis::cmd("SET");
        command.arg(name).arg(1).arg("NX").arg("PX").arg(PAUSE_MS);
        let taken: Result<Option<String>, _> = fleet.ask_for(&RedisTimeBudget::default(), Request::One(command)).await;
        let is_of_another = taken.is_ok_and(|taken| taken.is_none());
        if is_of_another {
            self.here.forget(key);
        }
        !is_of_another
    }
}

/// Who asked this instance.
#[derive(Debug, Default)]
struct Local {
    hasher: RandomState,
    last_ms: Mutex<HashMap<u64, i64>>,
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, i64>> {
        self.last_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, key: &str) {
        self.lock().remove(&self.hasher.hash_one(key));
    }

    fn allows(&self, key: &str, now_ms: i64) -> bool {
        let caller = self.hasher.hash_one(key);
        let mut last = self.lock();
        // A clock that went back must not shut a caller out.
        let is_recent = |then: i64| (0..PAUSE_MS).contains(&(now_ms - then));
        if last.get(&caller).is_some_and(|then| is_recent(*then)) {
            return false;
        }
        if last.len() >= MOST {
            last.retain(|_, then| is_recent(*then));
        }
        if last.len() >= MOST {
            return false;
        }
        last.insert(caller, now_ms);
        true
    }
}

/// Takes the parameter out of a query string, which is a plan's and must not depend on it. Gives its value and the rest.
pub fn take(raw: Option<&str>) -> Result<(bool, Option<Cow<'_, str>>), BadRequest> {
    let Some(raw) = raw else { return Ok((false, None)) };
    let value = |piece: &str| {
        let pair = form_urlencoded::parse(piece.as_bytes()).next();
        pair.filter(|(name, _)| name == NAME).map(|(_, value)| value.into_owned())
    };
    let mut given = raw.split('&').filter_map(value);
    let Some(first) = given.next() else { return Ok((false, Some(raw.into()))) };
    if given.next().is_some() {
        return Err(BadRequest::Twice { parameter: NAME });
    }
    let is_fresh = match first.as_str() {
        "true" | "1" => true,
        "false" | "0" => false,
        _ => {
            let given = first.chars().filter(|c| !c.is_control()).take(40).collect();
            return Err(BadRequest::Malformed { parameter: NAME, given, expected: "true or false".to_owned() });
        }
    };
    let rest: Vec<&str> = raw.split('&').filter(|piece| value(piece).is_none()).collect();
    Ok((is_fresh, Some(rest.join("&").into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_per_caller_and_pause() {
        let limiter = Local::default();
        assert!(limiter.allows("a", 10_000) && limiter.allows("b", 10_000));
        assert!(!limiter.allows("a", 14_999));
        assert!(limiter.allows("a", 15_000) && !limiter.allows("a", 15_001));
        assert!(limiter.allows("a", 1_000), "the clock went back");
    }

    #[test]
    fn memory_is_bounded_and_a_crowd_is_answered_from_the_cache() {
        let limiter = Local::default();
        assert!((0..MOST).all(|caller| limiter.allows(&caller.to_string(), 0)));
        assert!(!limiter.allows("one more", PAUSE_MS - 1));
        assert!(limiter.allows("one more", PAUSE_MS));
        assert_eq!(limiter.last_ms.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_parameter_leaves_the_rest_as_it_was() {
        for (raw, is_fresh, rest) in [
            ("", false, ""),
            ("a=1&filter=x%26y", false, "a=1&filter=x%26y"),
            ("fresh=true", true, ""),
            ("a=1&fresh=1&filter=x%26y", true, "a=1&filter=x%26y"),
            ("fr%65sh=false&a=1", false, "a=1"),
            ("refresh=true", false, "refresh=true"),
        ] {
            let (given, left) = take(Some(raw)).unwrap();
            assert_eq!((given, left.as_deref()), (is_fresh, Some(rest)), "{raw}");
        }
        assert_eq!(take(None), Ok((false, None)));
        assert_eq!(take(Some("fresh=1&fresh=0")), Err(BadRequest::Twice { parameter: "fresh" }));
        for raw in ["fresh=yes", "fresh=&a=1", "a=1&fresh"] {
            assert!(matches!(take(Some(raw)), Err(BadRequest::Malformed { parameter: "fresh", .. })), "{raw}");
        }
    }
}
