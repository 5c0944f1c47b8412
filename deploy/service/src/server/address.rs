//! What counts as one address.

use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address, however it is written; of IPv6 the network, because each client has a /64 to choose from.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(of("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(
            (of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::9")),
            ("2001:db8:1:2::".into(), "2001:db8:1:2::".into())
        );
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
