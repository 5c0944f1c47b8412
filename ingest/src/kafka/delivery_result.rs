//! The result of delivering a record to Kafka.

use std::collections::BTreeMap;

use rdkafka::error::RDKafkaErrorCode;

use crate::telemetry::Produced;

/// How the delivery of a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryResult {
    /// Not yet.
    Pending,
    /// Every replica in sync has it.
    Acknowledged { partition: i32, offset: i64 },
    /// Not in Kafka, but in the local log of this gateway.
    InLocalLog,
    /// The broker takes no record of this size.
    TooLarge,
    /// The broker takes nothing for its topic: it is not there, or not ours to write to.
    Denied,
    /// The broker refuses it, or the batch it came in.
    Unfit,
    /// Not acknowledged; it may be there nevertheless.
    Failed,
}

impl DeliveryResult {
    /// Whether it has to be sent again, and is kept until then.
    pub fn is_missing(self) -> bool {
        matches!(self, Self::Pending | Self::Failed | Self::Denied | Self::Unfit)
    }

    /// The label of metrics.
    pub(super) fn produced(self) -> Produced {
        match self {
            Self::Acknowledged { .. } => Produced::Acknowledged,
            Self::TooLarge => Produced::TooLarge,
            Self::Denied => Produced::Denied,
            Self::Unfit => Produced::Unfit,
            Self::Failed | Self::Pending | Self::InLocalLog => Produced::Failed,
        }
    }

    pub(super) fn of(code: RDKafkaErrorCode) -> Self {
        use RDKafkaErrorCode as Code;
        match code {
            Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidTimestamp
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::UnsupportedForMessageFormat => Self::Unfit,
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic
            | Code::PolicyViolation
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition => Self::Denied,
            _ => Self::Failed,
        }
    }
}

/// The last acknowledged offset of each partition: what has to be stored before a request is.
pub fn high_watermarks(results: &[DeliveryResult]) -> BTreeMap<i32, i64> {
    let mut watermarks = BTreeMap::new();
    for result in results {
        if let DeliveryResult::Acknowledged { partition, offset } = *result {
            let watermark = watermarks.entry(partition).or_insert(offset);
            *watermark = offset.max(*watermark);
        }
    }
    watermarks
}
