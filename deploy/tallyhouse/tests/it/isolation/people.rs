//! People's accounts, over HTTP and ClickHouse's own protocol.

use std::time::Duration;

use super::answers::{Answer, exchange};
use super::world::{Account, World};

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

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [varint(text.len() as u64), text.as_bytes().to_vec()].concat()
}

/// The first packet, of a client so old that the second one is short.
fn hello(user: &str, password: &str) -> Vec<u8> {
    const REVISION: u64 = 54_031;
    [varint(0), text("client"), varint(1), varint(1), varint(REVISION), text(""), text(user), text(password)].concat()
}

/// A statement without compression, and the empty block of its external tables.
fn query(sql: &str) -> Vec<u8> {
    let head = [varint(1), text(""), text(""), varint(2), varint(0), text(sql)].concat();
    let block_info = [&[1, 0, 2][..], &(-1_i32).to_le_bytes(), &[0]].concat();
    [head, varint(2), text(""), block_info, varint(0), varint(0)].concat()
}
