//! Finds a name: a hash table that is built once and never grows.

/// Names by their hashes, with open addressing; at least half of the slots are empty.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Option<(u32, u16)>>,
}

impl Table {
    /// A table of these names, in their order.
    pub(super) fn of<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> Self {
        let mut slots = vec![None; (names.len() * 2).next_power_of_two().max(8)];
        for (place, name) in names.enumerate() {
            let hash = hash(name);
            let mut slot = hash as usize & (slots.len() - 1);
            while slots.get(slot).is_some_and(Option::is_some) {
                slot = (slot + 1) & (slots.len() - 1);
            }
            if let (Some(free), Ok(place)) = (slots.get_mut(slot), u16::try_from(place)) {
                *free = Some((hash, place));
            }
        }
        Self { slots }
    }

    /// The place of a name; `at` gives the name of a place.
    pub(super) fn find<'n>(&self, name: &str, at: impl Fn(usize) -> Option<&'n str>) -> Option<usize> {
        let hash = hash(name);
        let mut slot = hash as usize & (self.slots.len() - 1);
        while let Some(Some((found, place))) = self.slots.get(slot) {
            let place = usize::from(*place);
            if *found == hash && at(place) == Some(name) {
                return Some(place);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        None
    }
}

/// Cheap. What senders could make collide is not in the table, and costs a comparison.
fn hash(name: &str) -> u32 {
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    let rest = rest.iter().fold(name.len() as u64, |rest, byte| rest << 8 | u64::from(*byte));
    let words = words.iter().map(|word| u64::from_le_bytes(*word)).chain([rest]);
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (words.fold(0, mix) >> 32) as u32
}
