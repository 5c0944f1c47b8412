//! `?fresh=true`: bypasses the cache, at most once in 5 s per caller.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::request::BadRequest;

const NAME: &str = "fresh";

/// Between two computations for one caller, in this instance.
const PAUSE_MS: i64 = 5_000;

/// Callers that are remembered. When all of them asked within the pause, a further one gets the cached answer.
const MOST: usize = 10_000;

/// Who asked for a fresh answer, when.
#[derive(Debug, Default)]
pub struct Limiter {
    hasher: RandomState,
    last_ms: Mutex<HashMap<u64, i64>>,
}

impl Limiter {
    /// Whether the holder of `key` may go past the cache now; if so, that counts.
    pub fn allows(&self, key: &str, now_ms: i64) -> bool {
        let caller = self.hasher.hash_one(key);
        let mut last = self.last_ms.lock().unwrap_or_else(PoisonError::into_inner);
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
        let limiter = Limiter::default();
        assert!(limiter.allows("a", 10_000) && limiter.allows("b", 10_000));
        assert!(!limiter.allows("a", 14_999));
        assert!(limiter.allows("a", 15_000) && !limiter.allows("a", 15_001));
        assert!(limiter.allows("a", 1_000), "the clock went back");
    }

    #[test]
    fn memory_is_bounded_and_a_crowd_is_answered_from_the_cache() {
        let limiter = Limiter::default();
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
