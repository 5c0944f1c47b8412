//! What one client, or one broker, cannot do to the others: deadlines, stops, connections and memory.

use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use serde_json::json;
use tallyhouse_testkit::ingest_service::{Service, body, everywhere};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{Folder, engine, eventually, new_project};
use tokio::net::TcpListener;

#[test]
fn a_broker_that_dies_during_a_commit_holds_up_no_stop() {
    // As `main` does: a thread that still waits for the broker does not keep the program.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(stop_during_a_commit());
    runtime.shutdown_background();
}

async fn stop_during_a_commit() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("stops", 1, 1).unwrap();
    let (brokers, project, data) = (mock.bootstrap_servers(), new_project(), Folder::create());
    let proxy = Proxy::start(engine().await.writer()).await;
    let settings = [
        ("KAFKA_BROKERS", brokers.as_str()),
        ("KAFKA_TOPIC", "stops"),
        ("KAFKA_GROUP", "stops"),
        ("KAFKA_REVOKE_MS", "2000"),
        ("KAFKA_OPTIONS", "socket.timeout.ms=100000"),
        ("INGEST_ACK_TIMEOUT_MS", "10000"),
    ];
    let service = Service::start_with(proxy.connection.clone(), &data, &project, &settings).await;
    let connection = engine().await.writer();
    let stored = || service.metric("tallyhouse_ingest_inserted_rows_total");
    assert_eq!(service.send(body(0..10)).await.status, 202);
    eventually("a first batch is stored", async || stored() == 10).await;
    proxy.set(Mode::HoldAnswers);
    assert_eq!(service.send(body(10..20)).await.status, 202);
    eventually("an insert was applied", async || everywhere(&connection, &project).await == [20; 4]).await;
    mock.broker_round_trip_time(1, Duration::from_secs(100)).unwrap();
    proxy.set(Mode::Pass);
    eventually("its answer is there, and a commit begins", async || stored() == 20).await;
    let started = Instant::now();
    let stopped = tokio::time::timeout(Duration::from_secs(40), service.stop()).await;
    assert!(stopped.is_ok(), "it did not stop");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_waits_for_those_before_it_while_kafka_does_not_answer() {
    // Connections are taken by the system, and nobody speaks.
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (brokers, project, data) = (hung.local_addr().unwrap().to_string(), new_project(), Folder::create());
    let settings =
        [("KAFKA_BROKERS", brokers.as_str()), ("INGEST_ROLE", "gateway"), ("INGEST_ACK_TIMEOUT_MS", "10000")];
    let service = Service::start_with(engine().await.writer(), &data, &project, &settings).await;
    let endpoint = service.endpoint();
    let started = Instant::now();
    let requests =
        (0..30).map(|n| endpoint.post(json!({"eventId": n.to_string(), "eventType": "a"}).to_string().into()));
    for reply in futures_util::future::join_all(requests).await {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 202, "{}", reply.excerpt());
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    service.stop().await;
}

#[cfg(target_os = "linux")]
mod program {
    use std::process::{Child, Command, Stdio};

    use tallyhouse_loadtest::process;
    use tallyhouse_service::http_client::{Endpoint, Reply};
    use tallyhouse_testkit::{free_ports, programs};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    struct Program {
        child: Child,
        admin: String,
        public: u16,
        endpoint: Endpoint,
    }

    impl Drop for Program {
        fn drop(&mut self) {
            drop((self.child.kill(), self.child.wait()));
        }
    }

    impl Program {
        /// With few descriptors.
        async fn start(data: &Folder) -> Self {
            let (connection, [public, admin]) = (engine().await.writer(), free_ports());
            let child = Command::new("sh")
                // Whoever runs the tests may ignore hang-ups, and a child inherits that.
                .args(["-c", "ulimit -n 256 && exec env --default-signal=HUP \"$0\""])
                .arg(programs::ingest())
                .env("TALLYHOUSE_DEV", "1")
                .env("TALLYHOUSE_DATA", data.path())
                .env("TALLYHOUSE_SHUTDOWN_DELAY_MS", "3000")
                .env("INGEST_ADDR", format!("127.0.0.1:{public}"))
                .env("INGEST_ADMIN_ADDR", format!("127.0.0.1:{admin}"))
                .env("CLICKHOUSE_URL", &connection.url)
                .env("CLICKHOUSE_USER", &connection.user)
                .env("CLICKHOUSE_PASSWORD", &connection.password)
                .env("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f")
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let url = format!("http://127.0.0.1:{public}/v1/events");
            let endpoint = Endpoint::new(&url, Duration::from_secs(10)).unwrap().api_key("demo-ingest-key").unwrap();
            let program = Self { child, admin: format!("http://127.0.0.1:{admin}"), public, endpoint };
            eventually("it takes events", async || {
                program.endpoint.post("{\"eventType\":\"a\"}".into()).await.is_ok_and(|reply| reply.status == 202)
            })
            .await;
            program
        }

        async fn send(&self) -> Reply {
            self.endpoint.post("{\"eventType\":\"a\"}".into()).await.unwrap()
        }

