//! Attention in CubeCL against the reference on Flex, and against itself.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::cube::{assert_equal, devices, results};
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
    // Sizes, keys before the first query, window, chunks.
    let cases: [(Sizes, usize, Option<usize>, usize); 19] = [
        ([1, 1, 1, 1, 1, 2], 0, None, 1),
        ([2, 7, 7, 4, 2, 6], 0, None, 1),
        ([1, 40, 40, 3, 3, 10], 0, None, 1),
        ([1, 50, 53, 6, 2, 16], 0, Some(9), 1),
        ([2, 1, 49, 6, 2, 8], 40, None, 1),
        ([2, 5, 40, 4, 4, 33], 33, Some(11), 1),
        ([1, 20, 70, 7, 1, 64], 50, Some(1), 1),
        ([1, 33, 33, 2, 1, 128], 0, None, 1),
        ([1, 9, 20, 2, 2, 260], 11, None, 1),
        ([1, 70, 70, 2, 1, 20], 0, Some(40), 1),
        ([1, 17, 400, 6, 3, 8], 380, None, 1),
        ([1, 16, 400, 6, 3, 8], 380, None, 4),
        ([1, 1, 129, 1, 1, 3], 128, None, 2),
        ([1, 1, 300, 6, 2, 64], 299, None, 3),
        ([3, 1, 217, 4, 4, 10], 200, None, 2),
        ([1, 1, 140, 7, 1, 128], 130, None, 2),
        ([3, 1, 290, 6, 3, 8], 280, Some(67), 2),
        ([1, 5, 290, 9, 3, 16], 284, Some(101), 2),
        ([3, 11, 170, 8, 2, 12], 155, None, 2),
    ];
    for (sizes, past, window, num_chunks) in cases {
        let case = format!("attention of {sizes:?} after {past}, window {window:?}");
        assert_eq!(CausalMask::band(past, window).num_chunks(sizes[1]), num_chunks, "{case}");
        let run = |f: Attention, device: &Device| of_attention(f, sizes, |_| CausalMask::band(past, window), device);
        assert_equal(&case, |device| run(attention, device), |device| run(attention_reference, device));
    }
}

/// The keys of `len` queries after `past` keys.
fn keys_after(past: usize, len: usize, window: usize) -> Vec<Range<usize>> {
    (past + 1..past + len + 1).map(|end| end.saturating_sub(window)..end).collect()
}

#[test]
fn ragged_attention_is_that_of_the_reference() {
    let documents = (0..19).map(|i| if i < 7 { 0..i + 1 } else { 7..i + 1 }).collect();
    let cases: [([Vec<Range<usize>>; 4], usize); 3] = [
        // Two documents in a row; a sequence behind cached keys; one that is all padding; one query with a window.
        ([documents, keys_after(20, 11, 99), vec![], std::iter::once(30..40).collect()], 1),
        // Keys for three chunks, for none, for a part of one, and for two.
        ([keys_after(300, 1, 999), vec![], keys_after(4, 1, 999), keys_after(128, 1, 999)], 3),
        // Windows within a chunk, from one to the next, and at the beginning.
        ([keys_after(20, 3, 100), keys_after(310, 3, 100), vec![], keys_after(0, 2, 100)], 2),
    ];
    for ((sequences, num_chunks), [heads, kv_heads, width]) in
        cases.iter().flat_map(|case| [[6, 2, 8], [4, 4, 20], [9, 1, 64]].map(|heads| (case, heads)))
    {
        let num_queries = sequences.iter().map(Vec::len).max().expect("four");
        let capacity = sequences.iter().flatten().map(|keys| keys.end).max().expect("queries") + 1;
        let sizes = [4, num_queries, capacity, heads, kv_heads, width];
        let case = format!("ragged attention of {sizes:?}");
        let mask = |device: &Device| CausalMask::ragged(sequences, device);
        assert_eq!(mask(&Device::flex()).num_chunks(num_queries), *num_chunks, "{case}");
        let run = |f: Attention, device: &Device| of_attention(f, sizes, mask, device);
        assert_equal(&case, |device| run(attention, device), |device| run(attention_reference, device));
    }
}

#[test]
fn a_row_has_the_same_bits_in_a_batch_and_alone() {
    // Keys of each sequence: a few, one chunk and one key less or more, several chunks.
    const LENS: [usize; 6] = [3, 128, 129, 300, 127, 520];
    let bits = |x: Tensor<4>| flat(x).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for (num_queries, window) in [(1, None), (3, None), (1, Some(100)), (2, Some(140))] {
        let keys = |len: usize| keys_after(len - num_queries, num_queries, window.unwrap_or(len));
        for (name, device) in devices() {
            let [q, k, v] = [(0, num_queries, 6), (1, 530, 2), (2, 530, 2)]
                .map(|(salt, len, heads)| numbers::<4>(salt, [LENS.len(), len, heads, 16], &device));
            let q = q * 3.0;
            let mask = CausalMask::ragged(&LENS.map(keys), &device);
            assert!(mask.num_chunks(num_queries) > 1, "the batch has chunks");
            let together = attention(q.clone(), k.clone(), v.clone(), &mask);
            for (row, len) in LENS.into_iter().enumerate() {
                let own = |x: &Tensor<4>| x.clone().narrow(0, row, 1);
                let expected = bits(own(&together));
                let case = format!("{num_queries} queries, {len} keys, window {window:?} on {name}");
                for mask in [CausalMask::ragged(&[keys(len)], &device), CausalMask::band(len - num_queries, window)] {
                    let [k, v] = [&k, &v].map(|x| own(x).narrow(1, 0, len));
                    assert_eq!(bits(attention(own(&q), k, v, &mask)), expected, "{case}");
                }
            }
        }
    }
}

