//! Attention of one query a sequence, as in decoding: flash-decoding (Dao et al., 2023) over the cache where it lies.
//!
//! A task has some keys of one key/value head and all query heads that read it, so that each key and value is loaded
//! once. What it finds, the mean of its values under the exponentials of its scores, their largest score and their
//! total, is merged with that of the other keys at the end, always in the same order.

use super::Visibility;
use super::flex::Sizes;
use crate::kernel::host::{
    CHUNK, FourAtOnce, Lanes, MatMut, SharedMat, Threads, WithLanes, exp, exponentials_in_place, four_at_once, sixteen,
    vectorized, with_lanes,
};

/// Keys of a task: they and their values stay in the first cache.
const KEYS: usize = 64;
/// Keys from a load to the load that is asked for meanwhile: they lie apart, as heads lie side by side.
const AHEAD: usize = 12;

/// `out = softmax(q·kᵀ / √head_dim)·v` for one query a sequence.
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct columns")]
pub(super) fn one_query(sizes: Sizes, visibility: Visibility, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let (head_dim, stride) = (sizes.head_dim, sizes.key_width());
    let heads = sizes.group();
    let positions = visibility.keys(0);
    let parts = positions.len().div_ceil(KEYS);
    let (groups, width) = (sizes.batch_size * sizes.num_kv_heads, heads * (head_dim + 2));
    let mut found = vec![0.0; groups * parts * width];
    let len = found.len();
    let target = SharedMat::of(MatMut::new(&mut found, 1, len));
    let task = |index: usize| {
        // All heads of the same keys one after the other: they lie side by side.
        let (part_index, group) = (index / groups, index % groups);
        let first = positions.start + part_index * KEYS;
        let (batch, kv_head) = (group / sizes.num_kv_heads, group % sizes.num_kv_heads);
        let start = (batch * sizes.capacity + first) * stride + kv_head * head_dim;
        let count = KEYS.min(positions.end - first);
        let queries = &q[group * heads * head_dim..(group + 1) * heads * head_dim];
        let mut scores = vec![0.0; heads * count];
        with_lanes(Scores { queries, keys: &k[start..], head_dim, stride, scale: sizes.scale(), scores: &mut scores });
        let mut part = vec![0.0; width];
        let (means, tops) = part.split_at_mut(heads * head_dim);
        for (scores, top) in scores.chunks_exact_mut(count).zip(tops.chunks_exact_mut(2)) {
            let (largest, total) = vectorized!(exponentials_in_place(scores));
            top.copy_from_slice(&[largest, total]);
        }
        with_lanes(Means { weights: &scores, values: &v[start..], head_dim, stride, means });
        let place = group * parts + part_index;
        // SAFETY: each task has columns of its own.
        unsafe { target.put(place * width..(place + 1) * width, &part) };
    };
    let is_short = groups * heads * positions.len() * head_dim < CHUNK;
    let threads = if is_short { Threads::One } else { Threads::Pool };
    threads.for_each(groups * parts, task);
    for (out, found) in out.chunks_exact_mut(heads * head_dim).zip(found.chunks_exact(parts * width)) {
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            merge(
                found.chunks_exact(width).map(|part| {
                    let (means, tops) = part.split_at(heads * head_dim);
                    (&means[head * head_dim..(head + 1) * head_dim], tops[head * 2], tops[head * 2 + 1])
                }),
                out,
            );
        }
    }
}

/// `out = Σ_p e^(m_p − m)·mean_p / Σ_p e^(m_p − m)·total_p` with `m = max_p m_p`, of parts `(mean, m, total)`.
fn merge<'a>(parts: impl Iterator<Item = (&'a [f32], f32, f32)> + Clone, out: &mut [f32]) {
    let largest = parts.clone().map(|(_, largest, _)| largest).fold(f32::NEG_INFINITY, f32::max);
    let share = |part_largest: f32| exp(part_largest - largest);
    let total: f32 = parts.clone().map(|(_, part_largest, total)| share(part_largest) * total).sum();
    for (mean, part_largest, _) in parts {
        let weight = share(part_largest) / total;
        vectorized!(out.iter_mut().zip(mean).for_each(|(out, mean)| *out += weight * mean));
    }
}

/// `scores[h, t] = scale · queries[h] · keys[t]`.
struct Scores<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    head_dim: usize,
    /// From one key to the next.
    stride: usize,
    scale: f32,
    scores: &'a mut [f32],
}

impl WithLanes for Scores<'_> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(mut self, lanes: L) {
        let heads = self.queries.len() / self.head_dim;
        four_at_once(&mut self, lanes, heads);
    }
}

