//! Reads how much of its memory Redis uses.

use tallyhouse_service::redis::Value;

use crate::telemetry::RedisMemory;

/// From the answer to `INFO memory`. `None` when it is none: a cluster answers for each of its servers, which have no memory in common.
pub(super) fn read(answer: &Value) -> Option<RedisMemory> {
    let text = match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    let number =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
    let limit = number("maxmemory").filter(|limit| *limit > 0);
    Some(RedisMemory { used: number("used_memory")?, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_zero_is_none() {
        let told = |text: &str| read(&Value::BulkString(text.as_bytes().to_vec()));
        let info =
            "# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nmaxmemory:0\r\nmaxmemory_human:0B\r\n";
        assert_eq!(told(info), Some(RedisMemory { used: 1_048_576, limit: None }));
        let bounded = info.replace("maxmemory:0", "maxmemory:2097152");
        assert_eq!(told(&bounded), Some(RedisMemory { used: 1_048_576, limit: Some(2_097_152) }));
        assert_eq!(told("nonsense"), None);
        assert_eq!(read(&Value::Map(vec![])), None);
    }
}
