//! Placement of labels in a column without overlap.

/// Positions nearest to the wanted ones in the sense of least squares, in the same order, at least `gap` apart and within
/// `low..=high`. Labels that need more than the space are spread over it evenly.
pub(super) fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let n = wanted.len();
    let gap = if n > 1 { gap.min((high - low) / (n - 1) as f64) } else { gap };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    // Without the gaps, the sorted positions need only be non-decreasing: isotonic regression by pooling adjacent violators.
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (rank, index) in order.iter().enumerate() {
        let mut pool = (wanted[*index] - gap * rank as f64, 1);
        while let Some(last) = pools.last().copied().filter(|last| last.0 / last.1 as f64 > pool.0 / pool.1 as f64) {
            pools.pop();
            pool = (pool.0 + last.0, pool.1 + last.1);
        }
        pools.push(pool);
    }
    let levels = pools.iter().flat_map(|(sum, count)| std::iter::repeat_n(sum / *count as f64, *count));
    let mut placed = vec![0.0; n];
    let room = high - gap * n.saturating_sub(1) as f64;
    for (rank, (index, level)) in order.iter().zip(levels).enumerate() {
        placed[*index] = level.clamp(low, room.max(low)) + gap * rank as f64;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apart(placed: &[f64], gap: f64) -> bool {
        let mut sorted = placed.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.windows(2).all(|pair| pair[1] - pair[0] >= gap - 1e-9)
    }

    #[test]
    fn labels_with_room_do_not_move() {
        assert_eq!(spread(&[30.0, 0.0, 60.0], 20.0, 0.0, 100.0), [30.0, 0.0, 60.0]);
    }

    #[test]
    fn crowded_labels_move_apart_in_order() {
        assert_eq!(spread(&[52.0, 50.0, 51.0], 20.0, 0.0, 100.0), [71.0, 31.0, 51.0]);
    }

    #[test]
    fn labels_stay_within_bounds() {
        let placed = spread(&[98.0, 99.0, 100.0, 3.0], 20.0, 0.0, 100.0);
        assert_eq!(placed, [60.0, 80.0, 100.0, 3.0]);
        assert!(apart(&spread(&[-5.0, -5.0], 10.0, 0.0, 100.0), 10.0));
    }

    #[test]
    fn too_many_labels_share_the_space_evenly() {
        assert_eq!(spread(&[5.0, 5.0, 5.0], 20.0, 0.0, 10.0), [0.0, 5.0, 10.0]);
        assert_eq!(spread(&[], 20.0, 0.0, 10.0), [0.0; 0]);
    }
}