impl FourAtOnce for Scores<'_> {
    #[inline(always)]
    fn rows<L: Lanes, const H: usize>(&mut self, lanes: L, head: usize) {
        let count = self.scores.len() / (self.queries.len() / self.head_dim);
        let fours = count / 4 * 4;
        for key in (0..fours).step_by(4) {
            self.tile::<L, H, 4>(lanes, head, key, count);
        }
        for key in fours..count {
            self.tile::<L, H, 1>(lanes, head, key, count);
        }
    }
}

impl Scores<'_> {
    /// The scores of `H` heads and `T` keys, each number loaded once.
    #[inline(always)]
    fn tile<L: Lanes, const H: usize, const T: usize>(&mut self, lanes: L, head: usize, key: usize, count: usize) {
        let (head_dim, whole) = (self.head_dim, self.head_dim / 16 * 16);
        let queries = &self.queries[head * head_dim..(head + H) * head_dim];
        let keys = &self.keys[key * self.stride..(key + T - 1) * self.stride + head_dim];
        let mut sums = [[lanes.splat(0.0); T]; H];
        for start in (0..whole).step_by(16) {
            let mut loaded = [lanes.splat(0.0); T];
            for (t, numbers) in loaded.iter_mut().enumerate() {
                let at = t * self.stride + start;
                lanes.prefetch(keys.as_ptr().wrapping_add(at + AHEAD * self.stride));
                *numbers = lanes.load(sixteen(keys, at));
            }
            for (h, sums) in sums.iter_mut().enumerate() {
                let query = lanes.load(sixteen(queries, h * head_dim + start));
                for (sum, key) in sums.iter_mut().zip(loaded) {
                    *sum = lanes.mul_add(query, key, *sum);
                }
            }
        }
        for (h, sums) in sums.into_iter().enumerate() {
            for (t, sum) in sums.into_iter().enumerate() {
                let query = &queries[h * head_dim + whole..(h + 1) * head_dim];
                let key_rest = &keys[t * self.stride + whole..t * self.stride + head_dim];
                let rest: f32 = query.iter().zip(key_rest).map(|(q, k)| q * k).sum();
                self.scores[(head + h) * count + key + t] = (lanes.sum(sum) + rest) * self.scale;
            }
        }
    }
}

/// `means[h] = Σ_t weights[h, t] · values[t]`.
struct Means<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    head_dim: usize,
    /// From one value to the next.
    stride: usize,
    means: &'a mut [f32],
}

impl WithLanes for Means<'_> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(mut self, lanes: L) {
        let heads = self.means.len() / self.head_dim;
        four_at_once(&mut self, lanes, heads);
    }
}

impl FourAtOnce for Means<'_> {
    #[inline(always)]
    fn rows<L: Lanes, const H: usize>(&mut self, lanes: L, head: usize) {
        let head_dim = self.head_dim;
        let count = self.weights.len() / (self.means.len() / head_dim);
        let weights = &self.weights[head * count..(head + H) * count];
        let (fours, whole) = (head_dim / 64 * 64, head_dim / 16 * 16);
        for column in (0..fours).step_by(64) {
            self.tile::<L, H, 4>(lanes, head, column, count);
        }
        for column in (fours..whole).step_by(16) {
            self.tile::<L, H, 1>(lanes, head, column, count);
        }
        for (h, weights) in weights.chunks_exact(count).enumerate() {
            let rest = &mut self.means[(head + h) * head_dim + whole..(head + h + 1) * head_dim];
            for (t, weight) in weights.iter().enumerate() {
                let value = &self.values[t * self.stride + whole..];
                rest.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }
}

impl Means<'_> {
    /// `H` heads and `V` times sixteen columns, each number of the values loaded once.
    #[inline(always)]
    fn tile<L: Lanes, const H: usize, const V: usize>(&mut self, lanes: L, head: usize, column: usize, count: usize) {
        let weights = &self.weights[head * count..(head + H) * count];
        let mut sums = [[lanes.splat(0.0); V]; H];
        for t in 0..count {
            let mut loaded = [lanes.splat(0.0); V];
            for (v, numbers) in loaded.iter_mut().enumerate() {
                let at = t * self.stride + column + v * 16;
                lanes.prefetch(self.values.as_ptr().wrapping_add(at + AHEAD * self.stride));
                *numbers = lanes.load(sixteen(self.values, at));
            }
            for (h, sums) in sums.iter_mut().enumerate() {
                let weight = lanes.splat(weights[h * count + t]);
                for (sum, value) in sums.iter_mut().zip(loaded) {
                    *sum = lanes.mul_add(weight, value, *sum);
                }
            }
        }
        for (h, sums) in sums.into_iter().enumerate() {
            let start = (head + h) * self.head_dim + column;
            let (sixteens, _) = self.means[start..start + V * 16].as_chunks_mut::<16>();
            for (sixteen, sum) in sixteens.iter_mut().zip(sums) {
                lanes.store(sum, sixteen);
            }
        }
    }
}
