//! Where the engine listens, and whom it lets in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address, or all that begin so: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: Option<u8>,
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => None,
            Some(text) if is_digits(text) => Some(text.parse().ok().filter(|bits| *bits <= most).ok_or(())?),
            Some(_) => return Err(()),
        };
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits {
            Some(bits) => write!(f, "{}/{bits}", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// Elements of `<networks>` of whoever is not the product itself: this machine, and what is configured.
pub(super) fn networks(clients: &[Network]) -> String {
    let clients = clients.iter().map(|network| format!("<ip>{network}</ip>"));
    ["<ip>127.0.0.1</ip>".to_owned(), "<ip>::1</ip>".to_owned()].into_iter().chain(clients).collect()
}

/// The addresses that are listened on: loopback always, where the product's own connections come in.
pub(super) fn listened(listen: IpAddr) -> Vec<IpAddr> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // `::` takes IPv4 as well.
    let has_loopback = listen == loopback || listen == Ipv4Addr::UNSPECIFIED || listen == Ipv6Addr::UNSPECIFIED;
    if has_loopback { vec![listen] } else { vec![loopback, listen] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_they_are_written() {
        for good in ["10.0.0.0/8", "172.17.0.1", "fd00::/8", "0.0.0.0/0"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0", "::1/129", "a", "10.0.0.0/8/8", "<ip>"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_always_listened_on() {
        let listened = |text: &str| listened(text.parse().unwrap()).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(listened("127.0.0.1"), ["127.0.0.1"]);
        assert_eq!(listened("0.0.0.0"), ["0.0.0.0"]);
        assert_eq!(listened("::"), ["::"]);
        assert_eq!(listened("172.17.0.1"), ["127.0.0.1", "172.17.0.1"]);
    }
}
