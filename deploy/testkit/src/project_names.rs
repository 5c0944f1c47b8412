// `schema` and `deploy/service` include this file, since this crate uses both.

/// What no place may take for a project.
pub const NO_NAMES: [&str; 38] = [
    "",
    " ",
    "a b",
    " a",
    "a ",
    "a\tb",
    "a\n",
    "a\r\nb: c",
    "a\0",
    ".",
    "..",
    ".a",
    "-a",
    "--project",
    "_a",
    "a/b",
    "../a",
    "a\\b",
    "a:b",
    "a,b",
    "a;b",
    "a'b",
    "a\"b",
    "a`b",
    "a{b}",
    "{a}",
    "<a>",
    "a=b&c",
    "%2e",
    "a%20b",
    "a+b",
    "*",
    "a?b#c",
    // As long as a name may be, and one longer.
    "x234567890123456789012345678901234567890123456789012345678901234x",
    "caf\u{e9}",
    // A Cyrillic letter that looks like an `a`, and blanks that are not seen.
    "\u{430}",
    "a\u{200b}",
    "a\u{a0}b",
];

/// Names. The last two are two projects, as the two before them are.
pub const NAMES: [&str; 10] = [
    "a",
    "0",
    "a..b",
    "shop-eu_1.test",
    "all",
    "x23456789012345678901234567890123456789012345678901234567890123x",
    "shop.eu",
    "shop_eu",
    "Shop",
    "shop",
];

/// A text as a part of a path or a parameter of a URL: each byte that is no letter or digit as `%..`.
pub fn in_url(text: &str) -> String {
    let of = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(of).collect()
}
