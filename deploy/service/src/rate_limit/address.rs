//! Whose address a request comes from, and which proxies are believed.
//!
//! ```text
//! the peer is no proxy of ours        -> the peer; what it says of others is worth nothing
//! it is one                           -> the header, from the right: the first address that is no proxy of ours
//! something there is no address       -> the proxy that wrote it: nothing beyond is known
//! ```
//!
//! Only one header is read, the one that the proxies write: of another a client could write what it likes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Longer chains are not followed.
const MAX_HOPS: usize = 32;

/// Nor is what lies more bytes from the end than this.
const MAX_BYTES: usize = 4_096;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of a connection; in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The header that says who is behind a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyHeader {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// Proxies that are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    pub networks: Vec<Network>,
    pub header: ProxyHeader,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("`{text}` is not a network, such as 10.0.0.0/8, fd00::/8 or 192.0.2.7");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix > most {
            return Err(wrong());
        }
        // Addresses are compared as IPv4 where they are that.
        let canonical = address.to_canonical();
        let ahead = if canonical == address { 0 } else { 96 };
        Ok(Self { address: canonical, prefix: prefix.checked_sub(ahead).ok_or_else(wrong)? })
    }
}

impl FromStr for ProxyHeader {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err(()),
        }
    }
}

impl Network {
    fn has(&self, address: IpAddr) -> bool {
        let differ = |left: u128, right: u128, bits: u8| {
            let shift = u32::from(bits - self.prefix);
            left.checked_shr(shift).unwrap_or(0) != right.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(address)) => !differ(own.to_bits().into(), address.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(address)) => !differ(own.to_bits(), address.to_bits(), 128),
            _ => false,
        }
    }
}

impl TrustedProxies {
    /// Who sent a request that came from `peer`.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut known = peer.to_canonical();
        if !self.trusts(known) {
            return known;
        }
        let name = match self.header {
            ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
            ProxyHeader::Forwarded => header::FORWARDED,
        };
        for hop in hops(headers.get_all(name).iter()) {
            let hop = str::from_utf8(hop).ok();
            let address = match self.header {
                ProxyHeader::XForwardedFor => hop.and_then(address),
                ProxyHeader::Forwarded => hop.and_then(forwarded_for).and_then(address),
            };
            let Some(address) = address else { return known };
            known = address;
            if !self.trusts(known) {
                return known;
            }
        }
        known
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.has(address))
    }
}

/// From the right, within bounds. One that is cut off is empty: it is no address.
fn hops<'a>(lines: impl DoubleEndedIterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    let mut room = MAX_BYTES;
    let whole = move |line: &'a HeaderValue| {
        let line = line.as_bytes();
        let cut = line.len().saturating_sub(room);
        room = room.saturating_sub(line.len());
        let seen = line.get(cut..).unwrap_or_default();
        match seen.iter().position(|byte| *byte == b',').filter(|_| cut > 0) {
            Some(comma) => seen.get(comma..).unwrap_or_default(),
            None if cut > 0 => &[],
            None => seen,
        }
    };
    lines.rev().map(whole).flat_map(|line| line.rsplit(|byte| *byte == b',')).take(MAX_HOPS)
}

