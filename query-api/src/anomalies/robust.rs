//! Robust statistics, which a few outliers do not change.

/// What makes the median of absolute deviations the standard deviation of normally distributed values: 1 / Φ⁻¹(3/4).
const NORMAL: f64 = 1.4826;

/// The middle of the values, which are reordered; `None` of none. Of two middles, halfway.
pub fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let is_even = values.len().is_multiple_of(2);
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

/// How large deviations are by and large: the square of the mean of their roots. A wild one counts little, and a peak that
/// comes once a day still counts.
pub fn typical(deviations: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = deviations.fold((0.0, 0_u32), |(sum, count), size| (sum + size.abs().sqrt(), count + 1));
    if count == 0 { None } else { Some((sum / f64::from(count)).powi(2)) }
}

/// The median of the `width` values around each place, for places whose window lies wholly within the series; `None`
/// elsewhere, and where fewer than half of the window's values are there.
///
/// Of an even width the window has one value more before the place than after: a window of exactly one period has the same
/// median wherever it is.
pub fn rolling_median(values: &[Option<f64>], width: usize) -> Vec<Option<f64>> {
    let after = width.saturating_sub(1) / 2;
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
        if let Some(median) = place.checked_sub(after).filter(|_| is_whole).and_then(|place| medians.get_mut(place)) {
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
        assert_eq!(typical([4.0, -4.0, 0.0, 0.0].into_iter()), Some(1.0));
        assert_eq!(typical(std::iter::empty()), None);
    }

    #[test]
    fn a_rolling_median_is_the_median_of_each_window() {
        let values: Vec<Option<f64>> = (0..60_i32).map(|i| (i % 7 != 3).then(|| f64::from(i * 37 % 11))).collect();
        for width in [1, 2, 9, 10, 59, 60, 61, 99] {
            let medians = rolling_median(&values, width);
            for (place, found) in medians.iter().enumerate() {
                let window = place.checked_sub(width / 2).and_then(|from| values.get(from..from + width));
                let mut known: Vec<f64> = window.unwrap_or_default().iter().flatten().copied().collect();
                let expected = (known.len() * 2 > width).then(|| median(&mut known)).flatten();
                assert_eq!(*found, expected, "{width} {place}");
            }
        }
    }

    #[test]
    fn the_median_over_a_period_is_level() {
        let values: Vec<Option<f64>> = (0..240_i32).map(|hour| Some(f64::from(hour % 24).powi(2))).collect();
        let medians = rolling_median(&values, 24);
        assert!(medians.iter().flatten().all(|median| *median == 132.5), "{medians:?}");
        assert_eq!(medians.iter().flatten().count(), 240 - 23);
    }
}