        async fn health(&self, path: &str) -> u16 {
            let endpoint = Endpoint::new(&self.admin, Duration::from_secs(5)).unwrap();
            endpoint.get(path).await.unwrap().status.as_u16()
        }

        /// A connection from another address with half a head.
        async fn half_open(&self) -> Option<TcpStream> {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            let to = std::net::SocketAddr::from(([127, 0, 0, 1], self.public));
            let connected = tokio::time::timeout(Duration::from_secs(2), socket.connect(to)).await;
            let mut stream = connected.ok()?.ok()?;
            stream.write_all(b"POST /v1/events HTTP/1.1\r\n").await.ok()?;
            Some(stream)
        }
    }

    /// Blanks, as much as is taken after decompression.
    fn blanks() -> Vec<u8> {
        let mut blanks = vec![b' '; 16 << 20];
        blanks[0] = b'[';
        blanks[(16 << 20) - 1] = b']';
        blanks
    }

    fn gzip_bomb() -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&blanks()).unwrap();
        encoder.finish().unwrap()
    }

    /// With the largest window that HTTP allows, or a larger one.
    fn zstd_bomb(window_log: u32) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(&blanks()).unwrap();
        encoder.finish().unwrap()
    }

    impl Program {
        async fn bomb(&self, encoding: &str, body: Vec<u8>) -> u16 {
            let url = format!("http://127.0.0.1:{}/v1/events", self.public);
            let endpoint = Endpoint::new(&url, Duration::from_secs(30)).unwrap().api_key("demo-ingest-key").unwrap();
            let endpoint = endpoint.header(hyper::header::CONTENT_ENCODING, encoding).unwrap();
            endpoint.post(body.into()).await.unwrap().status.as_u16()
        }

        /// Events of another project, one after the other, until nobody else works on what is given.
        async fn beside<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
            let url = format!("http://127.0.0.1:{}/v1/events", self.public);
            let guest = Endpoint::new(&url, Duration::from_secs(20)).unwrap().api_key("guest-ingest-key").unwrap();
            let mut work = std::pin::pin!(work);
            for sent in 0.. {
                tokio::select! {
                    done = &mut work => return (done, sent),
                    reply = guest.post("{\"eventType\":\"a\"}".into()) => {
                        let reply = reply.unwrap();
                        assert_eq!(reply.status, 202, "{}", reply.excerpt());
                    }
                }
            }
            unreachable!("it is done before");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bodies_that_inflate_or_never_come_take_little_and_keep_nobody_out() {
        let data = Folder::create();
        let program = Program::start(&data).await;
        let program = &program;
        let (gzip, allowed, beyond) = (gzip_bomb(), zstd_bomb(23), zstd_bomb(27));
        assert!(gzip.len() < 20_000 && allowed.len() < 4_000);
        let bombs = (0..90).map(async |n| match n % 3 {
            0 => program.bomb("gzip", gzip.clone()).await,
            1 => program.bomb("zstd", allowed.clone()).await,
            _ => program.bomb("zstd", beyond.clone()).await,
        });
        let (answers, sent) = program.beside(futures_util::future::join_all(bombs)).await;
        assert!(answers.iter().all(|status| [400, 429].contains(status)), "{answers:?}");
        assert!(sent > 0);
        let peak = process::memory(i32::try_from(program.child.id()).unwrap()).unwrap().peak;
        assert!(peak < 300_000_000, "{peak}");

        // They announce 80 MB in all, or nothing, and send little.
        let idle = "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: demo-ingest-key\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
        let trickled =
            "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: demo-ingest-key\r\ncontent-length: 4000000\r\n\r\n[";
        let mut open = Vec::new();
        for head in [idle; 3].into_iter().chain([trickled; 20]) {
            let mut stream = TcpStream::connect(("127.0.0.1", program.public)).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            open.push(stream);
        }
        let ((), _) = program.beside(tokio::time::sleep(Duration::from_secs(1))).await;
        assert_eq!(program.send().await.status, 202, "of the same project");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_of_connections_keeps_nobody_out_and_a_hangup_drains() {
        let data = Folder::create();
        let mut program = Program::start(&data).await;
        let mut half_open = Vec::new();
        for n in 0..600 {
            half_open.extend(program.half_open().await);
            if n % 50 == 49 {
                assert_eq!((program.send().await.status.as_u16(), program.health("/health/live").await), (202, 200));
            }
        }
        assert!(half_open.len() > 400, "{}", half_open.len());
        let pid = i32::try_from(program.child.id()).unwrap();
        process::signal(pid, rustix::process::Signal::HUP).unwrap();
        eventually("it is not ready", async || program.health("/health/ready").await == 503).await;
        let served = program.send().await;
        assert_eq!((served.status.as_u16(), served.headers["connection"].to_str().unwrap()), (202, "close"));
        let started = Instant::now();
        let mut ended = None;
        eventually("it has ended", async || {
            ended = program.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        assert!(ended.unwrap().success() && started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    }
}
