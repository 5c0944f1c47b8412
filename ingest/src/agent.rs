//! User agents -> device, os, browser. Parsing one takes tens of microseconds and clients have few, so answers are kept.

use moka::sync::Cache;
use tallyhouse_schema::normalise::Agent;

/// User agents that are remembered: enough for the versions in use, about 2 MB.
const REMEMBERED: u64 = 10_000;

/// Longer ones are made up; parsing cost grows with length.
const MAX_BYTES: usize = 512;

/// Reads user agents.
pub struct Agents {
    parser: woothee::parser::Parser,
    known: Cache<String, Agent>,
}

impl Default for Agents {
    fn default() -> Self {
        Self { parser: woothee::parser::Parser::new(), known: Cache::new(REMEMBERED) }
    }
}

impl Agents {
    /// What a user agent says; all empty when it says nothing known.
    pub fn read(&self, user_agent: &str) -> Agent {
        if user_agent.len() > MAX_BYTES {
            return Agent::default();
        }
        if let Some(known) = self.known.get(user_agent) {
            return known;
        }
        let agent = self.parser.parse(user_agent).map_or_else(Agent::default, |found| Agent {
            device: device(found.category),
            os: named(found.os).into(),
            browser: named(found.name).into(),
        });
        self.known.insert(user_agent.to_owned(), agent.clone());
        agent
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

fn named(name: &str) -> &str {
    if name == "UNKNOWN" { "" } else { name }
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
        assert_eq!((desktop.device, &*desktop.os, &*desktop.browser), ("desktop", "Linux", "Firefox"));
        let phone = agents.read(iphone);
        assert_eq!((phone.device, &*phone.browser), ("mobile", "Safari"));
        assert_eq!(agents.read("curl/8.0"), agents.read("curl/8.0"));
        assert_eq!(agents.read(&"x".repeat(10_000)), Agent::default());
    }
}
