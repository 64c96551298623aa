//! Causal self-attention with grouped key/value heads, an optional window, and sequences of different lengths.

#[cfg(feature = "flex")]
mod autodiff;
mod cached;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod mask;
#[cfg(feature = "tch")]
mod torch;

#[cfg(all(test, feature = "cuda-source"))]
pub(super) use cached::CachedAttention;
pub use cached::{Cache, cached_attention, cached_attention_reference};
pub use mask::{Band, CausalMask, Forked, Ragged, Seen};

#[cfg(feature = "flex")]
use burn::backend::{
    Backend, Dispatch, ExtensionType, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Device, Tensor, activation::softmax};

use crate::trace::Op;

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// Whether this device has a kernel for [`Forked`] sequences.
pub fn has_forked_kernel(device: &Device) -> bool {
    super::is_flex(device) && !device.is_autodiff()
}

/// Whether keys that no query of a block sees cost nothing here, so that documents in one row are as fast as in rows of their own.
pub fn skips_masked_keys(device: &Device) -> bool {
    super::is_flex(device) || super::is_cube(device)
}

/// `softmax(q·kᵀ / √head_dim)·v` over the keys that each query may see (Vaswani et al., 2017, arXiv:1706.03762,
/// §3.2.1), query head `h` reading key/value head `h / (num_heads / num_kv_heads)` (Ainslie et al., 2023,
/// arXiv:2305.13245, §2.2).
///
/// Keys and values may have room behind the last visible one, as a cache has; it is not read. The result of a query that is
/// padding is zero.
///
/// # Shapes
/// - `q`, result: `[batch_size, num_queries, num_heads, head_dim]`
/// - `k`, `v`: `[batch_size, capacity, num_kv_heads, head_dim]`
///
/// All in float32, or all in the type of [products](super::linear).
///
/// # Panics
/// If there are no queries, the sizes disagree, `num_kv_heads` does not divide `num_heads`, or the mask reaches beyond the
/// capacity.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &CausalMask) -> Tensor<4> {
    assert_sizes(&q, &k, &v, mask);
    count(&q, k.dims()[2], mask);
    #[cfg(feature = "flex")]
    if has_forked_kernel(&q.device())
        && let CausalMask::Forked(forked) = mask
    {
        let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
        return Tensor::from_dispatch(<Dispatch as ForkedAttention>::forked_attention(q, k, v, forked.clone()));
    }
    #[cfg(feature = "flex")]
    if has_kernel(&q.device())
        && let Some(mask) = Mask::of(mask)
    {
        let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
        return Tensor::from_dispatch(<Dispatch as Attention>::attention_forward(q, k, v, mask));
    }
    attention_reference(q, k, v, mask)
}

fn assert_sizes(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, mask: &CausalMask) {
    let [batch_size, num_queries, num_heads, head_dim] = q.dims();
    let [kv_batch_size, capacity, num_kv_heads, kv_head_dim] = k.dims();
    assert!(batch_size * num_queries > 0, "attention: no queries");
    assert_eq!(k.dims(), v.dims(), "attention: keys and values");
    assert_eq!((batch_size, head_dim), (kv_batch_size, kv_head_dim), "attention: queries and keys");
    assert!(num_heads.is_multiple_of(num_kv_heads), "attention: {num_heads} heads on {num_kv_heads} kv heads");
    let num_keys = mask.num_keys(num_queries);
    assert!(num_keys <= capacity, "attention: a mask of {num_keys} keys for {capacity} positions");
    match mask {
        CausalMask::Band(_) => {}
        CausalMask::Ragged(Ragged { bounds, .. }) => {
            assert_eq!(bounds.dims(), [batch_size, num_queries, 2], "attention: mask and queries");
        }
        CausalMask::Forked(Forked { sequences }) => {
            assert_eq!([sequences.len(), sequences[0].len()], [batch_size, num_queries], "attention: mask and queries");
        }
    }
}

/// Counts the products of scores and of values, and the keys and values that some query sees.
fn count(q: &Tensor<4>, num_kv_heads: usize, mask: &CausalMask) {
    let [batch_size, num_queries, num_heads, head_dim] = q.dims();
    crate::trace::count(Op {
        multiply_adds: 2 * num_heads * head_dim * mask.num_pairs(batch_size, num_queries),
        bytes: 2 * num_kv_heads * head_dim * mask.num_visible(batch_size, num_queries) * q.dtype().size(),
        parameters: 0,
    });
}

