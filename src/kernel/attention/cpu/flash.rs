//! Attention of many queries, as in prefill and training: FlashAttention (Dao et al., 2022, arXiv:2205.14135, Algorithm 1).
//!
//! The lanes of a panel are thirty-two queries of a head; keys and values are broadcast from memory. So the scores of a
//! panel, key by key, are in the order of the product with the values, and the largest score and the total of a query have
//! lanes of their own. The scores of a block of keys stay in L1. The sums so far are rescaled when a larger score appears
//! (Milakov & Gimelshein, 2018, arXiv:1805.02867, §3). Keys before and after those that a panel sees are
//! skipped, and so are keys that are hidden from all of its queries. Several continuations of a text can share a panel, and with it
//! the keys of the text.

use std::ops::Range;

use super::layout::{Sizes, Visible};
use crate::kernel::cpu::{Lanes, PANEL_WIDTH, PanelRow, SharedMat, WithLanes, exp, pack, panel_product, with_lanes};

/// Queries of a panel.
const QUERIES: usize = PANEL_WIDTH;
/// Keys of a step. Their scores, keys and values stay in L1 or L2.
const KEYS: usize = 96;

/// Where some keys start and end for each query of a panel.
type Bounds = [[usize; QUERIES]; 2];

/// Some queries of one head, and their running sums.
struct Panel {
    head: usize,
    /// Up to [`QUERIES`]; lanes beyond them hold a query of zeros that sees what the last one sees.
    queries: Range<usize>,
    /// See [`Visible::runs_of_keys`].
    seen: [Range<usize>; 2],
    /// For each query, the start and the end of the keys that are hidden between those it sees. `None` if no query has any.
    hidden: Option<Bounds>,
    /// `[head_dim]`, scaled.
    q: Vec<PanelRow>,
    /// `Σ_j e^(s_j − largest)·v_j`, `[head_dim]`.
    sums: Vec<PanelRow>,
    /// `max_j s_j`.
    largest: PanelRow,
    /// `Σ_j e^(s_j − largest)`.
    totals: PanelRow,
}

/// Writes to `out` the results of some queries of one sequence, of all heads that read one key/value head.
///
/// # Safety
/// No other task accesses these queries of these heads of `out`.
#[expect(unsafe_code, reason = "only the caller knows that the places are distinct")]
pub(super) unsafe fn block(
    sizes: Sizes,
    visible: &Visible,
    [batch, kv_head]: [usize; 2],
    queries: Range<usize>,
    [q, k, v]: [&[f32]; 3],
    out: &SharedMat<'_>,
) {
    let heads = kv_head * sizes.group()..(kv_head + 1) * sizes.group();
    let parts = |head| queries.clone().step_by(QUERIES).map(move |first| (head, first));
    let mut panels: Vec<_> = heads
        .flat_map(parts)
        .map(|(head, first)| Panel::new(sizes, visible, q, batch, head, first..(first + QUERIES).min(queries.end)))
        .collect();
    for run in visible.runs_of_keys(batch, &queries) {
        for first in run.clone().step_by(KEYS) {
            for panel in &mut panels {
                for seen in panel.seen.clone() {
                    let keys = first.max(seen.start)..(first + KEYS).min(run.end).min(seen.end);
                    if !keys.is_empty() {
                        with_lanes(Step { panel: &mut *panel, sizes, visible, group: [batch, kv_head], keys, k, v });
                    }
                }
            }
        }
    }
    for panel in panels {
        // SAFETY: the caller's promise.
        unsafe { panel.write(sizes, batch, out) };
    }
}

impl Panel {
    fn new(sizes: Sizes, visible: &Visible, q: &[f32], batch: usize, head: usize, queries: Range<usize>) -> Self {
        let is_hidden = queries.clone().any(|query| !visible.hidden(batch, query).is_empty());
        let mut panel = Self {
            head,
            seen: visible.runs_of_keys(batch, &queries),
            hidden: is_hidden.then(|| bounds(queries.clone(), |query| visible.hidden(batch, query))),
            q: vec![[0.0; QUERIES]; sizes.head_dim],
            sums: vec![[0.0; QUERIES]; sizes.head_dim],
            largest: [f32::MIN; QUERIES],
            totals: [0.0; QUERIES],
            queries,
        };
        let rows = sizes.queries(q, batch, head, panel.queries.clone());
        pack::<f32, QUERIES>(rows, 0..panel.queries.len(), 0..sizes.head_dim, panel.q.as_flattened_mut());
        panel.q.as_flattened_mut().iter_mut().for_each(|number| *number *= sizes.scale());
        panel
    }

