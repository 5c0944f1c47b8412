//! Parses user agents into device, os and browser. Parsing takes tens of microseconds and clients have few agents, so results are cached.

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, PoisonError, RwLock};

use tallyhouse_schema::normalise::Agent;
use woothee::dataset::DATASET;
use woothee::parser::Parser;

/// User agents that are remembered: enough for the versions in use, about 2 MB.
const REMEMBERED: usize = 10_000;

/// Longer ones are made up; parsing cost grows with length.
const MAX_BYTES: usize = 512;

/// Reads user agents.
pub struct Agents {
    parser: Parser,
    cache: RwLock<AgentCache>,
}

/// Answers in two generations. When the young one is full it becomes the old one, and of that only what is asked for again
/// comes back: made-up user agents do not push the common ones out.
#[derive(Default)]
struct AgentCache {
    young: HashMap<Box<str>, Agent>,
    old: HashMap<Box<str>, Agent>,
}

impl AgentCache {
    fn remember(&mut self, user_agent: &str, agent: Agent) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(user_agent.into(), agent);
    }
}

impl Default for Agents {
    fn default() -> Self {
        Self { parser: Parser::new(), cache: RwLock::default() }
    }
}

impl Agents {
    /// What a user agent says; all empty when it says nothing known.
    pub fn read(&self, user_agent: &str) -> Agent {
        if user_agent.len() > MAX_BYTES {
            return Agent::default();
        }
        let old = {
            let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(agent) = cache.young.get(user_agent) {
                return *agent;
            }
            cache.old.get(user_agent).copied()
        };
        let agent = old.unwrap_or_else(|| self.parse(user_agent));
        self.cache.write().unwrap_or_else(PoisonError::into_inner).remember(user_agent, agent);
        agent
    }

    fn parse(&self, user_agent: &str) -> Agent {
        self.parser.parse(user_agent).map_or_else(Agent::default, |found| Agent {
            device: device(found.category),
            os: named(found.os),
            browser: named(found.name),
        })
    }
}

fn device(category: &str) -> &'static str {
    match category {
        "pc" => "desktop",
        "smartphone" | "mobilephone" => "mobile",
        "appliance" => "console",
        "crawler" => "bot",
        _ => "other",
    }
}

/// The parser lends names for as long as it has the user agent, but all of them are from its list.
fn named(name: &str) -> &'static str {
    static NAMES: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
        DATASET.values().flat_map(|entry| [entry.name, entry.os]).filter(|name| *name != "UNKNOWN").collect()
    });
    NAMES.get(name).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_agents_are_told_apart() {
        let agents = Agents::default();
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
        let iphone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                      Version/18.0 Mobile/15E148 Safari/604.1";
        let desktop = agents.read(firefox);
        assert_eq!((desktop.device, desktop.os, desktop.browser), ("desktop", "Linux", "Firefox"));
        let phone = agents.read(iphone);
        assert_eq!((phone.device, phone.os, phone.browser), ("mobile", "iPhone", "Safari"));
        assert_eq!(agents.read("curl/8.0"), agents.read("curl/8.0"));
        assert_eq!(agents.read(&"x".repeat(10_000)), Agent::default());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_in_use_stays() {
        let agents = Agents::default();
        for n in 0..3 * REMEMBERED {
            agents.cache.write().unwrap().remember(&n.to_string(), Agent::default());
            if n % 1_000 == 0 {
                agents.read("curl/8.0");
            }
        }
        let cache = agents.cache.read().unwrap();
        assert!(cache.young.len() + cache.old.len() <= REMEMBERED);
        assert!(cache.young.contains_key("curl/8.0") || cache.old.contains_key("curl/8.0"));
    }
}
