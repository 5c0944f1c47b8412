//! `--health`: a program asks the running service of the same settings whether it is ready. For images that have no other client.
//!
//! ```text
//! address of the admin port (any address: loopback) -> GET /health/ready, over TLS when the listeners speak it -> ready, or why not
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

use crate::config::own_listener;
use crate::env::{ConfigError, Env};
use crate::http_client::{Endpoint, HttpError};
use crate::lifecycle::block_on;

/// Less than orchestrators wait.
const WITHIN: Duration = Duration::from_secs(4);

/// The id of the flag.
pub const FLAG: &str = "health";

/// Why a service counts as not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("the admin port at {address}: {source}")]
    NoAnswer { address: SocketAddr, source: HttpError },
    #[error("the admin port at {address} says {status}; GET /health there tells why")]
    Refused { address: SocketAddr, status: u16 },
    #[error("{0}")]
    Runtime(#[from] std::io::Error),
}

/// Adds `--health` to a program.
pub fn with_flag(command: Command) -> Command {
    let help = "Ask the running service of these settings whether it is ready, and end: 0 when it is, 1 when it is not";
    command.arg(Arg::new(FLAG).long(FLAG).action(ArgAction::SetTrue).help(help))
}

/// What `--health` does: asks the admin port that the settings name.
#[allow(clippy::print_stderr, reason = "a command's answer to people; logs are not set up")]
pub fn run(env: &dyn Env, address: Result<SocketAddr, ConfigError>) -> ExitCode {
    match address.map_err(NotReady::from).and_then(|address| block_on(ready(env, address))?) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("not ready: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn ready(env: &dyn Env, address: SocketAddr) -> Result<(), NotReady> {
    let address = reachable(address);
    let no_answer = |source| NotReady::NoAnswer { address, source };
    let endpoint = match own_listener(env)? {
        Some(tls) => Endpoint::over(&tls, &format!("https://{address}/"), WITHIN),
        None => Endpoint::new(&format!("http://{address}/"), WITHIN),
    };
    let reply = endpoint.map_err(no_answer)?.max_reply_bytes(1 << 16).get("/health/ready").await.map_err(no_answer)?;
    let status = reply.status;
    if status.is_success() { Ok(()) } else { Err(NotReady::Refused { address, status: status.as_u16() }) }
}

/// Any address is none to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_of_any_address_is_asked_on_loopback() {
        let pairs =
            [("0.0.0.0:9081", "127.0.0.1:9081"), ("[::]:9081", "[::1]:9081"), ("10.0.0.7:9081", "10.0.0.7:9081")];
        for (listened, asked) in pairs {
            assert_eq!(reachable(listened.parse().unwrap()).to_string(), asked);
        }
    }

    #[tokio::test]
    async fn ready_is_what_the_admin_port_says() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            for status in ["200 OK", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /health/ready HTTP/1.1\r\n"));
                let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        let env = BTreeMap::new();
        let address = format!("0.0.0.0:{port}").parse().unwrap();
        ready(&env, address).await.unwrap();
        assert!(matches!(ready(&env, address).await, Err(NotReady::Refused { status: 503, .. })));
        serving.await.unwrap();
        assert!(matches!(ready(&env, address).await, Err(NotReady::NoAnswer { .. })));
    }
}
