//! A record with its topic and partition, as stored in the gateway's log and in files beside it.

use bytes::{Buf, Bytes};

use super::records::Record;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    pub topic: String,
    /// What places it.
    pub hash: u64,
    /// `schema::wire`
    pub payload: Bytes,
}

/// Length of the topic, topic, hash, length of the payload, payload.
pub fn address(topic: &str, record: Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(topic.len() as u32).to_le_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&record.hash.to_le_bytes());
    out.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(record.payload);
}

/// Records, one after the other.
pub fn encode(records: &[Addressed]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        address(&record.topic, Record { hash: record.hash, payload: &record.payload }, &mut bytes);
    }
    bytes
}

/// All of them. The checksums of what holds them say that they are whole.
pub fn read_all(mut bytes: Bytes) -> Vec<Addressed> {
    std::iter::from_fn(|| read(&mut bytes)).collect()
}

fn read(rest: &mut Bytes) -> Option<Addressed> {
    let length = rest.try_get_u32_le().ok()? as usize;
    let topic = (rest.len() >= length).then(|| rest.split_to(length))?;
    let hash = rest.try_get_u64_le().ok()?;
    let length = rest.try_get_u32_le().ok()? as usize;
    let payload = (rest.len() >= length).then(|| rest.split_to(length))?;
    Some(Addressed { topic: String::from_utf8_lossy(&topic).into_owned(), hash, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let one = Addressed { topic: "a".to_owned(), hash: 7, payload: Bytes::from_static(b"one") };
        let two = Addressed { topic: "events.b".to_owned(), hash: u64::MAX, payload: Bytes::new() };
        let all = [one, two];
        assert_eq!(read_all(Bytes::from(encode(&all))), all);
        let cut = encode(&all).len() - 1;
        assert_eq!(read_all(Bytes::from(encode(&all)).slice(..cut)).len(), 1);
    }
}