    /// Where the keys that each query sees start and end, if some query does not see all of `keys`: at the diagonal, and
    /// where a window or a document begins.
    #[inline(always)]
    fn outer_bounds(&self, visible: &Visible, batch: usize, keys: &Range<usize>) -> Option<Bounds> {
        let [first, last] = [self.queries.start, self.queries.end - 1].map(|query| visible.keys(batch, query));
        (last.start > keys.start || first.end < keys.end)
            .then(|| bounds(self.queries.clone(), |query| visible.keys(batch, query)))
    }

    /// The bounds of the hidden keys, if some of `keys` are.
    #[inline(always)]
    fn inner_bounds(&self, keys: &Range<usize>) -> Option<&Bounds> {
        let meet = |(start, end): (&usize, &usize)| *start < keys.end && keys.start < *end;
        self.hidden.as_ref().filter(|[starts, ends]| starts.iter().zip(ends).any(meet))
    }

    /// # Safety
    /// No other task accesses these queries of this head of `out`.
    #[expect(unsafe_code, reason = "only the caller knows that the places are distinct")]
    unsafe fn write(self, sizes: Sizes, batch: usize, out: &SharedMat<'_>) {
        let head = self.head * sizes.head_dim..(self.head + 1) * sizes.head_dim;
        for (lane, query) in self.queries.clone().enumerate() {
            // SAFETY: the caller's promise.
            let row = unsafe { out.row(batch * sizes.num_queries + query, head.clone()) };
            row.iter_mut().zip(&self.sums).for_each(|(mean, sums)| *mean = sums[lane] / self.totals[lane]);
        }
    }
}

/// One step: keys `keys`, and their values, for the queries of a panel.
struct Step<'a> {
    panel: &'a mut Panel,
    sizes: Sizes,
    visible: &'a Visible,
    /// Sequence and key/value head.
    group: [usize; 2],
    keys: Range<usize>,
    k: &'a [f32],
    v: &'a [f32],
}

impl WithLanes for Step<'_> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        let Self { panel, sizes, visible, group: [batch, kv_head], keys, k, v } = self;
        let [k, v] = [k, v].map(|x| sizes.keys(x, batch, kv_head, keys.clone()));
        let mut scores = [[0.0; QUERIES]; KEYS];
        let scores = &mut scores[..keys.len()];
        panel_product(lanes, k, &panel.q, PANEL_WIDTH, None, scores);
        let (outer, inner) = (panel.outer_bounds(visible, batch, &keys), panel.inner_bounds(&keys));
        hide(scores, keys.clone(), outer.as_ref(), inner, f32::NEG_INFINITY);
        let mut largest = panel.largest;
        for row in scores.iter() {
            largest.iter_mut().zip(row).for_each(|(largest, score)| *largest = largest.max(*score));
        }
        for row in scores.iter_mut() {
            row.iter_mut().zip(&largest).for_each(|(score, largest)| *score = exp(*score - largest));
        }
        // `exp` saturates above zero.
        hide(scores, keys, outer.as_ref(), inner, 0.0);
        let mut totals = [0.0; QUERIES];
        for row in scores.iter() {
            totals.iter_mut().zip(row).for_each(|(total, score)| *total += score);
        }
        let mut kept = [0.0; QUERIES];
        for lane in 0..QUERIES {
            kept[lane] = exp(panel.largest[lane] - largest[lane]);
            panel.totals[lane] = panel.totals[lane].mul_add(kept[lane], totals[lane]);
        }
        panel.largest = largest;
        panel_product(lanes, v.t(), scores, PANEL_WIDTH, Some(&kept), &mut panel.sums);
    }
}

/// The start and the end of a range of each query; lanes beyond the queries have those of the last one.
fn bounds(queries: Range<usize>, range: impl Fn(usize) -> Range<usize>) -> Bounds {
    let last = range(queries.end - 1);
    let (mut starts, mut ends) = ([last.start; QUERIES], [last.end; QUERIES]);
    for (lane, query) in queries.enumerate() {
        let range = range(query);
        (starts[lane], ends[lane]) = (range.start, range.end);
    }
    [starts, ends]
}

/// Writes `value` to the scores of keys that a query does not see: those outside the outer bounds and inside the inner ones.
#[inline(always)]
fn hide(scores: &mut [PanelRow], keys: Range<usize>, outer: Option<&Bounds>, inner: Option<&Bounds>, value: f32) {
    for (bounds, inside) in [(outer, false), (inner, true)] {
        let Some([starts, ends]) = bounds else { continue };
        for (key, row) in keys.clone().zip(scores.iter_mut()) {
            for ((score, start), end) in row.iter_mut().zip(starts).zip(ends) {
                *score = if (key >= *start && key < *end) == inside { value } else { *score };
            }
        }
    }
}
