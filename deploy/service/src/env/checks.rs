//! Checks for values that contradict each other, and for values without effect.

use std::fmt::Display;
use std::net::SocketAddr;

use super::{ConfigError, Env, is_set};

/// Refuses a first value that is more than the second. `why` says what would come of it.
pub fn at_most<T: Copy + PartialOrd + Display>(
    first: (&str, T),
    second: (&str, T),
    why: &str,
) -> Result<(), ConfigError> {
    if first.1 <= second.1 {
        return Ok(());
    }
    Err(ConfigError::new(first.0, format!("{} is more than {}, which is {}: {why}", first.1, second.0, second.1)))
}

/// Refuses two addresses of which only one could be listened on. Port 0 is any that is free.
pub fn apart(addresses: &[(&str, SocketAddr)]) -> Result<(), ConfigError> {
    for (index, (name, address)) in addresses.iter().enumerate() {
        let before = addresses.iter().take(index).find(|(_, before)| overlap(*before, *address));
        if let Some((other, taken)) = before {
            let problem = format!("{address} is taken by {other}, which is {taken}: choose another port");
            return Err(ConfigError::new(*name, problem));
        }
    }
    Ok(())
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (is_everywhere || one.ip() == other.ip())
}

/// A warning for each of `names` that is set, and does nothing for the reason given: `without KAFKA_BROKERS`.
pub fn unused(env: &dyn Env, names: &[&str], reason: &str) -> Vec<String> {
    let set = names.iter().filter(|name| is_set(env, name));
    set.map(|name| format!("{name} has no effect {reason}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_names_both() {
        let check =
            |pace| at_most(("PACE_MS", pace), ("MOST_MS", 700), "there is no such pace").map_err(|e| e.to_string());
        assert_eq!(check(700), Ok(()));
        assert_eq!(check(701).unwrap_err(), "PACE_MS: 701 is more than MOST_MS, which is 700: there is no such pace");
    }

    #[test]
    fn addresses_that_cannot_both_be_listened_on_are_refused() {
        let check = |one: &str, other: &str| {
            apart(&[("A_ADDR", one.parse().unwrap()), ("B_ADDR", other.parse().unwrap())]).map_err(|e| e.to_string())
        };
        for (one, other) in [("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.1:1", "127.0.0.2:1"), ("0.0.0.0:0", "0.0.0.0:0")]
        {
            assert_eq!(check(one, other), Ok(()));
        }
        assert_eq!(
            check("127.0.0.1:1", "0.0.0.0:1").unwrap_err(),
            "B_ADDR: 0.0.0.0:1 is taken by A_ADDR, which is 127.0.0.1:1: choose another port"
        );
        assert!(check("127.0.0.1:1", "127.0.0.1:1").is_err());
    }
}
