//! Attention of one query per sequence, as in decoding: flash-decoding (Dao et al., 2023) over the cache in place.
//!
//! A task takes a run of keys of one sequence, all heads side by side as they are in memory, and prefetches the run of the
//! next task. Each key and value is loaded once for up to four of the query heads that read it. A task leaves the sum of its
//! values weighted by `e^score`, its largest score and its total; the last task of a sequence merges them, in fixed order.

use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::layout::{Sizes, Visible};
use crate::kernel::cpu::{
    CHUNK, FourAtOnce, Lanes, MatMut, Scratch, SharedMat, Threads, WithLanes, exp, exponentials_in_place, four_at_once,
    sixteen, vectorized, with_lanes,
};

/// Minimum and maximum keys of a task.
const KEYS: RangeInclusive<usize> = 16..=64;
/// Cap on a task's K/V bytes, so that this tile and the prefetched next one fit in L2.
const PART_BYTES: usize = 256 * 1024;
/// Tasks per sequence, unless their keys would be fewer or more than [`KEYS`].
const PARTS: usize = 8;

/// The keys of a sequence, cut into parts; a part is a task.
struct Cut {
    batch: usize,
    keys: Range<usize>,
    keys_per_part: usize,
    /// Tasks of the sequences before this one.
    first_task: usize,
}

impl Cut {
    /// By the sizes of the sequence alone: threads and other sequences have no influence on its sums.
    fn new(sizes: Sizes, batch: usize, keys: Range<usize>, first_task: usize) -> Self {
        let most = PART_BYTES / (2 * size_of::<f32>() * sizes.key_width()) / 16 * 16;
        let most = most.clamp(*KEYS.start(), *KEYS.end());
        let keys_per_part = keys.len().div_ceil(PARTS).next_multiple_of(16).min(most);
        Self { batch, keys, keys_per_part, first_task }
    }

    fn num_parts(&self) -> usize {
        self.keys.len().div_ceil(self.keys_per_part)
    }

    /// Where the keys of a part begin in the flat array, and how many they are.
    fn part(&self, sizes: Sizes, part: usize) -> (usize, usize) {
        let first = self.keys.start + part * self.keys_per_part;
        let start = (self.batch * sizes.capacity + first) * sizes.key_width();
        (start, self.keys_per_part.min(self.keys.end - first))
    }
}

/// `out = softmax(q·kᵀ / √head_dim)·v` for sequences of one query, in ascending order.
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct rows")]
pub fn one_query(sizes: Sizes, visible: &Visible, sequences: &[usize], [q, k, v]: [&[f32]; 3], out: &mut [f32]) {
    if sequences.is_empty() {
        return;
    }
    let (head_dim, heads) = (sizes.head_dim, sizes.group());
    let (mut cuts, mut tasks, mut num_keys) = (Vec::with_capacity(sequences.len()), 0, 0);
    for &batch in sequences {
        let cut = Cut::new(sizes, batch, visible.keys(batch, 0), tasks);
        (tasks, num_keys) = (tasks + cut.num_parts(), num_keys + cut.keys.len());
        cuts.push(cut);
    }
    let width = heads * (head_dim + 2);
    let row = sizes.num_kv_heads * width;
    let mut found = Scratch::new(tasks * row);
    let target = SharedMat::new(MatMut::new(&mut found, 1, tasks * row));
    let means = SharedMat::new(MatMut::new(out, sizes.batch_size * sizes.num_queries, sizes.query_width()));
    let left: Vec<_> = cuts.iter().map(|cut| AtomicUsize::new(cut.num_parts())).collect();
    let place_of = |task: usize| {
        let index = cuts.partition_point(|cut| cut.first_task <= task) - 1;
        (index, cuts[index].part(sizes, task - cuts[index].first_task))
    };
    let attend = |task: usize| {
        let (index, (start, count)) = place_of(task);
        let (_, (next, _)) = place_of((task + 1).min(tasks - 1));
        let query = cuts[index].batch * sizes.num_queries * sizes.query_width();
        let stream = Stream { stride: sizes.key_width(), ahead: next - start };
        let mut scores = Scratch::new(heads * count);
        for kv_head in 0..sizes.num_kv_heads {
            let start = start + kv_head * head_dim;
            let query = query + kv_head * heads * head_dim;
            let place = task * row + kv_head * width;
            // SAFETY: each task writes its own part, which is read only after all parts of the sequence are finished.
            let part = unsafe { target.row(0, place..place + width) };
            let (sums, tops) = part.split_at_mut(heads * head_dim);
            with_lanes(Part {
                queries: &q[query..query + heads * head_dim],
                count,
                scale: sizes.scale(),
                head_dim,
                keys: &k[start..],
                values: &v[start..],
                stream,
                scores: &mut scores,
                sums,
                tops,
            });
        }
        index
    };
    let task = |task: usize| {
        let index = attend(task);
        if left[index].fetch_sub(1, Ordering::AcqRel) == 1 {
            let Cut { batch, first_task, .. } = cuts[index];
            let parts = cuts[index].num_parts();
            let (place, query) = (first_task * row..(first_task + parts) * row, batch * sizes.num_queries);
            // SAFETY: this was the last of the tasks that have these rows.
            let (found, means) = unsafe { (target.row(0, place), means.row(query, 0..sizes.query_width())) };
            vectorized!(merge(found, parts, [heads, head_dim], means));
        }
    };
    let is_short = sizes.query_width() * num_keys < CHUNK;
    let threads = if is_short { Threads::One } else { Threads::Pool };
    let starts: Vec<_> = (0..threads.count()).map(|thread| tasks * thread / threads.count()).collect();
    threads.for_each_with_stealing(&starts, tasks, task);
}