#[test]
fn a_score_that_is_no_number_spoils_its_row_and_no_other() {
    // A key of the second sequence, in the first chunk, one between, or the last.
    for (key, value) in [3, 200, 299].into_iter().flat_map(|key| [(key, f32::NAN), (key, f32::INFINITY)]) {
        let mask = CausalMask::band(299, None);
        assert_eq!(mask.num_chunks(1), 3);
        let run = |f: Attention, device: &Device| {
            let [q, k, v] = [(0, 1, 4), (1, 300, 2), (2, 300, 2)]
                .map(|(salt, len, heads)| numbers::<4>(salt, [2, len, heads, 8], device));
            let spoilt = Tensor::full([1, 1, 1, 8], value, device);
            let k = k.slice_assign([1..2, key..key + 1, 0..1, 0..8], spoilt);
            // Queries are positive, so that no product of infinity is negative.
            let y = flat(f(q.abs() + 0.1, k, v, &mask));
            let is_nan: Vec<f32> = y.iter().map(|x| if x.is_nan() { 1.0 } else { 0.0 }).collect();
            vec![is_nan, y.into_iter().map(|x| if x.is_nan() { 0.0 } else { x }).collect()]
        };
        let case = format!("attention with {value} at key {key}");
        let expected = run(attention_reference, &Device::flex());
        assert_eq!(expected[0].iter().sum::<f32>(), 16.0, "{case}: two heads of the second sequence");
        assert_equal(&case, |device| run(attention, device), |_| expected.clone());
    }
}

type Cached = fn([Tensor<4>; 3], [Tensor<3>; 2], Cache, &CausalMask) -> (Tensor<4>, Cache);

/// The results and caches of steps of `lens` queries, and a copy of the cache before the last.
fn of_steps(f: Cached, lens: &[usize], mask: impl Fn(usize, usize) -> CausalMask, device: &Device) -> Vec<Vec<f32>> {
    let [keys, values] = [5, 6].map(|salt| numbers(salt, [3, 150, 2, 10], device));
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
    let cases: [(Option<usize>, &[usize], usize); 4] = [
        (None, &[1, 5, 1, 20, 1], 1),
        (Some(3), &[1, 5, 1, 20, 1], 1),
        (None, &[136, 1, 7, 1], 2),
        (Some(45), &[136, 1], 2),
    ];
    for (window, lens, num_chunks) in cases {
        let past = lens.iter().sum::<usize>() - 1;
        assert_eq!(CausalMask::band(past, window).num_chunks(1), num_chunks, "the last step");
        let run = |f: Cached, device: &Device| of_steps(f, lens, |past, _| CausalMask::band(past, window), device);
        assert_equal("steps", |device| run(cached_attention, device), |device| run(cached_attention_reference, device));
    }
    for (ahead, num_chunks) in [(10, 1), (130, 2)] {
        let mask = |past: usize, len: usize, device: &Device| {
            // The second sequence is idle, and the third is behind the first.
            let keys = |past: usize, len: usize| keys_after(past, len, past + len);
            CausalMask::ragged(&[keys(past + ahead, len), vec![], keys(past, len.div_ceil(2))], device)
        };
        assert_eq!(mask(8, 1, &Device::flex()).num_chunks(1), num_chunks, "the last step");
        let run = |f: Cached, device: &Device| of_steps(f, &[1, 7, 1], |past, len| mask(past, len, device), device);
        let case = format!("ragged steps, the first sequence {ahead} keys ahead");
        assert_equal(&case, |device| run(cached_attention, device), |device| run(cached_attention_reference, device));
    }
}

#[test]
fn keys_behind_the_last_that_is_seen_are_not_read() {
    for (past, num_chunks) in [(12, 1), (130, 2)] {
        let (end, mask) = (past + 3, CausalMask::band(past, None));
        assert_eq!(mask.num_chunks(3), num_chunks);
        let run = |device: &Device, spoilt: f32| {
            let [q, k, v] = [3, end + 5, end + 5].map(|len| numbers::<4>(len, [1, len, 2, 8], device));
            let rest = Tensor::full([1, 5, 2, 8], spoilt, device);
            let [k, v] = [k, v].map(|x| x.slice_assign([0..1, end..end + 5, 0..2, 0..8], rest.clone()));
            vec![flat(attention(q, k, v, &mask))]
        };
        assert_equal("attention before spoilt keys", |device| run(device, f32::NAN), |device| run(device, 0.0));
    }
}