/// `for` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// What a client holds: an IPv4 address, or an IPv6 network of /64, of which one client has all addresses.
pub(super) fn of_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Where no listener says who asks: in tests of routers.
pub(super) const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn proxies(networks: &[&str], header: ProxyHeader) -> TrustedProxies {
        TrustedProxies { networks: networks.iter().map(|text| text.parse().unwrap()).collect(), header }
    }

    fn client(proxies: &TrustedProxies, peer: &str, name: &'static str, lines: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(line));
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn who_is_no_proxy_is_not_believed() {
        let none = TrustedProxies::default();
        assert_eq!(client(&none, "192.0.2.1", "x-forwarded-for", &["8.8.8.8"]), "192.0.2.1");
        let ours = proxies(&["10.0.0.0/8"], ProxyHeader::XForwardedFor);
        assert_eq!(client(&ours, "192.0.2.1", "x-forwarded-for", &["8.8.8.8"]), "192.0.2.1");
        assert_eq!(client(&ours, "10.1.1.1", "forwarded", &["for=8.8.8.8"]), "10.1.1.1", "not the proxy's header");
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_of_ours() {
        let ours = proxies(&["10.0.0.0/8", "fd00::/8", "192.0.2.7"], ProxyHeader::XForwardedFor);
        for (lines, expected) in [
            (&["8.8.8.8"][..], "8.8.8.8"),
            (&["1.1.1.1, 8.8.8.8, 10.2.2.2"], "8.8.8.8"),
            (&["1.1.1.1", "8.8.8.8,fd00::7"], "8.8.8.8"),
            (&["9.9.9.9:4711"], "9.9.9.9"),
            (&["[2001:db8::1]:80, 192.0.2.7"], "2001:db8::1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["::ffff:8.8.8.8"], "8.8.8.8"),
            (&["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            (&["8.8.8.8, unknown, 10.2.2.2"], "10.2.2.2"),
            (&["8.8.8.8, "], "10.1.1.1"),
            (&["x"], "10.1.1.1"),
            (&[], "10.1.1.1"),
        ] {
            assert_eq!(client(&ours, "10.1.1.1", "x-forwarded-for", lines), expected, "{lines:?}");
            assert_eq!(client(&ours, "::ffff:10.1.1.1", "x-forwarded-for", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_as_its_rfc_writes_it() {
        let ours = proxies(&["10.0.0.0/8"], ProxyHeader::Forwarded);
        for (line, expected) in [
            ("for=8.8.8.8", "8.8.8.8"),
            ("For=\"[2001:db8:cafe::17]:4711\";proto=https", "2001:db8:cafe::17"),
            ("for=1.1.1.1, by=10.1.1.1;for=8.8.8.8;host=a, for=10.9.9.9", "8.8.8.8"),
            ("for=_hidden", "10.1.1.1"),
            ("proto=https", "10.1.1.1"),
        ] {
            assert_eq!(client(&ours, "10.1.1.1", "forwarded", &[line]), expected, "{line}");
        }
    }

    #[test]
    fn of_a_long_header_only_the_end_is_looked_at() {
        let ours = proxies(&["10.0.0.0/8"], ProxyHeader::XForwardedFor);
        let client = |lines: &[String]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            ours.client("10.1.1.1".parse().unwrap(), &headers).to_string()
        };
        let of = |hops: usize| format!("8.8.8.8{}", ", 10.2.2.2".repeat(hops));
        assert_eq!((client(&[of(MAX_HOPS - 1)]), client(&[of(MAX_HOPS)])), ("8.8.8.8".into(), "10.2.2.2".into()));
        assert_eq!(client(&["\u{e9}, 8.8.8.8".into()]), "8.8.8.8", "what a client wrote is not looked at");
        let blanks = |bytes: usize| " ".repeat(bytes);
        assert_eq!(client(&[format!("8.8.8.8{}", blanks(MAX_BYTES - 7))]), "8.8.8.8");
        // What is left of `18.8.8.8` would be another address.
        for line in
            [format!("18.8.8.8,10.2.2.2{}", blanks(MAX_BYTES - 16)), format!("8.8.8.8,10.2.2.2{}", blanks(MAX_BYTES))]
        {
            assert_ne!(client(&[line]), "8.8.8.8");
        }
        assert_eq!(client(&["8.8.8.8".into(), format!("10.2.2.2{}", blanks(MAX_BYTES - 8))]), "10.2.2.2");
    }

    #[test]
    fn networks() {
        let has = |network: &str, address: &str| network.parse::<Network>().unwrap().has(address.parse().unwrap());
        assert!(has("0.0.0.0/0", "8.8.8.8") && !has("0.0.0.0/0", "::1") && has("::/0", "2001:db8::1"));
        assert!(has("192.0.2.128/25", "192.0.2.200") && !has("192.0.2.128/25", "192.0.2.100"));
        assert!(has("::ffff:10.0.0.0/104", "10.9.9.9") && !has("::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!(has("::ffff:192.0.2.7", "192.0.2.7") && !has("::ffff:192.0.2.7", "192.0.2.8"));
        for wrong in ["", "::ffff:0.0.0.0/95", "10.0.0.0/33", "10.0.0/8", "host", "::/129", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_client_of_ipv6_has_a_network() {
        let of = |text: &str| of_client(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!((of("::ffff:1.2.3.4"), of("1.2.3.4")), ("1.2.3.4".into(), "1.2.3.4".into()));
    }
}
