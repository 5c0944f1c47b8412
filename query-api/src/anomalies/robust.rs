//! Statistics that a few wild values do not move.

/// What makes the median of absolute deviations the standard deviation of normally distributed values: 1 / Φ⁻¹(3/4).
const NORMAL: f64 = 1.4826;

/// The middle of the values, which are reordered; `None` of none. Of two middles, halfway.
pub fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let is_even = values.len() % 2 == 0;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if !is_even {
        return Some(upper);
    }
    below.iter().copied().max_by(f64::total_cmp).map(|lower| f64::midpoint(lower, upper))
}

/// The standard deviation that deviations from an expectation suggest, from their median.
pub fn sigma(deviations: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sizes: Vec<f64> = deviations.map(f64::abs).collect();
    median(&mut sizes).map(|median| NORMAL * median)
}

/// The mean of the smallest nine tenths of the sizes.
pub fn trimmed_mean(deviations: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sizes: Vec<f64> = deviations.map(f64::abs).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.truncate((sizes.len() * 9).div_ceil(10));
    if sizes.is_empty() { None } else { Some(sizes.iter().sum::<f64>() / sizes.len() as f64) }
}

/// The median of the values within `half` places of each place, for places whose window lies wholly within the series;
/// `None` elsewhere, and where fewer than half of the window's values are there.
pub fn rolling_median(values: &[Option<f64>], half: usize) -> Vec<Option<f64>> {
    let width = 2 * half + 1;
    let mut window: Vec<f64> = Vec::with_capacity(width);
    let mut medians = vec![None; values.len()];
    for (place, entering) in values.iter().enumerate() {
        if let Some(leaving) = place.checked_sub(width).and_then(|place| *values.get(place)?) {
            let at = window.partition_point(|value| value.total_cmp(&leaving).is_lt());
            window.remove(at);
        }
        if let Some(entering) = entering {
            let at = window.partition_point(|value| value.total_cmp(entering).is_lt());
            window.insert(at, *entering);
        }
        let is_whole = place + 1 >= width && window.len() * 2 > width;
        if let Some(median) = place.checked_sub(half).filter(|_| is_whole).and_then(|place| medians.get_mut(place)) {
            *median = middle(&window);
        }
    }
    medians
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let (lower, upper) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*lower, *upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&mut [9.0, 1.0, 5.0, 2.0]), Some(3.5));
        assert_eq!(sigma([1.0, -1.0, 1.0, 1e9].into_iter()), Some(NORMAL));
        assert_eq!(trimmed_mean((1..=10).map(f64::from)), Some(5.0));
        assert_eq!(trimmed_mean(std::iter::empty()), None);
    }

    #[test]
    fn a_rolling_median_is_the_median_of_each_window() {
        let values: Vec<Option<f64>> = (0..60_i32).map(|i| (i % 7 != 3).then(|| f64::from(i * 37 % 11))).collect();
        for half in [0, 1, 4, 29, 30, 99] {
            let medians = rolling_median(&values, half);
            for (place, found) in medians.iter().enumerate() {
                let window = place.checked_sub(half).and_then(|from| values.get(from..=place + half));
                let mut known: Vec<f64> = window.unwrap_or_default().iter().flatten().copied().collect();
                let expected = (known.len() * 2 > 2 * half + 1).then(|| median(&mut known)).flatten();
                assert_eq!(*found, expected, "{half} {place}");
            }
        }
    }
}
