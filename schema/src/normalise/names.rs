//! Resolves properties of the same name: storage and counting must see the same one.

use std::collections::HashMap;

use crate::limits::MAX_PROPERTIES;
use crate::property::Property;

/// Keeps the last property of each name; `collides` gets the names of which another value was dropped.
pub(super) fn keep_last(properties: &mut Vec<Property<'_>>, mut collides: impl FnMut(String)) {
    if are_distinct(properties) {
        return;
    }
    let dropped = dropped(properties);
    for (place, last) in &dropped {
        if let (Some(one), Some(other)) = (properties.get(*place), properties.get(*last))
            && one.value != other.value
        {
            collides(one.name.to_string());
        }
    }
    let mut place = 0;
    let mut dropped = dropped.into_iter().map(|(place, _)| place).peekable();
    properties.retain(|_| {
        let is_kept = dropped.next_if_eq(&place).is_none();
        place += 1;
        is_kept
    });
}

/// Whether no two names hash alike, of which every event is asked: without an allocation, and all pairs faster than a hash table.
fn are_distinct(properties: &[Property<'_>]) -> bool {
    let mut hashes = [0_u32; MAX_PROPERTIES];
    properties.iter().enumerate().all(|(place, property)| {
        let own = hash(&property.name);
        let is_new = hashes.get(..place).is_some_and(|earlier| !earlier.contains(&own));
        if let Some(slot) = hashes.get_mut(place) {
            *slot = own;
        }
        is_new
    })
}

/// Cheap, and nothing that a sender could not make collide: that only costs the comparison of names.
fn hash(name: &str) -> u32 {
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    let rest = rest.iter().fold(name.len() as u64, |rest, byte| rest << 8 | u64::from(*byte));
    let words = words.iter().map(|word| u64::from_le_bytes(*word)).chain([rest]);
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (words.fold(0, mix) >> 32) as u32
}

/// Places of properties after which another has the same name, in order, and the place of the last of that name.
fn dropped(properties: &[Property<'_>]) -> Vec<(usize, usize)> {
    let last: HashMap<&str, usize> =
        properties.iter().enumerate().map(|(place, property)| (&*property.name, place)).collect();
    let with_last = |(place, property): (usize, &Property<'_>)| {
        last.get(&*property.name).filter(|last| **last > place).map(|last| (place, *last))
    };
    properties.iter().enumerate().filter_map(with_last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::property::PropertyValue;

    #[test]
    fn the_last_of_a_name_is_kept_among_few_and_many() {
        let number = |name: &str, number: f64| Property::new(name.to_owned(), PropertyValue::Number(number));
        for others in [0, 100] {
            let mut properties = vec![number("a", 1.0), number("b", 1.0), number("a", 2.0), number("b", 1.0)];
            properties.extend((0..others).map(|n| number(&format!("o{n}"), 0.0)));
            properties.push(number("a", 3.0));
            let mut collided = Vec::new();
            keep_last(&mut properties, |name| collided.push(name));
            let kept: Vec<_> = properties.iter().filter(|p| !p.name.starts_with('o')).cloned().collect();
            assert_eq!(kept, [number("b", 1.0), number("a", 3.0)]);
            assert_eq!(collided, ["a", "a"], "equal values do not collide");
            assert_eq!(properties.len(), 2 + others);
        }
    }
}