/// `out = Σ_p e^(m_p − m)·sum_p / Σ_p e^(m_p − m)·total_p` with `m = max_p m_p`, for every head. Of each key/value head, a
/// part has the sums of the heads that read it, and then their largest scores `m_p` and totals.
#[inline(always)]
fn merge(found: &[f32], parts: usize, [heads, head_dim]: [usize; 2], out: &mut [f32]) {
    let width = heads * (head_dim + 2);
    let row = found.len() / parts;
    for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let start = head / heads * width;
        let (sums, top) = (start + head % heads * head_dim, start + heads * head_dim + head % heads * 2);
        let mut largest = f32::NEG_INFINITY;
        for part in found.chunks_exact(row) {
            largest = largest.max(part[top]);
        }
        out.fill(0.0);
        let mut total = 0.0;
        for part in found.chunks_exact(row) {
            let share = exp(part[top] - largest);
            total += share * part[top + 1];
            for (out, sum) in out.iter_mut().zip(&part[sums..sums + head_dim]) {
                *out += share * sum;
            }
        }
        for out in out.iter_mut() {
            *out /= total;
        }
    }
}

/// Strides of keys and values, in elements.
#[derive(Clone, Copy)]
struct Stream {
    /// From one key to the next.
    stride: usize,
    /// From a key to that of the next task, which is prefetched.
    ahead: usize,
}

/// A run of keys and values of one key/value head, for all heads that read it.
struct Part<'a> {
    queries: &'a [f32],
    scale: f32,
    head_dim: usize,
    /// Keys.
    count: usize,
    keys: &'a [f32],
    values: &'a [f32],
    stream: Stream,
    /// `scores[h, t] = scale · queries[h] · keys[t]`, then `e^(scores[h, t] − max_t scores[h, t])`.
    scores: &'a mut [f32],
    /// `sums[h] = Σ_t scores[h, t] · values[t]`.
    sums: &'a mut [f32],
    /// The largest score and the total of the exponentials of each head.
    tops: &'a mut [f32],
}

impl WithLanes for Part<'_> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(mut self, lanes: L) {
        let heads = self.queries.len() / self.head_dim;
        four_at_once(&mut Scores(&mut self), lanes, heads);
        for (scores, top) in self.scores.chunks_exact_mut(self.count).zip(self.tops.chunks_exact_mut(2)) {
            let (largest, total) = exponentials_in_place(scores);
            top.copy_from_slice(&[largest, total]);
        }
        four_at_once(&mut Sums(&mut self), lanes, heads);
    }
}

struct Scores<'a, 'b>(&'a mut Part<'b>);

impl FourAtOnce for Scores<'_, '_> {
    #[inline(always)]
    fn rows<L: Lanes, const H: usize>(&mut self, lanes: L, head: usize) {
        match (H, L::REGISTERS == 32) {
            (1, true) => self.keys::<L, H, 16, 16>(lanes, head),
            (2, true) => self.keys::<L, H, 8, 8>(lanes, head),
            (_, true) => self.keys::<L, H, 4, 4>(lanes, head),
            // Sixteen numbers take two registers.
            (1, false) => self.keys::<L, H, 16, 2>(lanes, head),
            (2, false) => self.keys::<L, H, 8, 2>(lanes, head),
            (_, false) => self.keys::<L, H, 4, 1>(lanes, head),
        }
    }
}

