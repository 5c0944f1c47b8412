//! Packets of a client of ClickHouse's native protocol, written by hand: what no client library sends can be sent.

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
pub fn hello(user: &str, password: &str) -> Vec<u8> {
    const REVISION: u64 = 54_031;
    [varint(0), text("client"), varint(1), varint(1), varint(REVISION), text(""), text(user), text(password)].concat()
}

/// A statement without compression, and the empty block of its external tables.
pub fn query(sql: &str) -> Vec<u8> {
    let head = [varint(1), text(""), text(""), varint(2), varint(0), text(sql)].concat();
    let block_info = [&[1, 0, 2][..], &(-1_i32).to_le_bytes(), &[0]].concat();
    [head, varint(2), text(""), block_info, varint(0), varint(0)].concat()
}