/// What attention of one query per sequence counts with a cache of `dtype` if they see `num_keys` keys together: for passes with
/// [`CausalMask::of_bounds`], which count none.
pub(crate) fn op_of_step(num_heads: usize, num_kv_heads: usize, head_dim: usize, num_keys: usize, dtype: DType) -> Op {
    Op {
        multiply_adds: 2 * num_heads * head_dim * num_keys,
        bytes: 2 * num_kv_heads * head_dim * num_keys * dtype.size(),
        parameters: 0,
    }
}

/// The same by Burn's own operations, with all scores materialized.
pub fn attention_reference(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &CausalMask) -> Tensor<4> {
    let [batch_size, num_queries, num_heads, head_dim] = q.dims();
    let [_, _, num_kv_heads, _] = k.dims();
    let (device, num_keys) = (q.device(), mask.num_keys(num_queries));
    let heads_first = |x: Tensor<4>| {
        let shape = [batch_size, num_kv_heads, num_heads / num_kv_heads, num_keys, head_dim];
        let x = x.slice([0..batch_size, 0..num_keys]).swap_dims(1, 2).unsqueeze_dim::<5>(2);
        x.expand(shape).reshape([batch_size, num_heads, num_keys, head_dim])
    };
    let (hidden, is_padding) = mask.hidden(num_queries, &device);
    let hidden = hidden.unsqueeze_dim::<4>(1).expand([batch_size, num_heads, num_queries, num_keys]);
    let scores = q.swap_dims(1, 2).matmul(heads_first(k).transpose()) / (head_dim as f64).sqrt();
    let y = softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 3).matmul(heads_first(v)).swap_dims(1, 2);
    match is_padding {
        None => y,
        Some(is_padding) => {
            let is_padding = is_padding.unsqueeze_dim::<4>(3);
            y.mask_fill(is_padding.expand([batch_size, num_queries, num_heads, head_dim]), 0.0)
        }
    }
}

/// The operation on a backend; shapes are those of [`attention`].
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait Attention: Backend {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] mask: Mask<Self>,
    ) -> FloatTensor<Self>;
}

/// The operation on [`Forked`] sequences, for inference.
#[cfg(feature = "flex")]
#[backend_extension(Flex)]
trait ForkedAttention: Backend {
    fn forked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: Forked,
    ) -> FloatTensor<Self>;
}

/// The gradients of the operation on a backend.
#[cfg(feature = "flex")]
pub(super) trait AttentionBackward: Attention {
    /// The result, and what the gradients read of it, or nothing where they compute it again.
    fn attention_kept(inputs: Inputs<Self>) -> (FloatTensor<Self>, Option<Kept<Self>>) {
        let Inputs { q, k, v, mask } = inputs;
        (Self::attention_forward(q, k, v, mask), None)
    }

    /// The gradients of `q`, `k` and `v`.
    fn attention_backward(
        grad: FloatTensor<Self>,
        inputs: Inputs<Self>,
        kept: Option<Kept<Self>>,
    ) -> [FloatTensor<Self>; 3];
}

/// What a forward pass keeps beside its inputs.
#[cfg(feature = "flex")]
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "cube"), expect(dead_code, reason = "the bodies for CPUs compute the weights again"))]
pub(super) struct Kept<B: Backend> {
    /// The result.
    y: FloatTensor<B>,
    /// The logarithm of the sum of the exponentials of its scores for each head of each query, float32; 0 of padding.
    logsumexp: FloatTensor<B>,
}

/// The arguments of attention.
#[cfg(feature = "flex")]
#[derive(Debug, Clone)]
pub(super) struct Inputs<B: Backend> {
    pub(super) q: FloatTensor<B>,
    pub(super) k: FloatTensor<B>,
    pub(super) v: FloatTensor<B>,
    pub(super) mask: Mask<B>,
}

/// A [`CausalMask`] on a backend; the bounds are `[batch_size, num_queries, 2]`, `num_keys` is one past the last key seen, and
/// `max_visible` the number of keys that a sequence sees, at most.
#[cfg(feature = "flex")]
#[derive(Debug, Clone, ExtensionType)]
pub(super) enum Mask<B: Backend> {
    Band(Band),
    Ragged { bounds: IntTensor<B>, num_keys: usize, max_visible: usize },
}

