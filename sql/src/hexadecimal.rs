//! Bytes as text, for statements and names.

/// Hexadecimal digits of bytes, in lower case, as ClickHouse's `unhex` reads them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hexadecimal digits in either case, as [`hex`] and ClickHouse's `hex` write them. `None` of any other text.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_two_a_byte_and_read_in_either_case() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
        assert_eq!((unhex("000fa0ff"), unhex("000FA0FF")), (Some(vec![0, 15, 160, 255]), Some(vec![0, 15, 160, 255])));
        assert_eq!((unhex(""), unhex("0"), unhex("0g"), unhex("é0")), (Some(vec![]), None, None, None));
    }
}