impl Scores<'_, '_> {
    /// All keys, `T` at once, of which `R` are in registers: with `H` heads up to sixteen sums. A score is the same for any
    /// `T` and `R`.
    #[inline(always)]
    fn keys<L: Lanes, const H: usize, const T: usize, const R: usize>(&mut self, lanes: L, head: usize) {
        let count = self.0.count;
        let whole = count / T * T;
        for key in (0..whole).step_by(T) {
            self.tile::<L, H, T, R>(lanes, head, key);
        }
        for key in whole..count {
            self.tile::<L, H, 1, 1>(lanes, head, key);
        }
    }

    /// The scores of `H` heads and `T` keys.
    #[inline(always)]
    fn tile<L: Lanes, const H: usize, const T: usize, const R: usize>(&mut self, lanes: L, head: usize, key: usize) {
        let Part { head_dim, count, stream: Stream { stride, .. }, .. } = *self.0;
        let mut vectors = [lanes.splat(0.0); 16];
        for first in (0..T).step_by(R) {
            for (h, sums) in self.products::<L, H, R>(lanes, head, key + first).into_iter().enumerate() {
                vectors[h * T + first..h * T + first + R].copy_from_slice(&sums);
            }
        }
        let mut stored = [0.0; 16];
        lanes.store(lanes.sums(&vectors), &mut stored);
        let whole = head_dim / 16 * 16;
        for (h, stored) in stored.chunks_exact(T).take(H).enumerate() {
            for (t, sum) in stored.iter().enumerate() {
                let query = &self.0.queries[(head + h) * head_dim + whole..(head + h + 1) * head_dim];
                let key_rest = &self.0.keys[(key + t) * stride + whole..(key + t) * stride + head_dim];
                let rest: f32 = query.iter().zip(key_rest).map(|(q, k)| q * k).sum();
                self.0.scores[(head + h) * count + key + t] = (sum + rest) * self.0.scale;
            }
        }
    }

    /// The products of `H` heads and `R` keys, lane `i` summed over the elements `i`, `i + 16`, …. Each key is loaded once.
    #[inline(always)]
    fn products<L: Lanes, const H: usize, const R: usize>(
        &self,
        lanes: L,
        head: usize,
        key: usize,
    ) -> [[L::Floats; R]; H] {
        let Part { head_dim, stream: Stream { stride, ahead }, .. } = *self.0;
        let queries = &self.0.queries[head * head_dim..(head + H) * head_dim];
        let keys = &self.0.keys[key * stride..(key + R - 1) * stride + head_dim];
        let mut sums = [[lanes.splat(0.0); R]; H];
        for start in (0..head_dim / 16 * 16).step_by(16) {
            let mut loaded = [lanes.splat(0.0); R];
            for (t, numbers) in loaded.iter_mut().enumerate() {
                let at = t * stride + start;
                if head == 0 {
                    lanes.prefetch(keys.as_ptr().wrapping_add(at + ahead));
                }
                *numbers = lanes.load(sixteen(keys, at));
            }
            for (h, sums) in sums.iter_mut().enumerate() {
                let query = lanes.load(sixteen(queries, h * head_dim + start));
                for (sum, key) in sums.iter_mut().zip(loaded) {
                    *sum = lanes.mul_add(query, key, *sum);
                }
            }
        }
        sums
    }
}

struct Sums<'a, 'b>(&'a mut Part<'b>);

impl FourAtOnce for Sums<'_, '_> {
    #[inline(always)]
    fn rows<L: Lanes, const H: usize>(&mut self, lanes: L, head: usize) {
        match (H, L::REGISTERS == 32) {
            (_, true) => self.columns::<L, H, 4>(lanes, head),
            // Sixteen numbers take two registers.
            (1 | 2, false) => self.columns::<L, H, 2>(lanes, head),
            (_, false) => self.columns::<L, H, 1>(lanes, head),
        }
    }
}

