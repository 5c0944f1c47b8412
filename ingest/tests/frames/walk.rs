//! What must hold for any bytes of a segment. The fuzz target and the test on mutated segments check the same.

use super::frame::{self, GROUP_HEADER, GroupHeader, SegmentItem};

/// Goes through bytes as a reader does, and returns how many records are whole.
pub(crate) fn walk(bytes: &[u8], salt: u32) -> usize {
    let (mut rest, mut least, mut whole) = (bytes, 0, 0);
    while !rest.is_empty() {
        let passed = match frame::look(rest, salt, least) {
            SegmentItem::Group(header) => {
                assert!(header.bytes() <= rest.len() && header.first >= least, "{header:?}");
                let (group, _) = rest.split_at(header.bytes());
                whole += group_records(header, salt, group);
                least = header.end();
                header.bytes()
            }
            SegmentItem::Damage { bytes } => bytes,
            SegmentItem::End => break,
        };
        assert!((1..=rest.len()).contains(&passed), "{passed} of {}", rest.len());
        rest = rest.split_at(passed).1;
    }
    whole
}

fn group_records(header: GroupHeader, salt: u32, group: &[u8]) -> usize {
    let body = group.split_at(GROUP_HEADER).1;
    let (mut written, mut whole) = (Vec::new(), 0);
    for (expected, (offset, payload)) in (header.first..).zip(frame::records(header, salt, body, header.first)) {
        assert_eq!(offset, expected);
        let Some(payload) = payload else { continue };
        whole += 1;
        frame::write_record(salt, &mut written, |out| out.extend_from_slice(payload));
    }
    if frame::is_whole(header, salt, body) {
        assert_eq!([header.encode(salt).as_slice(), &written].concat(), group, "it is written as it was");
    }
    whole
}
