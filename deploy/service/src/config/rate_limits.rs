//! How many requests are taken, of whom.

use clap::Args;

use crate::env::{self, ConfigError, Env, Whole, choice, whole};
use crate::rate_limit::{Mode, Network, ProxyHeader, RateLimitSettings, Rule, TrustedProxies};

use super::{DataFolder, is_development};

/// Limits of addresses, and who stands between them and us. Those of keys are settings of projects.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rate limits")]
pub struct RateLimiting {
    /// `enforce`; `report`: counted and told in headers, and nobody is refused; `off` (default: enforce, in development report)
    #[arg(long, env = "RATE_LIMITS", value_parser = choice::<Mode>(&["enforce", "report", "off"]))]
    pub rate_limits: Option<Mode>,
    /// Requests of one address (of IPv6: one /64 network) in a minute, of each service
    #[arg(long, env = "RATE_LIMIT_REQUESTS", default_value = "1000", value_parser = requests())]
    pub rate_limit_requests: u64,
    /// Of these, to administrative routes
    #[arg(long, env = "RATE_LIMIT_ADMIN_REQUESTS", default_value = "120", value_parser = requests())]
    pub rate_limit_admin_requests: u64,
    /// How many instances share the limits while Redis is away: each takes its part (default: as many as Redis last counted, without Redis 1)
    #[arg(long, env = "RATE_LIMIT_INSTANCES", value_parser = whole::<u64>(1, 10_000, "instances"))]
    pub rate_limit_instances: Option<u64>,
    /// Networks of proxies that are believed whose requests they pass on, such as `10.0.0.0/8,fd00::/8`; without them all requests
    /// that a proxy passes on are the proxy's (default: none)
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',', value_parser = |text: &str| text.parse::<Network>())]
    pub trusted_proxies: Vec<Network>,
    /// The header in which they say it: `x-forwarded-for` or `forwarded`; the other one is not read
    #[arg(long, env = "TRUSTED_PROXY_HEADER", default_value = "x-forwarded-for", value_parser = choice::<ProxyHeader>(&["x-forwarded-for", "forwarded"]))]
    pub trusted_proxy_header: ProxyHeader,
}

fn requests() -> Whole<u64> {
    whole(1, 100_000_000, "requests")
}

/// The limits of this installation.
pub fn rate_limits(env: &dyn Env) -> Result<RateLimitSettings, ConfigError> {
    let set: RateLimiting = env::read(env)?;
    let mode = match set.rate_limits {
        Some(mode) => mode,
        None if is_development(env)? => Mode::Report,
        None => Mode::Enforce,
    };
    Ok(RateLimitSettings {
        mode,
        requests: Rule::per_minute(set.rate_limit_requests),
        admin: Rule::per_minute(set.rate_limit_admin_requests),
        proxies: TrustedProxies { networks: set.trusted_proxies, header: set.trusted_proxy_header },
        instances: set.rate_limit_instances,
        data: Some(env::read::<DataFolder>(env)?.tallyhouse_data),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<RateLimitSettings, String> {
        let env: BTreeMap<_, _> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        rate_limits(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_is_refused_in_development_unless_it_is_said() {
        let mode = |pairs: &[(&str, &str)]| read(pairs).unwrap().mode;
        assert_eq!((mode(&[]), mode(&[("TALLYHOUSE_DEV", "1")])), (Mode::Enforce, Mode::Report));
        assert_eq!(mode(&[("TALLYHOUSE_DEV", "1"), ("RATE_LIMITS", "enforce")]), Mode::Enforce);
    }

    #[test]
    fn proxies_are_networks() {
        let read = read(&[("TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8"), ("TRUSTED_PROXY_HEADER", "Forwarded")]);
        let proxies = read.unwrap().proxies;
        assert_eq!((proxies.networks.len(), proxies.header), (2, ProxyHeader::Forwarded));
        let error = self::read(&[("TRUSTED_PROXIES", "proxy.internal")]).unwrap_err();
        assert!(error.starts_with("TRUSTED_PROXIES: `proxy.internal` is not a network"), "{error}");
    }
}