impl Sums<'_, '_> {
    /// All columns, `V` times sixteen at once. A sum is the same for any `V`.
    #[inline(always)]
    fn columns<L: Lanes, const H: usize, const V: usize>(&mut self, lanes: L, head: usize) {
        let Part { head_dim, count, stream: Stream { stride, .. }, .. } = *self.0;
        let (wide, whole) = (head_dim / (V * 16) * (V * 16), head_dim / 16 * 16);
        for column in (0..wide).step_by(V * 16) {
            self.tile::<L, H, V>(lanes, head, column);
        }
        for column in (wide..whole).step_by(16) {
            self.tile::<L, H, 1>(lanes, head, column);
        }
        for h in head..head + H {
            let rest = &mut self.0.sums[h * head_dim + whole..(h + 1) * head_dim];
            rest.fill(0.0);
            for (t, weight) in self.0.scores[h * count..(h + 1) * count].iter().enumerate() {
                let value = &self.0.values[t * stride + whole..];
                rest.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }

    /// `H` heads and `V` times sixteen columns, each number of the values loaded once.
    #[inline(always)]
    fn tile<L: Lanes, const H: usize, const V: usize>(&mut self, lanes: L, head: usize, column: usize) {
        let Part { head_dim, count, values, stream: Stream { stride, ahead }, .. } = *self.0;
        let weights = &self.0.scores[head * count..(head + H) * count];
        let mut sums = [[lanes.splat(0.0); V]; H];
        for t in 0..count {
            let mut loaded = [lanes.splat(0.0); V];
            for (v, numbers) in loaded.iter_mut().enumerate() {
                let at = t * stride + column + v * 16;
                if head == 0 {
                    lanes.prefetch(values.as_ptr().wrapping_add(at + ahead));
                }
                *numbers = lanes.load(sixteen(values, at));
            }
            for (h, sums) in sums.iter_mut().enumerate() {
                let weight = lanes.splat(weights[h * count + t]);
                for (sum, value) in sums.iter_mut().zip(loaded) {
                    *sum = lanes.mul_add(weight, value, *sum);
                }
            }
        }
        for (h, sums) in sums.into_iter().enumerate() {
            let start = (head + h) * head_dim + column;
            let (sixteens, _) = self.0.sums[start..start + V * 16].as_chunks_mut::<16>();
            for (sixteen, sum) in sixteens.iter_mut().zip(sums) {
                lanes.store(sum, sixteen);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::kernel::cpu::{Plain, with_each_lanes};

    /// Heads, of which four are taken at once, on 19 keys.
    struct Heads<'a> {
        heads: usize,
        head_dim: usize,
        numbers: &'a [f32],
        found: &'a RefCell<Vec<Vec<f32>>>,
    }

    impl WithLanes for Heads<'_> {
        #[inline(always)]
        fn with_lanes<L: Lanes>(self, lanes: L) {
            let (heads, head_dim, count) = (self.heads, self.head_dim, 19);
            let mut scores = vec![0.0; heads * count];
            let (mut sums, mut tops) = (vec![9.0; heads * head_dim], vec![9.0; 2 * heads]);
            Part {
                queries: &self.numbers[..heads * head_dim],
                scale: 0.3,
                head_dim,
                count,
                keys: &self.numbers[7..],
                values: &self.numbers[90..],
                stream: Stream { stride: head_dim + 5, ahead: 0 },
                scores: &mut scores,
                sums: &mut sums,
                tops: &mut tops,
            }
            .with_lanes(lanes);
            self.found.borrow_mut().push([scores, sums, tops].concat());
        }
    }

    /// Numbers for 20 keys and as many values.
    fn numbers(head_dim: usize) -> Vec<f32> {
        (0..20 * (head_dim + 5) + 90).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
    }

    #[test]
    fn every_lanes_give_the_same_bits() {
        for (heads, head_dim) in [(7, 1), (5, 16), (6, 70), (7, 70)] {
            let numbers = numbers(head_dim);
            let found = RefCell::default();
            with_each_lanes(|| Heads { heads, head_dim, numbers: &numbers, found: &found });
            let found = found.into_inner();
            assert!(found.len() > 1 && found.iter().all(|bits| *bits == found[0]), "{heads} heads of {head_dim}");
        }
    }

    #[test]
    fn tiles_of_every_size_give_the_same_bits() {
        let (head_dim, count) = (150, 19);
        let numbers = numbers(head_dim);
        let run = |scores_of: fn(&mut Scores), sums_of: fn(&mut Sums)| {
            let (mut scores, mut sums) = (vec![0.0; 2 * count], vec![9.0; 2 * head_dim]);
            let mut part = Part {
                queries: &numbers[..2 * head_dim],
                scale: 0.3,
                head_dim,
                count,
                keys: &numbers[7..],
                values: &numbers[90..],
                stream: Stream { stride: head_dim + 5, ahead: 0 },
                scores: &mut scores,
                sums: &mut sums,
                tops: &mut [],
            };
            scores_of(&mut Scores(&mut part));
            sums_of(&mut Sums(&mut part));
            [scores, sums].concat()
        };
        let expected = run(|it| it.keys::<Plain, 2, 1, 1>(Plain, 0), |it| it.columns::<Plain, 2, 1>(Plain, 0));
        for found in [
            run(|it| it.keys::<Plain, 2, 8, 2>(Plain, 0), |it| it.columns::<Plain, 2, 2>(Plain, 0)),
            run(|it| it.keys::<Plain, 2, 8, 8>(Plain, 0), |it| it.columns::<Plain, 2, 4>(Plain, 0)),
        ] {
            assert_eq!(found, expected);
        }
    }
}
