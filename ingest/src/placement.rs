//! The partition of an event.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// SQL for [`hash`], over the columns of `events`. ClickHouse's `sipHash64` is SipHash-2-4 with the key zero.
pub const HASH_SQL: &str = "sipHash64(concat(project_id, char(255), event_id))";

/// The hash that places an event. Not keyed with a secret: every gateway and consumer must agree, for ever. Whoever crafts ids
/// to hit one partition slows down that partition, which is why ids of *duplicates* are compared by another, secret hash.
pub fn hash(project: &str, event_id: &str) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(project.as_bytes());
    hasher.write(&[0xff]); // In no UTF-8 text, so (ab, c) and (a, bc) differ.
    hasher.write(event_id.as_bytes());
    hasher.finish()
}

/// The partition of an event with this hash, of `partitions` (at least one).
///
/// Changing the number moves events to others, so it is pinned ([`crate::kafka::pins`]). Copies of an event that come before and after a change
/// still meet when all that came before is stored: a consumer knows the ids that *now* belong to its partition, wherever they were
/// stored from.
pub fn partition(hash: u64, partitions: i32) -> i32 {
    let partitions = u64::try_from(partitions).unwrap_or(1).max(1);
    i32::try_from(hash % partitions).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_never_changes() {
        // Pinned: another value would send a retry to another partition than the first copy.
        assert_eq!(hash("demo", "order-1"), PINNED);
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
    }

    const PINNED: u64 = 171_415_754_648_959_759;

    #[test]
    fn all_partitions_are_used_and_none_is_invented() {
        let mut seen = [0_u32; 4];
        for n in 0..4_000 {
            seen[partition(hash("p", &n.to_string()), 4) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (900..1_100).contains(count)), "{seen:?}");
        assert_eq!(partition(7, 0), 0);
    }
}
