//! Causal self-attention with grouped key/value heads, an optional window, and a cache read in place.

#[cfg(feature = "flex")]
mod backward;
mod cached;
#[cfg(feature = "flex")]
mod decode;
#[cfg(feature = "flex")]
mod flash;
#[cfg(feature = "flex")]
mod flex;

pub use cached::{Cache, cached_attention, cached_attention_reference};

use burn::tensor::{Bool, Int, Tensor, TensorData, activation::softmax};

/// Which keys a query may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CausalMask {
    /// Positions before the first query: query `i` stands at position `past + i`.
    pub past: usize,
    /// If set, a query sees itself and the `window − 1` positions before it.
    pub window: Option<usize>,
}

impl CausalMask {
    /// The positions `start..end` that query `i` sees.
    pub fn keys(&self, query: usize) -> std::ops::Range<usize> {
        let end = self.past + query + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// The positions from the first to the last that any of some queries sees.
    ///
    /// # Panics
    /// If there are no queries.
    pub fn keys_of_all(&self, queries: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        assert!(!queries.is_empty(), "some queries");
        self.keys(queries.start).start..self.keys(queries.end - 1).end
    }

    /// Query–key pairs of a sequence of `num_queries`: the exact number of scores that reach the output.
    pub fn num_pairs(&self, num_queries: usize) -> usize {
        (0..num_queries).map(|query| self.keys(query).len()).sum()
    }
}

/// `softmax(q·kᵀ / √head_dim)·v` over the keys that each query may see (Vaswani et al., 2017, arXiv:1706.03762,
/// §3.2.1), query head `h` reading key/value head `h / (num_heads / num_kv_heads)` (Ainslie et al., 2023,
/// arXiv:2305.13245, §2.2).
///
/// Keys and values may have room beyond the last visible position (a cache): it is not read.
///
/// # Shapes
/// - `q`, result: `[batch_size, num_queries, num_heads, head_dim]`
/// - `k`, `v`: `[batch_size, capacity, num_kv_heads, head_dim]`, `capacity ≥ past + num_queries`
///
/// # Panics
/// If the sizes disagree, or `num_kv_heads` does not divide `num_heads`.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: CausalMask) -> Tensor<4> {
    assert_sizes(&q, &k, &v, mask);
    count(&q, mask);
    #[cfg(feature = "flex")]
    if super::has_kernel(&q.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::Attention>::attention_forward(
            q.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
            mask,
        ));
    }
    attention_reference(q, k, v, mask)
}

fn assert_sizes(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, mask: CausalMask) {
    let [batch_size, num_queries, num_heads, head_dim] = q.dims();
    let [kv_batch_size, capacity, num_kv_heads, kv_head_dim] = k.dims();
    assert_eq!(k.dims(), v.dims(), "attention: keys and values");
    assert_eq!((batch_size, head_dim), (kv_batch_size, kv_head_dim), "attention: queries and keys");
    assert!(num_heads.is_multiple_of(num_kv_heads), "attention: {num_heads} heads on {num_kv_heads} kv heads");
    assert!(mask.past + num_queries <= capacity, "attention: {mask:?} of {capacity} positions");
}

/// Counts the products of the scores and of the means.
fn count(q: &Tensor<4>, mask: CausalMask) {
    let [batch_size, num_queries, num_heads, head_dim] = q.dims();
    super::flop_counter::add(2 * batch_size * num_heads * head_dim * mask.num_pairs(num_queries));
}

