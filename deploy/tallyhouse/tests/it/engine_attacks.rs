//! What clients without a password send to the embedded ClickHouse: it stays the same process, and nobody else notices.
//!
//! Each of these ended it while it was not on a terminal (`engine/pty.rs`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tallyhouse::engine::{Engine, EngineOptions};
use tallyhouse_sql::Connection;
use tallyhouse_testkit::{Folder, ask, free_ports, options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::native_packets::{hello, query};

const ROUNDS: usize = 5;

/// An attack waits this long for an answer that it does not need.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A bystander's question. Far more than it takes, far less than a restart.
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// How a packet ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    /// RST instead of FIN.
    Reset,
}

/// What is sent to a port.
#[derive(Debug)]
struct Attack {
    name: &'static str,
    is_native: bool,
    /// What is sent, one after the other; between them an answer is awaited.
    packets: Vec<Vec<u8>>,
    end: End,
}

fn attacks() -> Vec<Attack> {
    let http = |name, packets: &[&str], end| Attack {
        name,
        is_native: false,
        packets: packets.iter().map(|packet| packet.as_bytes().to_vec()).collect(),
        end,
    };
    let native = |name, packets, end| Attack { name, is_native: true, packets, end };
    let long = format!("GET /?query={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1_500_000));
    let ping = "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n";
    vec![
        native("a wrong password", vec![hello("nobody", "wrong")], End::Close),
        native("junk", vec![(0..50_u8).map(|byte| byte.wrapping_mul(37) ^ 0x5a).collect()], End::Close),
        native("a close after a query", vec![hello("reader", "dev"), query("SELECT sleep(0.2)")], End::Close),
        native("a reset after a query", vec![hello("reader", "dev"), query("SELECT sleep(0.2)")], End::Reset),
        http(
            "a length beyond 64 bits",
            &["POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"],
            End::Close,
        ),
        http("a close after a request", &[ping], End::Close),
        http("a reset after a long URL", &[&long], End::Reset),
        http("a request in keep-alive, then a close", &[ping, ping], End::Close),
    ]
}

async fn attack(attack: &Attack, port: u16) -> std::io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect(address).await?;
    for (number, packet) in attack.packets.iter().enumerate() {
        if number > 0 {
            drop(timeout(ANSWER_WITHIN, stream.read(&mut [0; 1_024])).await);
        }
        stream.write_all(packet).await?;
    }
    if matches!(attack.end, End::Reset) {
        stream.set_zero_linger()?;
    }
    Ok(())
}

/// Asks until it is told to stop; the answers, and what was none.
async fn bystander(reader: Connection, stop: &AtomicBool) -> (u32, Vec<String>) {
    let (mut answers, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        match timeout(ASKED_WITHIN, ask(&reader, "SELECT 1")).await {
            Ok(Ok(_)) => answers += 1,
            Ok(Err(error)) => failures.push(error),
            Err(_) => failures.push(format!("no answer within {ASKED_WITHIN:?}")),
        }
        sleep(Duration::from_millis(20)).await;
    }
    (answers, failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_packet_ends_it_or_fails_anybody_elses_question() {
    let folder = Folder::create();
    let [tcp_port] = free_ports();
    let options = EngineOptions { tcp_port: Some(tcp_port), ..options(folder.path()) };
    let http_port = options.http_port;
    let engine = Engine::start(options).await.unwrap();
    let before = engine.pid();
    let stop = AtomicBool::new(false);
    let siege = async {
        for _ in 0..ROUNDS {
            for one in attacks() {
                let port = if one.is_native { tcp_port } else { http_port };
                // What it cannot send any more was answered before.
                drop(attack(&one, port).await);
                // Its end comes seconds after the packet: by then the next ones are sent.
                sleep(Duration::from_millis(100)).await;
                assert_eq!(engine.restarts(), 0, "it ended at or before: {}", one.name);
            }
        }
        sleep(Duration::from_secs(4)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let ((answers, failures), ()) = tokio::join!(bystander(engine.reader(), &stop), siege);
    assert_eq!((engine.pid(), engine.restarts()), (before, 0), "{failures:?}");
    assert!(failures.is_empty() && answers > 50, "{answers} answers, and {failures:?}");
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn nobody_listens_for_the_native_protocol_unless_it_was_asked_for() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let pid = engine.pid().unwrap();
    assert_eq!(listening(pid), 1);
    engine.stop(Duration::from_secs(10)).await;
}

/// How many TCP sockets a process listens on.
fn listening(pid: u32) -> usize {
    const LISTEN: &str = "0A";
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let table =
        ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let fields =
        table.iter().flat_map(|table| table.lines().skip(1)).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[3] == LISTEN && sockets.contains(&format!("socket:[{}]", fields[9]))).count()
}
