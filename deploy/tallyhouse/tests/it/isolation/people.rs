//! People's accounts, over HTTP and ClickHouse's own protocol.

use std::time::Duration;

use super::answers::{Answer, exchange};
use super::world::{Account, World};
use crate::native_packets::{hello, query};

const WITHIN: Duration = Duration::from_secs(30);

pub async fn http(world: &World, account: &Account, sql: &str) -> Answer {
    let head = format!(
        "POST /?max_execution_time=5&param_project=iso-b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-ClickHouse-User: {}\r\nX-ClickHouse-Key: {}\r\n\
         X-Tallyhouse-Project: iso-b\r\nContent-Length: {}\r\n\r\n{sql}",
        account.name,
        account.password,
        sql.len()
    );
    Answer::of(exchange(&world.clickhouse_http, &[head.into_bytes()], WITHIN).await)
}

pub async fn native(world: &World, account: &Account, sql: &str) -> Answer {
    let packets = [hello(&account.name, &account.password), query(sql)];
    let bytes = exchange(&world.clickhouse_native, &packets, WITHIN).await;
    assert!(!bytes.is_empty(), "no answer to {sql}");
    Answer { status: 0, bytes }
}
