//! Attention in CubeCL against the reference on Flex.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::cube::{assert_equal, results};
use crate::device::check::{flat, numbers};
use crate::kernel::attention::{
    Cache, CausalMask, attention, attention_reference, cached_attention, cached_attention_reference,
};

type Attention = fn(Tensor<4>, Tensor<4>, Tensor<4>, &CausalMask) -> Tensor<4>;

/// Batch, queries, capacity, query heads, key/value heads, width of a head.
type Sizes = [usize; 6];

fn of_attention(
    f: Attention,
    [batch, queries, capacity, heads, kv_heads, width]: Sizes,
    mask: impl Fn(&Device) -> CausalMask,
    device: &Device,
) -> Vec<Vec<f32>> {
    let kv = [batch, capacity, kv_heads, width];
    results([[batch, queries, heads, width], kv, kv], |[q, k, v]| f(q * 3.0, k, v, &mask(device)), device)
}

#[test]
fn attention_is_that_of_the_reference() {
    // Sizes, keys before the first query, window; from the tenth on, keys are cut into several chunks.
    let cases: [(Sizes, usize, Option<usize>); 17] = [
        ([1, 1, 1, 1, 1, 2], 0, None),
        ([2, 7, 7, 4, 2, 6], 0, None),
        ([1, 40, 40, 3, 3, 10], 0, None),
        ([1, 50, 53, 6, 2, 16], 0, Some(9)),
        ([2, 1, 49, 6, 2, 8], 40, None),
        ([2, 5, 40, 4, 4, 33], 33, Some(11)),
        ([1, 20, 70, 7, 1, 64], 50, Some(1)),
        ([1, 33, 33, 2, 1, 128], 0, None),
        ([1, 9, 20, 2, 2, 260], 11, None),
        ([1, 1, 33, 1, 1, 3], 32, None),
        ([1, 1, 300, 6, 2, 64], 299, None),
        ([3, 1, 217, 4, 4, 10], 200, None),
        ([1, 1, 140, 7, 1, 128], 130, None),
        ([3, 1, 260, 6, 3, 8], 255, Some(67)),
        ([1, 5, 290, 9, 3, 16], 284, Some(101)),
        ([3, 11, 170, 8, 2, 12], 155, None),
        ([1, 70, 70, 2, 1, 20], 0, Some(40)),
    ];
    for (sizes, past, window) in cases {
        let run = |f: Attention, device: &Device| of_attention(f, sizes, |_| CausalMask::band(past, window), device);
        let case = format!("attention of {sizes:?} after {past}, window {window:?}");
        assert_equal(&case, |device| run(attention, device), |device| run(attention_reference, device));
    }
}

#[test]
fn ragged_attention_is_that_of_the_reference() {
    let queries = |past: usize, len: usize, window: usize| -> Vec<Range<usize>> {
        (past + 1..past + len + 1).map(|end| end.saturating_sub(window)..end).collect()
    };
    let documents = (0..19).map(|i| if i < 7 { 0..i + 1 } else { 7..i + 1 }).collect();
    let sequences: [[Vec<Range<usize>>; 4]; 3] = [
        // Two documents in a row; a sequence behind cached keys; one that is all padding; one query with a window.
        [documents, queries(20, 11, 99), vec![], vec![30..40]],
        // Keys for every chunk, for none, for one, and for two.
        [queries(300, 1, 999), vec![], queries(4, 1, 999), queries(39, 1, 999)],
        // The same with windows.
        [queries(20, 3, 100), queries(298, 3, 100), vec![], queries(0, 2, 100)],
    ];
    for (sequences, [heads, kv_heads, width]) in
        sequences.iter().flat_map(|sequences| [[6, 2, 8], [4, 4, 20], [9, 1, 64]].map(|heads| (sequences, heads)))
    {
        let num_queries = sequences.iter().map(Vec::len).max().expect("four");
        let capacity = sequences.iter().flatten().map(|keys| keys.end).max().expect("queries") + 1;
        let sizes = [4, num_queries, capacity, heads, kv_heads, width];
        let mask = |device: &Device| CausalMask::ragged(sequences, device);
        let run = |f: Attention, device: &Device| of_attention(f, sizes, mask, device);
        let case = format!("ragged attention of {sizes:?}");
        assert_equal(&case, |device| run(attention, device), |device| run(attention_reference, device));
    }
}

type Cached = fn([Tensor<4>; 3], [Tensor<3>; 2], Cache, &CausalMask) -> (Tensor<4>, Cache);

/// The results and caches of steps of `lens` queries, and a copy of the cache before the last.
fn of_steps(f: Cached, lens: &[usize], mask: impl Fn(usize, usize) -> CausalMask, device: &Device) -> Vec<Vec<f32>> {
    let [keys, values] = [5, 6].map(|salt| numbers(salt, [3, 60, 2, 10], device));
    let mut cache = Cache { keys, values };
    let mut found = Vec::new();
    let mut past = 0;
    for &len in lens {
        let new = [(0, 6), (1, 2), (2, 2)].map(|(salt, heads)| numbers(salt + past, [3, len, heads, 10], device));
        let angles = [3, 4].map(|salt| numbers(salt, [3, len, 5], device));
        let before = cache.clone();
        let (y, next) = f(new, angles, cache, &mask(past, len));
        cache = next;
        found.extend([&before.keys, &cache.keys, &cache.values].map(|buffer| flat(buffer.clone())));
        found.push(flat(y));
        past += len;
    }
    found
}

#[test]
fn attention_with_a_cache_is_that_of_the_reference_and_leaves_a_copy_of_it_alone() {
    let few: &[usize] = &[1, 5, 1, 20, 1];
    // The last steps have two chunks of keys.
    for (window, lens) in [(None, few), (Some(3), few), (None, &[50, 1, 7, 1]), (Some(45), &[50, 1])] {
        let run = |f: Cached, device: &Device| of_steps(f, lens, |past, _| CausalMask::band(past, window), device);
        assert_equal("steps", |device| run(cached_attention, device), |device| run(cached_attention_reference, device));
    }
    for ahead in [10, 45] {
        let run = |f: Cached, device: &Device| {
            // The second sequence is idle, and the third is behind the first.
            let keys = |past: usize, len: usize| (past..past + len).map(|i| 0..i + 1).collect::<Vec<_>>();
            let mask = |past: usize, len: usize| {
                CausalMask::ragged(&[keys(past + ahead, len), vec![], keys(past, len.div_ceil(2))], device)
            };
            of_steps(f, &[1, 7, 1], mask, device)
        };
        let case = format!("ragged steps, the first sequence {ahead} keys ahead");
        assert_equal(&case, |device| run(cached_attention, device), |device| run(cached_attention_reference, device));
    }
}

#[test]
fn keys_behind_the_last_that_is_seen_are_not_read() {
    // One chunk of keys, and several.
    for past in [12, 130] {
        let end = past + 3;
        let run = |device: &Device, spoilt: f32| {
            let [q, k, v] = [3, end + 5, end + 5].map(|len| numbers::<4>(len, [1, len, 2, 8], device));
            let rest = Tensor::full([1, 5, 2, 8], spoilt, device);
            let [k, v] = [k, v].map(|x| x.slice_assign([0..1, end..end + 5, 0..2, 0..8], rest.clone()));
            vec![flat(attention(q, k, v, &CausalMask::band(past, None)))]
        };
        assert_equal("attention before spoilt keys", |device| run(device, f32::NAN), |device| run(device, 0.0));
    }
}