#[cfg(feature = "flex")]
impl Mask<Dispatch> {
    /// `None` for [`Forked`] sequences.
    fn of(mask: &CausalMask) -> Option<Self> {
        match mask {
            CausalMask::Band(band) => Some(Self::Band(*band)),
            CausalMask::Ragged(ragged) => Some(Self::Ragged {
                bounds: ragged.bounds.clone().into_dispatch(),
                num_keys: ragged.num_keys,
                max_visible: ragged.max_visible,
            }),
            CausalMask::Forked(_) => None,
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use std::ops::Range;

    use burn::tensor::{Device, Int, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;

    /// `(batch_size, num_queries, past, spare capacity, num_heads, num_kv_heads, head_dim, window)`.
    type Case = (usize, usize, usize, usize, usize, usize, usize, Option<usize>);

    const CASES: [Case; 19] = [
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
        (2, 600, 9, 2, 2, 1, 8, None),
    ];

    fn inputs(case: Case, device: &Device) -> (Tensor<4>, Tensor<4>, Tensor<4>, CausalMask) {
        let (batch_size, num_queries, past, spare, heads, kv_heads, head_dim, window) = case;
        let kv = [batch_size, past + num_queries + spare, kv_heads, head_dim];
        let q = random([batch_size, num_queries, heads, head_dim], device);
        (q, random(kv, device), random(kv, device), CausalMask::band(past, window))
    }

    #[test]
    fn the_kernel_gives_the_output_of_the_reference() {
        for case in CASES {
            let (q, k, v, mask) = inputs(case, &Device::flex());
            let found = attention(q.clone(), k.clone(), v.clone(), &mask).into_data();
            let expected = attention_reference(q, k, v, &mask).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
    }

    #[test]
    fn the_kernel_gives_the_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for case in CASES {
            let (q, k, v, mask) = inputs(case, &device);
            let scale = random(q.dims(), &device);
            let run = |f: fn(Tensor<4>, Tensor<4>, Tensor<4>, &CausalMask) -> Tensor<4>| {
                let [q, k, v] = [&q, &k, &v].map(|x| x.clone().detach().require_grad());
                let y = f(q.clone(), k.clone(), v.clone(), &mask);
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
            attention(q, k, v, &mask).square().sum()
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
        let before = attention(q.clone(), k.clone(), v.clone(), &mask);
        let spoilt = v.slice_assign([0..1, 5..6], k.clone().slice([0..1, 5..6]) * 100.0);
        let after = attention(q, k, spoilt, &mask);
        let CausalMask::Band(band) = mask else { panic!("a band") };
        let sees_key_5 = |i: usize| band.keys(i).contains(&5);
        for i in 0..8 {
            let row = |x: &Tensor<4>| x.clone().slice([0..1, i..i + 1]).into_data();
            assert_eq!(row(&before) != row(&after), sees_key_5(i), "query {i}");
        }
    }

    #[test]
    fn keys_that_a_query_may_not_see_do_not_reach_it_whatever_they_are() {
        let (q, k, v, mask) = inputs((1, 150, 30, 0, 2, 1, 8, Some(40)), &Device::flex());
        let CausalMask::Band(band) = mask else { panic!("a band") };
        let before = attention(q.clone(), k.clone(), v.clone(), &mask);
        for spoilt in [f32::NAN, 1e30] {
            let keys = k.clone().slice_assign([0..1, 100..101], Tensor::full([1, 1, 1, 8], spoilt, &q.device()));
            let after = attention(q.clone(), keys, v.clone(), &mask);
            for i in 0..150 {
                let row = |x: &Tensor<4>| x.clone().slice([0..1, i..i + 1]).into_data();
                assert_eq!(row(&before) != row(&after), band.keys(i).contains(&100), "query {i}");
            }
        }
    }

    /// Documents in a row, each with continuations: its mask, and of each continuation where its document and itself start and
    /// end.
    fn forks(documents: &[(usize, &[usize])]) -> (CausalMask, Vec<[Range<usize>; 2]>) {
        let (mut queries, mut parts) = (Vec::new(), Vec::new());
        for (document, continuations) in documents {
            let start = queries.len();
            queries.extend((0..*document).map(|i| Seen { keys: start..start + i + 1, hidden: 0..0 }));
            for len in *continuations {
                let (prefix, own) = (start..start + document, queries.len());
                queries.extend((0..*len).map(|i| Seen { keys: start..own + i + 1, hidden: prefix.end..own }));
                parts.push([prefix, own..own + len]);
            }
        }
        (CausalMask::forked(vec![queries]), parts)
    }

    #[test]
    fn a_continuation_attends_as_if_it_followed_its_document_alone() {
        for documents in [
            &[(1, &[1usize][..])][..],
            &[(1, &[])],
            &[(3, &[2, 1, 4])],
            &[(70, &[9, 30, 1, 40]), (5, &[3, 3]), (200, &[]), (33, &[95, 100])],
            &[(300, &[20, 25, 30, 22]), (310, &[40, 2, 3, 4])],
        ] {
            let (mask, parts) = forks(documents);
            let CausalMask::Forked(Forked { sequences }) = &mask else { panic!("forks") };
            let len = sequences[0].len();
            for device in [Device::flex(), Device::flex().autodiff()] {
                let [q, k, v] = [[1, len, 6, 16], [1, len, 2, 16], [1, len, 2, 16]].map(|dims| random(dims, &device));
                let found = attention(q.clone(), k.clone(), v.clone(), &mask);
                let reference = attention_reference(q.clone(), k.clone(), v.clone(), &mask);
                found.to_data().assert_approx_eq::<f32>(&reference.into_data(), Tolerance::absolute(1e-5));
                for [prefix, own] in &parts {
                    let part = |x: &Tensor<4>, of: &Range<usize>| x.clone().slice([0..1, of.clone()]);
                    let [k, v] = [&k, &v].map(|x| Tensor::cat(vec![part(x, prefix), part(x, own)], 1));
                    let alone = attention(part(&q, own), k, v, &CausalMask::band(prefix.len(), None)).into_data();
                    part(&found, own).into_data().assert_approx_eq::<f32>(&alone, Tolerance::absolute(1e-5));
                }
            }
        }
    }

    #[test]
    fn one_query_with_hidden_keys_gives_the_output_of_the_reference() {
        let mask = CausalMask::forked(vec![vec![Seen { keys: 0..5, hidden: 1..3 }]]);
        let [q, k, v] = [[1, 1, 4, 8], [1, 5, 2, 8], [1, 5, 2, 8]].map(|dims| random(dims, &Device::flex()));
        let found = attention(q.clone(), k.clone(), v.clone(), &mask).into_data();
        found.assert_approx_eq::<f32>(&attention_reference(q, k, v, &mask).into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn hidden_keys_do_not_reach_a_continuation_whatever_they_are() {
        let (mask, _) = forks(&[(100, &[20, 30, 10])]);
        let [q, k, v] = [[1, 160, 2, 8], [1, 160, 1, 8], [1, 160, 1, 8]].map(|dims| random(dims, &Device::flex()));
        let before = attention(q.clone(), k.clone(), v.clone(), &mask);
        for spoilt in [f32::NAN, 1e30] {
            let keys = k.clone().slice_assign([0..1, 130..131], Tensor::full([1, 1, 1, 8], spoilt, &q.device()));
            let after = attention(q.clone(), keys, v.clone(), &mask);
            for i in 0..160 {
                let row = |x: &Tensor<4>| x.clone().slice([0..1, i..i + 1]).into_data();
                assert_eq!(row(&before) != row(&after), (130..150).contains(&i), "query {i}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "attention: no queries")]
    fn no_queries_are_refused() {
        let (q, k, v, mask) = inputs((1, 0, 3, 0, 2, 1, 4, None), &Device::flex());
        attention(q, k, v, &mask);
    }

    #[test]
    fn scores_that_rise_by_hundreds_along_the_keys_give_the_output_of_the_reference() {
        let device = Device::flex();
        for num_queries in [1, 250] {
            let (q, k, v, mask) = inputs((1, num_queries, 700, 0, 2, 1, 16, None), &device);
            let rising = Tensor::<1, Int>::arange(0..700 + num_queries as i64, &device).float().reshape([1, -1, 1, 1]);
            let (q, k) = (q.abs() * 2.0, k.abs() * rising / 100.0);
            let found = attention(q.clone(), k.clone(), v.clone(), &mask).into_data();
            let expected = attention_reference(q, k, v, &mask).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
        }
    }

    #[test]
    fn a_sequence_has_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads() {
        for num_queries in [1, 130] {
            let (q, k, v, mask) = inputs((3, num_queries, 290, 2, 6, 2, 40, None), &Device::flex());
            let run = || attention(q.clone(), k.clone(), v.clone(), &mask).into_data();
            let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
            let alone = on(1);
            assert_eq!(on(2), alone, "{num_queries} queries on two threads");
            assert_eq!(on(3), alone, "{num_queries} queries on three threads");
            let second = [&q, &k, &v].map(|x| x.clone().narrow(0, 1, 1));
            let [q, k, v] = second;
            let of_batch = Tensor::<4>::from_data(alone, &q.device()).narrow(0, 1, 1).into_data();
            assert_eq!(attention(q, k, v, &mask).into_data(), of_batch, "{num_queries} queries");
        }
    }

    /// Queries, keys that were there before, and a window, of each sequence.
    const SEQUENCES: [[(usize, usize, Option<usize>); 4]; 3] = [
        [(70, 0, None), (1, 100, None), (0, 50, None), (33, 7, None)],
        [(130, 20, Some(40)), (1, 0, Some(40)), (97, 3, Some(40)), (2, 170, Some(40))],
        [(1, 300, None), (1, 2, None), (0, 0, None), (1, 64, None)],
    ];

    /// A ragged batch, its mask, and the mask of each sequence alone.
    fn ragged(
        sequences: [(usize, usize, Option<usize>); 4],
        device: &Device,
    ) -> ([Tensor<4>; 3], CausalMask, [CausalMask; 4]) {
        let most = sequences.iter().map(|(num_queries, ..)| *num_queries).max().unwrap();
        let q = random([4, most, 6, 24], device);
        let [k, v] = [(); 2].map(|()| random([4, 310, 2, 24], device));
        let keys = sequences.map(|(num_queries, past, window)| {
            (0..num_queries).map(|query| Band { past, window }.keys(query)).collect::<Vec<_>>()
        });
        let alone = sequences.map(|(_, past, window)| CausalMask::band(past, window));
        ([q, k, v], CausalMask::ragged(&keys, device), alone)
    }

    #[test]
    fn a_sequence_of_a_ragged_batch_has_the_bits_of_the_sequence_alone() {
        let device = Device::flex();
        for sequences in SEQUENCES {
            let ([q, k, v], mask, alone) = ragged(sequences, &device);
            let y = attention(q.clone(), k.clone(), v.clone(), &mask);
            for (batch, ((num_queries, ..), alone)) in sequences.iter().zip(&alone).enumerate() {
                let [q, y] = [&q, &y].map(|x| x.clone().narrow(0, batch, 1));
                if *num_queries > 0 {
                    let [k, v] = [&k, &v].map(|x| x.clone().narrow(0, batch, 1));
                    let expected = attention(q.clone().narrow(1, 0, *num_queries), k, v, alone).into_data();
                    assert_eq!(y.clone().narrow(1, 0, *num_queries).into_data(), expected, "sequence {batch}");
                }
                assert!(y.into_data().iter::<f32>().skip(num_queries * 6 * 24).all(|x| x == 0.0), "padding is zero");
            }
        }
    }

    #[test]
    fn a_ragged_batch_has_the_output_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        // Two documents and padding behind; one document of a window.
        let documents = vec![
            (0..50).map(|i| 0..i + 1).chain((50..120).map(|i| 50..i + 1)).collect(),
            (0..130usize).map(|i| i.saturating_sub(20)..i + 1).collect::<Vec<_>>(),
        ];
        let packed = CausalMask::ragged(&documents, &device);
        let new =
            || [random([2, 130, 4, 10], &device), random([2, 130, 2, 10], &device), random([2, 130, 2, 10], &device)];
        let cases = SEQUENCES.map(|sequences| ragged(sequences, &device)).map(|(inputs, mask, _)| (inputs, mask));
        for (inputs, mask) in cases.into_iter().chain([(new(), packed)]) {
            let scale = random(inputs[0].dims(), &device);
            let run = |f: fn(Tensor<4>, Tensor<4>, Tensor<4>, &CausalMask) -> Tensor<4>| {
                let [q, k, v] = inputs.clone().map(|x| x.detach().require_grad());
                let y = f(q.clone(), k.clone(), v.clone(), &mask);
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner(), q.grad(&grads).unwrap(), k.grad(&grads).unwrap(), v.grad(&grads).unwrap()]
            };
            for (found, expected) in run(attention).into_iter().zip(run(attention_reference)) {
                found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-4));
            }
        }
    }
}
