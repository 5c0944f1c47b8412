//! What an erasure removed, signed: whoever has the installation's key can tell that nobody changed it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::{hex, unhex};

use super::documents::{ErasureDocument, OnShard, Step};
use super::erasure::Erasure;
use super::hash_key::InstallationKey;
use super::hmac::hmac;
use crate::time;

const DAY_MS: i64 = 86_400_000;

const ALGORITHM: &str = "HMAC-SHA256";

/// Why a report is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    #[error("it is no report of an erasure: a JSON object with `signature`")]
    Shape,
    #[error("it is signed by `{0}`, and only {ALGORITHM} is known")]
    Algorithm(String),
    #[error("it was changed, or signed by another installation")]
    Signature,
}

/// What an erasure removed.
pub(super) fn of(key: &InstallationKey, project: &str, Erasure { id, document, .. }: &Erasure) -> Value {
    let days: BTreeMap<String, u64> = document.days().into_iter().map(|(day, rows)| (date(day), rows)).collect();
    let mut report = Map::new();
    let fields = json!({
        "id": id,
        "project": project,
        "subjects": document.subjects,
        "requestedAt": time::text(document.requested_ms),
        "erasedBefore": time::text(document.before_ms),
        "keepSuppressed": document.keep_suppressed,
        "completedAt": time::text(now_ms()),
        "rawEvents": document.sum(OnShard::events),
        "rawEventsByDay": days,
        "daysNotRebuilt": document.older_days().into_iter().map(date).collect::<Vec<_>>(),
        "deadLetters": document.sum(|shard| shard.dead_letters),
        "rollupPartitionsRebuilt": document.sum(|shard| shard.partitions),
        "processesConfirmed": document.confirmed,
        "processesNotConfirmed": document.unconfirmed,
        "processesNotHeardOf": document.silent,
        "filesLeft": document.sum(|shard| shard.files_left),
    });
    if let Value::Object(fields) = fields {
        report.extend(fields);
    }
    report.extend(by_shard(document).map(|shards| ("shards".to_owned(), shards)));
    sign(key, report)
}

/// What was found and done on each shard; `None` on a single server.
pub(super) fn by_shard(document: &ErasureDocument) -> Option<Value> {
    let shard = |(number, shard): (u32, &OnShard)| {
        json!({
            "shard": number,
            "rawEvents": shard.events(),
            "deadLetters": shard.dead_letters,
            "rollupPartitions": shard.partitions,
            "isRebuilt": shard.is_rebuilt || (document.state >= Step::RemovingFiles),
            "filesLeft": shard.files_left,
        })
    };
    (!document.others.is_empty()).then(|| (1..).zip(document.shards()).map(shard).collect())
}

fn date(day: i32) -> String {
    time::text(i64::from(day) * DAY_MS).chars().take(10).collect()
}

/// Adds the signature.
pub fn sign(key: &InstallationKey, mut report: Map<String, Value>) -> Value {
    report.remove("signature");
    let signature = hex(&signature(key, &report)).to_lowercase();
    report.insert("signature".to_owned(), json!({ "algorithm": ALGORITHM, "value": signature }));
    Value::Object(report)
}

/// Whether it is as it was signed. Blanks and the order of its fields do not count.
pub fn verify(key: &InstallationKey, report: &Value) -> Result<(), BadReport> {
    let mut report = report.as_object().cloned().ok_or(BadReport::Shape)?;
    let signed = report.remove("signature").ok_or(BadReport::Shape)?;
    let algorithm = signed.get("algorithm").and_then(Value::as_str).ok_or(BadReport::Shape)?;
    if algorithm != ALGORITHM {
        return Err(BadReport::Algorithm(algorithm.to_owned()));
    }
    let value = signed.get("value").and_then(Value::as_str).and_then(unhex).ok_or(BadReport::Shape)?;
    let is_ours: bool = signature(key, &report).as_slice().ct_eq(&value).into();
    if is_ours { Ok(()) } else { Err(BadReport::Signature) }
}

fn signature(key: &InstallationKey, report: &Map<String, Value>) -> [u8; 32] {
    hmac(&key.of_reports(), &[canonical(&Value::Object(report.clone())).as_bytes()])
}

/// Without blanks, fields by name, whatever features `serde_json` is built with.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.into_iter().map(|(name, value)| format!("{}:{}", json!(name), canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_was_changed_is_not_ours() {
        let key = InstallationKey::new([9; 16]);
        let Value::Object(report) = json!({"id": "erasure-1", "rawEvents": 3, "days": ["2026-01-01"]}) else {
            panic!()
        };
        let signed = sign(&key, report);
        assert_eq!(verify(&key, &signed), Ok(()));
        let again: Value = serde_json::from_str(&serde_json::to_string_pretty(&signed).unwrap()).unwrap();
        assert_eq!(verify(&key, &again), Ok(()));
        let mut changed = signed.clone();
        changed["rawEvents"] = json!(4);
        assert_eq!(verify(&key, &changed), Err(BadReport::Signature));
        assert_eq!(verify(&InstallationKey::new([8; 16]), &signed), Err(BadReport::Signature));
        let mut other = signed.clone();
        other["signature"]["algorithm"] = json!("none");
        assert_eq!(verify(&key, &other), Err(BadReport::Algorithm("none".to_owned())));
        other["signature"] = json!({"algorithm": ALGORITHM, "value": ""});
        assert_eq!(verify(&key, &other), Err(BadReport::Signature));
        for shape in [json!([]), json!({"id": 1}), json!({"signature": "x"})] {
            assert_eq!(verify(&key, &shape), Err(BadReport::Shape));
        }
    }
}
