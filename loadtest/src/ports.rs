//! Free ports.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// So many. All are held while they are chosen, so that they differ.
pub fn free(count: usize) -> io::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    held.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

/// The same in an array.
pub fn free_array<const N: usize>() -> io::Result<[u16; N]> {
    free(N)?.try_into().map_err(|_| io::Error::other("there are too few free ports"))
}

/// The same as addresses on loopback.
pub fn free_addresses(count: usize) -> io::Result<Vec<String>> {
    Ok(free(count)?.into_iter().map(|port| format!("127.0.0.1:{port}")).collect())
}

/// One address on loopback.
pub fn free_address() -> io::Result<String> {
    free_array().map(|[port]: [u16; 1]| format!("127.0.0.1:{port}"))
}
