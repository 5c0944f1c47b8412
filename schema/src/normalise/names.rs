//! Properties of one name: storage and counting must see the same one.

use std::collections::HashMap;

use crate::raw::Property;

/// Up to this many are compared with one another, which is faster than hashing them.
const FEW: usize = 16;

/// Keeps the last property of each name; `collides` gets the names of which another value was dropped.
pub(super) fn keep_last(properties: &mut Vec<Property<'_>>, mut collides: impl FnMut(String)) {
    let dropped = dropped(properties);
    if dropped.is_empty() {
        return;
    }
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

/// Places of properties after which another has the same name, in order, and the place of the last of that name.
fn dropped(properties: &[Property<'_>]) -> Vec<(usize, usize)> {
    let mut last = HashMap::new();
    if properties.len() > FEW {
        last.extend(properties.iter().enumerate().map(|(place, property)| (&*property.name, place)));
    }
    let last_of = |place: usize, property: &Property<'_>| {
        if properties.len() > FEW {
            last.get(&*property.name).copied()
        } else {
            properties.iter().rposition(|other| other.name == property.name)
        }
        .filter(|last| *last > place)
    };
    let with_last = |(place, property)| Some((place, last_of(place, property)?));
    properties.iter().enumerate().filter_map(with_last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::PropertyValue;

    #[test]
    fn the_last_of_a_name_is_kept_among_few_and_many() {
        let number =
            |name: &str, number: f64| Property { name: name.to_owned().into(), value: PropertyValue::Number(number) };
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
