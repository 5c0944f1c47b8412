//! The settings of librdkafka, and the reason for each. `KAFKA_OPTIONS` may add others (TLS, SASL, timeouts), but may not change
//! those that exactness and durability rest on.

use std::time::Duration;

use rdkafka::ClientConfig;

/// Settings that others may not set: each carries a promise.
const OURS: [&str; 14] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "partition.assignment.strategy",
    "request.required.acks",
];

/// Pairs of `KAFKA_OPTIONS`. Never printed: there are passwords among them.
#[derive(Clone, Default)]
pub struct Options(Vec<(String, String)>);

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Options {
    /// Reads `name=value`, separated by `;` or line ends. The error names the option, never its value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Vec::new();
        for pair in text.split([';', '\n']).map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or("holds an option without `=`")?;
            let name = name.trim();
            if OURS.contains(&name) {
                return Err(format!("may not set `{name}`: exactness rests on it"));
            }
            options.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Self(options))
    }
}

/// A topic that no broker knows for this long is taken for deleted by consumers.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(2);

/// How the brokers are reached.
#[derive(Debug, Clone)]
pub struct Brokers {
    /// `KAFKA_BROKERS`: `host:port`, with commas between.
    pub bootstrap: String,
    /// `KAFKA_OPTIONS`
    pub options: Options,
}

impl Brokers {
    /// For asking about topics, and the base of the other two.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "tallyhouse")
            .set("allow.auto.create.topics", "false")
            // A partition count or leader that changed is noticed within this time.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("socket.timeout.ms", "10000")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        self.with_options(config)
    }

    /// What was configured comes last: it may tune what is not one of [`OURS`].
    fn with_options(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.options.0 {
            config.set(name, value);
        }
        config
    }

    /// For the gateway.
    pub fn producer(&self, delivery_within: Duration) -> ClientConfig {
        let mut config = self.client();
        config
            // All replicas in sync have it before it is acknowledged; a repeat inside the client changes nothing.
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // With several requests on their way, the first of a new partition may be refused (its leader is not ready) and the
            // second taken. A broker accepts any sequence number from a producer that it does not know, so the repeated
            // first one is out of order then - and librdkafka 2.12 reports it as delivered. Seen as lost events.
            .set("max.in.flight.requests.per.connection", "1")
            .set("message.timeout.ms", delivery_within.as_millis().to_string())
            .set("request.timeout.ms", delivery_within.as_millis().to_string())
            // Long enough that one request's events travel together, short enough not to be felt.
            .set("linger.ms", "2")
            .set("compression.type", "lz4")
            .set("batch.num.messages", "10000")
            .set("batch.size", "1000000")
            // Bounds of what may wait; beyond them requests are handed back.
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "65536");
        self.with_options(config)
    }

    /// For the consumer.
    pub fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("check.crcs", "true")
            // Who is dead or stopped for this long loses its partitions.
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "1000")
            .set("max.poll.interval.ms", "300000")
            // Gives the partitions of a deleted topic up before another topic of that name can be there: see `topics`.
            .set("topic.metadata.propagation.max.ms", GONE_AFTER.as_millis().to_string())
            .set("fetch.wait.max.ms", "100")
            .set("queued.min.messages", "50000")
            .set("queued.max.messages.kbytes", "2048")
            // A response of a broker is taken whole, and what is in it may be 255 times as large (lz4): with 2 MiB, which librdkafka
            // makes of the bound above, a backlog of 64 partitions took 700 MiB. A larger batch still comes, alone.
            .set("fetch.max.bytes", "524288")
            .set("max.partition.fetch.bytes", "262144")
            // A full queue is looked at again after this time; the default of a second would cap a partition at its queue a second.
            .set("fetch.queue.backoff.ms", "10")
            .set("statistics.interval.ms", "2000");
        reading(self.with_options(config))
    }

    /// For reading what a group has committed, without joining it.
    pub fn observer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config.set("group.id", group).set("enable.auto.commit", "false");
        reading(config)
    }
}

/// Who reads sends no messages, but its responses may not be smaller than one: an option for the gateway's messages would be refused
/// here. It is also what a batch is given to unpack at first.
fn reading(mut config: ClientConfig) -> ClientConfig {
    config.set("message.max.bytes", "262144");
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_pass_through_but_not_those_that_promises_rest_on() {
        let options = Options::parse("security.protocol=SASL_SSL; sasl.password=a=b\n").unwrap();
        let brokers = Brokers { bootstrap: "b:1".into(), options };
        assert_eq!(brokers.client().get("sasl.password"), Some("a=b"));
        assert!(!format!("{brokers:?}").contains("a=b"));
        assert!(Options::parse("acks=1").unwrap_err().contains("`acks`"));
        assert!(Options::parse("nonsense").is_err());
    }

    #[test]
    fn a_consumer_begins_with_whatever_messages_a_gateway_may_send() {
        for options in ["", "message.max.bytes=10000000", "fetch.max.bytes=300000"] {
            let brokers = Brokers { bootstrap: "127.0.0.1:1".into(), options: Options::parse(options).unwrap() };
            for config in [brokers.consumer("g"), brokers.observer("g")] {
                let consumer: Result<rdkafka::consumer::BaseConsumer, _> = config.create();
                assert!(consumer.is_ok(), "{options}: {:?}", consumer.err());
            }
        }
    }
}