/// The same by Burn's own operations, with every score materialised.
pub fn attention_reference(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: CausalMask) -> Tensor<4> {
    let [batch_size, num_queries, num_heads, head_dim] = q.dims();
    let [_, _, num_kv_heads, _] = k.dims();
    let num_keys = mask.past + num_queries;
    let heads_first = |x: Tensor<4>| {
        let shape = [batch_size, num_kv_heads, num_heads / num_kv_heads, num_keys, head_dim];
        let x = x.slice([0..batch_size, 0..num_keys]).swap_dims(1, 2).unsqueeze_dim::<5>(2);
        x.expand(shape).reshape([batch_size, num_heads, num_keys, head_dim])
    };
    let hidden = (0..num_queries).flat_map(|i| (0..num_keys).map(move |j| !mask.keys(i).contains(&j)));
    let hidden = TensorData::new(hidden.map(i32::from).collect(), [1, 1, num_queries, num_keys]);
    let hidden: Tensor<4, Bool> = Tensor::<4, Int>::from_data(hidden, &q.device()).equal_elem(1);
    let scores = q.swap_dims(1, 2).matmul(heads_first(k).transpose()) / (head_dim as f64).sqrt();
    let hidden = hidden.expand([batch_size, num_heads, num_queries, num_keys]);
    softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 3).matmul(heads_first(v)).swap_dims(1, 2)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;

    /// `(batch_size, num_queries, past, spare capacity, num_heads, num_kv_heads, head_dim, window)`.
    type Case = (usize, usize, usize, usize, usize, usize, usize, Option<usize>);

    const CASES: [Case; 18] = [
        (1, 1, 0, 0, 1, 1, 2, None),
        (2, 7, 0, 0, 4, 2, 6, None),
        (2, 130, 0, 0, 3, 3, 10, None),
        (1, 70, 0, 0, 6, 2, 16, Some(9)),
        (1, 70, 0, 0, 2, 1, 16, Some(1)),
        (2, 1, 40, 9, 6, 3, 8, None),
        (3, 1, 40, 0, 4, 1, 8, Some(11)),
        (1, 5, 33, 3, 4, 4, 8, None),
        (1, 66, 80, 1, 4, 2, 8, Some(100)),
        (2, 1, 300, 9, 6, 2, 64, None),
        (1, 1, 128, 0, 7, 1, 80, Some(128)),
        (1, 1, 200, 5, 8, 2, 24, Some(65)),
        (2, 1, 63, 0, 5, 1, 130, None),
        (1, 230, 0, 0, 3, 1, 64, None),
        (2, 150, 170, 7, 4, 2, 22, Some(130)),
        (1, 97, 96, 0, 2, 2, 1, Some(5)),
        (2, 1, 700, 3, 4, 2, 32, None),
        (1, 1, 900, 0, 3, 3, 20, Some(600)),
    ];

    fn inputs(case: Case, device: &Device) -> (Tensor<4>, Tensor<4>, Tensor<4>, CausalMask) {
        let (batch_size, num_queries, past, spare, heads, kv_heads, head_dim, window) = case;
        let kv = [batch_size, past + num_queries + spare, kv_heads, head_dim];
        let q = random([batch_size, num_queries, heads, head_dim], device);
        (q, random(kv, device), random(kv, device), CausalMask { past, window })
    }

    #[test]
    fn the_kernel_gives_the_output_of_the_reference() {
        for case in CASES {
            let (q, k, v, mask) = inputs(case, &Device::flex());
            let found = attention(q.clone(), k.clone(), v.clone(), mask).into_data();
            let expected = attention_reference(q, k, v, mask).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
    }

    #[test]
    fn the_kernel_gives_the_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for case in CASES {
            let (q, k, v, mask) = inputs(case, &device);
            let scale = random(q.dims(), &device);
            let run = |f: fn(Tensor<4>, Tensor<4>, Tensor<4>, CausalMask) -> Tensor<4>| {
                let [q, k, v] = [&q, &k, &v].map(|x| x.clone().detach().require_grad());
                let y = f(q.clone(), k.clone(), v.clone(), mask);
                let grads = (y * scale.clone()).sum().backward();
                [q, k, v].map(|x| x.grad(&grads).unwrap().into_data())
            };
            for (found, expected) in run(attention).iter().zip(&run(attention_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::absolute(1e-4));
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let device = Device::flex().autodiff();
        let (q, k, v, mask) = inputs((1, 5, 0, 0, 4, 2, 4, Some(3)), &device);
        let loss = |x: [Tensor<4>; 3]| {
            let [q, k, v] = x;
            attention(q, k, v, mask).square().sum()
        };
        let inputs = [q, k, v].map(|x| x.require_grad());
        let grads = loss(inputs.clone()).backward();
        for which in 0..3 {
            let direction = random(inputs[which].dims(), &device);
            let slope = (inputs[which].grad(&grads).unwrap() * direction.clone().inner()).sum().into_scalar::<f32>();
            let at = |step: f64| {
                let mut moved = inputs.clone().map(|x| x.detach());
                moved[which] = moved[which].clone() + direction.clone() * step;
                f64::from(loss(moved).into_scalar::<f32>())
            };
            let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((difference - f64::from(slope)).abs() < 2e-2 * (1.0 + slope.abs() as f64), "{difference} {slope}");
        }
    }

    #[test]
    fn what_a_query_may_not_see_does_not_reach_it() {
        let (q, k, v, mask) = inputs((1, 8, 0, 0, 2, 1, 4, Some(3)), &Device::flex());
        let before = attention(q.clone(), k.clone(), v.clone(), mask);
        let spoilt = v.slice_assign([0..1, 5..6], k.clone().slice([0..1, 5..6]) * 100.0);
        let after = attention(q, k, spoilt, mask);
        let sees_key_5 = |i: usize| mask.keys(i).contains(&5);
        for i in 0..8 {
            let row = |x: &Tensor<4>| x.clone().slice([0..1, i..i + 1]).into_data();
            assert_eq!(row(&before) != row(&after), sees_key_5(i), "query {i}");
        }
    }

    #[test]
    fn keys_that_a_query_may_not_see_do_not_reach_it_whatever_they_are() {
        let (q, k, v, mask) = inputs((1, 150, 30, 0, 2, 1, 8, Some(40)), &Device::flex());
        let before = attention(q.clone(), k.clone(), v.clone(), mask);
        for spoilt in [f32::NAN, 1e30] {
            let keys = k.clone().slice_assign([0..1, 100..101], Tensor::full([1, 1, 1, 8], spoilt, &q.device()));
            let after = attention(q.clone(), keys, v.clone(), mask);
            for i in 0..150 {
                let row = |x: &Tensor<4>| x.clone().slice([0..1, i..i + 1]).into_data();
                assert_eq!(row(&before) != row(&after), mask.keys(i).contains(&100), "query {i}");
            }
        }
    }

    #[test]
    fn scores_that_rise_by_hundreds_along_the_keys_give_the_output_of_the_reference() {
        let device = Device::flex();
        for num_queries in [1, 250] {
            let (q, k, v, mask) = inputs((1, num_queries, 700, 0, 2, 1, 16, None), &device);
            let rising = Tensor::<1, Int>::arange(0..700 + num_queries as i64, &device).float().reshape([1, -1, 1, 1]);
            let (q, k) = (q.abs() * 2.0, k.abs() * rising / 100.0);
            let found = attention(q.clone(), k.clone(), v.clone(), mask).into_data();
            let expected = attention_reference(q, k, v, mask).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
        }
    }

    #[test]
    fn a_sequence_has_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads() {
        for num_queries in [1, 130] {
            let (q, k, v, mask) = inputs((3, num_queries, 290, 2, 6, 2, 40, None), &Device::flex());
            let run = || attention(q.clone(), k.clone(), v.clone(), mask).into_data();
            let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
            let alone = on(1);
            assert_eq!(on(2), alone, "{num_queries} queries on two threads");
            assert_eq!(on(3), alone, "{num_queries} queries on three threads");
            let second = [&q, &k, &v].map(|x| x.clone().narrow(0, 1, 1));
            let [q, k, v] = second;
            let of_batch = Tensor::<4>::from_data(alone, &q.device()).narrow(0, 1, 1).into_data();
            assert_eq!(attention(q, k, v, mask).into_data(), of_batch, "{num_queries} queries");
        }
    }

    #[test]
    fn some_queries_see_from_the_first_key_of_the_first_to_the_last_of_the_last() {
        assert_eq!(CausalMask { past: 7, window: None }.keys_of_all(&(2..5)), 0..12);
        assert_eq!(CausalMask { past: 7, window: Some(3) }.keys_of_all(&(2..5)), 7..12);
    }

    #[test]
    fn pairs_are_a_triangle_without_a_window_and_a_band_with_one() {
        assert_eq!(CausalMask { past: 0, window: None }.num_pairs(10), 55);
        assert_eq!(CausalMask { past: 7, window: None }.num_pairs(1), 8);
        assert_eq!(CausalMask { past: 0, window: Some(3) }.num_pairs(10), 1 + 2 + 8 * 3);
    }
}
