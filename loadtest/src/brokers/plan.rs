//! The configuration of a broker: its `server.properties`, from its place among the brokers.

use std::path::{Path, PathBuf};

/// One broker, which is a controller as well.
#[derive(Debug, Clone)]
pub(super) struct BrokerPlan {
    /// From 1.
    pub(super) node: usize,
    pub(super) port: u16,
    pub(super) controller_port: u16,
    pub(super) folder: PathBuf,
}

impl BrokerPlan {
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn properties_path(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }
}

/// Copies of every partition: three as soon as there are three brokers.
pub(super) fn replication(brokers: usize) -> usize {
    brokers.min(3)
}

/// Copies that must exist before a write is acknowledged: with three brokers one may be away.
fn min_in_sync(brokers: usize) -> usize {
    if brokers >= 3 { 2 } else { 1 }
}

/// Limits of time are short, so that a broker or a consumer that is gone is noticed in seconds; everything that costs
/// memory or partitions is small. Only loopback is listened on.
pub(super) fn properties(plan: &BrokerPlan, all: &[BrokerPlan]) -> String {
    let voters: Vec<String> = all.iter().map(|b| format!("{}@127.0.0.1:{}", b.node, b.controller_port)).collect();
    let (replication, in_sync) = (replication(all.len()), min_in_sync(all.len()));
    let broker = format!("PLAINTEXT://127.0.0.1:{}", plan.port);
    let lines = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", plan.node.to_string()),
        ("controller.quorum.voters", voters.join(",")),
        ("listeners", format!("{broker},CONTROLLER://127.0.0.1:{}", plan.controller_port)),
        ("advertised.listeners", broker),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
        ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned()),
        ("log.dirs", plan.data().display().to_string()),
        ("auto.create.topics.enable", "false".to_owned()),
        ("default.replication.factor", replication.to_string()),
        ("min.insync.replicas", in_sync.to_string()),
        ("offsets.topic.replication.factor", replication.to_string()),
        ("offsets.topic.num.partitions", "4".to_owned()),
        ("transaction.state.log.replication.factor", replication.to_string()),
        ("transaction.state.log.min.isr", in_sync.to_string()),
        ("transaction.state.log.num.partitions", "1".to_owned()),
        ("share.coordinator.state.topic.replication.factor", replication.to_string()),
        ("share.coordinator.state.topic.min.isr", in_sync.to_string()),
        ("share.coordinator.state.topic.num.partitions", "1".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("group.min.session.timeout.ms", "1000".to_owned()),
        ("group.consumer.min.session.timeout.ms", "1000".to_owned()),
        ("group.consumer.session.timeout.ms", "6000".to_owned()),
        ("group.consumer.min.heartbeat.interval.ms", "100".to_owned()),
        ("group.consumer.heartbeat.interval.ms", "1000".to_owned()),
        ("broker.session.timeout.ms", "3000".to_owned()),
        ("broker.heartbeat.interval.ms", "500".to_owned()),
        ("replica.lag.time.max.ms", "5000".to_owned()),
        ("num.network.threads", "2".to_owned()),
        ("num.io.threads", "4".to_owned()),
        ("background.threads", "2".to_owned()),
        ("log.cleaner.dedupe.buffer.size", (8 << 20).to_string()),
    ];
    lines.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// Warnings go where the rest of the output goes.
pub(super) const LOGGING: &str = "\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n
";

/// Where `make kafka` and `make test` put Kafka's jars.
pub(super) fn installed_jars() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.setup/kafka/libs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(count: usize) -> Vec<BrokerPlan> {
        let plan = |index: usize| BrokerPlan {
            node: index + 1,
            port: 9_092 + index as u16,
            controller_port: 19_092 + index as u16,
            folder: format!("/kafka/{}", index + 1).into(),
        };
        (0..count).map(plan).collect()
    }

    #[test]
    fn three_brokers_keep_three_copies_and_one_may_be_away() {
        let three = plans(3);
        let text = properties(&three[1], &three);
        for line in [
            "node.id=2",
            "min.insync.replicas=2",
            "default.replication.factor=3",
            "controller.quorum.voters=1@127.0.0.1:19092,2@127.0.0.1:19093,3@127.0.0.1:19094",
            "listeners=PLAINTEXT://127.0.0.1:9093,CONTROLLER://127.0.0.1:19093",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let one = plans(1);
        let text = properties(&one[0], &one);
        assert!(text.contains("\nmin.insync.replicas=1\n") && text.contains("\noffsets.topic.replication.factor=1\n"));
    }
}
