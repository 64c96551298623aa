//! Attention in CubeCL, in tiles of rows and keys (Dao et al., 2022, arXiv:2205.14135, §3.1): nothing of size queries × keys
//! is in memory, and the backward pass has the logsumexp of each row.
//!
//! The rows of a key/value head are its query heads, for each query in turn: `row = query · group + head in the group`. A tile
//! of rows therefore reads a key once for the whole group, and one cube sums the gradient of a key over the group. The keys
//! that a query sees are two int32 in `bounds`, made on the device.

mod backward;
mod cached;
mod chunks;
mod forward;
mod tile;

use burn::backend::{Cube, DType, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use self::tile::SizesLaunch;
use super::{Attention, AttentionBackward, Band, Inputs, Kept, Mask};
use crate::kernel::cube::{empty, empty_like, float_input, input, output, unit_for_each};

/// The keys `end - window..end` of each query, `end = past + query + 1`.
#[cube(launch)]
fn band_bounds(bounds: &mut [i32], num_queries: usize, past: usize, window: usize) {
    let query = ABSOLUTE_POS;
    if query >= num_queries {
        terminate!();
    }
    let end = past + query + 1;
    bounds[query * 2] = i32::cast_from(end - min(window, end));
    bounds[query * 2 + 1] = i32::cast_from(end);
}

/// How the kernels are launched.
struct Plan {
    batch_size: usize,
    num_queries: usize,
    capacity: usize,
    num_kv_heads: usize,
    /// Query heads of a key/value head.
    group: usize,
    head_dim: usize,
    /// Rows and keys of a tile.
    tile: usize,
    /// The first key that a query sees, and one past the last.
    bounds: CubeTensor,
    /// Elements of `bounds` from one sequence to the next; 0 if all have the same.
    bounds_stride: usize,
    /// One past the last key that a query sees, of all sequences.
    num_keys: usize,
    /// Keys that the queries of a sequence see, at most.
    num_visible: usize,
}

impl Plan {
    fn new(q: &CubeTensor, k: &CubeTensor, mask: Mask<Cube>) -> Self {
        let [batch_size, num_queries, num_heads, head_dim] = q.shape().dims();
        let [_, capacity, num_kv_heads, _] = k.shape().dims();
        let (bounds, bounds_stride, num_keys, num_visible) = match mask {
            Mask::Band(band) => {
                let bounds = empty([num_queries, 2], DType::I32, q);
                let (cubes, units) = unit_for_each(num_queries, q);
                let Band { past, window } = band;
                let window = window.unwrap_or(capacity);
                band_bounds::launch(&q.client, cubes, units, output(&bounds), num_queries, past, window);
                (bounds, 0, past + num_queries, band.num_visible(num_queries))
            }
            Mask::Ragged { bounds, num_keys, max_visible } => {
                (burn_cubecl::kernel::cast(bounds, DType::I32), 2 * num_queries, num_keys, max_visible)
            }
        };
        // Of the kernels, the gradient of keys has the most in shared memory: two tiles and two of scores.
        let hardware = &q.client.properties().hardware;
        let fits = |tile: usize| {
            let floats = 2 * tile * (head_dim + 1) + 2 * tile * tile;
            4 * floats <= hardware.max_shared_memory_size && tile * tile <= hardware.max_units_per_cube as usize
        };
        let tile = [16, 8, 4].into_iter().find(|&tile| fits(tile)).unwrap_or(2);
        let group = num_heads / num_kv_heads;
        Self {
            batch_size,
            num_queries,
            capacity,
            num_kv_heads,
            group,
            head_dim,
            tile,
            bounds,
            bounds_stride,
            num_keys,
            num_visible,
        }
    }

    fn sizes(&self) -> SizesLaunch {
        SizesLaunch::new(
            self.num_queries,
            self.capacity,
            self.num_kv_heads,
            self.bounds_stride,
            self.tile * self.tile,
            (self.head_dim as f32).sqrt().recip(),
            self.group,
            self.head_dim,
            self.tile,
            self.head_dim.div_ceil(self.tile),
        )
    }

    /// `count` cubes for each key/value head of each sequence.
    fn cubes(&self, count: usize) -> CubeCount {
        CubeCount::Static(count as u32, self.num_kv_heads as u32, self.batch_size as u32)
    }

    fn tiles_of_rows(&self) -> usize {
        (self.num_queries * self.group).div_ceil(self.tile)
    }

    fn units(&self) -> CubeDim {
        CubeDim::new_2d(self.tile as u32, self.tile as u32)
    }

    /// Heads of queries.
    fn num_rows(&self) -> usize {
        self.batch_size * self.num_queries * self.num_kv_heads * self.group
    }
}

/// The result, and the logsumexp of each row.
fn attend(plan: &Plan, [q, k, v]: [&CubeTensor; 3]) -> (CubeTensor, CubeTensor) {
    let (y, logsumexp) = (empty_like(q), empty([plan.num_rows()], DType::F32, q));
    let num_chunks = plan.num_chunks();
    if num_chunks > 1 {
        chunks::attend(plan, num_chunks, [q, k, v], [&y, &logsumexp]);
        return (y, logsumexp);
    }
    forward::forward::launch(
        &q.client,
        plan.cubes(plan.tiles_of_rows()),
        plan.units(),
        float_input(q),
        float_input(k),
        float_input(v),
        input(&plan.bounds),
        output(&y),
        output(&logsumexp),
        plan.sizes(),
    );
    (y, logsumexp)
}

impl Attention for Cube {
    fn attention_forward(q: CubeTensor, k: CubeTensor, v: CubeTensor, mask: Mask<Self>) -> CubeTensor {
        let (y, _) = attend(&Plan::new(&q, &k, mask), [&q, &k, &v]);
        y
    }
}

impl AttentionBackward for Cube {
    fn attention_kept(inputs: Inputs<Self>) -> (CubeTensor, Option<Kept<Self>>) {
        let Inputs { q, k, v, mask } = inputs;
        let (y, logsumexp) = attend(&Plan::new(&q, &k, mask), [&q, &k, &v]);
        (y.clone(), Some(Kept { y, logsumexp }))
    }

    fn attention_backward(grad: CubeTensor, inputs: Inputs<Self>, kept: Option<Kept<Self>>) -> [CubeTensor; 3] {
        let Inputs { q, k, v, mask } = inputs;
        let Kept { y, logsumexp } = kept.expect("the forward pass keeps them");
        let plan = Plan::new(&q, &k, mask);
        let (gradients, rows) = ([&q, &k, &v].map(empty_like), empty([plan.num_rows(), 2], DType::F32, &q));
        let [dq, dk, dv] = &gradients;
        let (cubes, units) = unit_for_each(plan.num_rows(), &q);
        backward::of_rows::launch(
            &q.client,
            cubes,
            units,
            float_input(&grad),
            float_input(&y),
            float_input(&logsumexp),
            output(&rows),
            plan.num_rows(),
            plan.head_dim,
        );
        backward::of_queries::launch(
            &q.client,
            plan.cubes(plan.tiles_of_rows()),
            plan.units(),
            float_input(&grad),
            float_input(&q),
            float_input(&k),
            float_input(&v),
            input(&plan.bounds),
            float_input(&rows),
            output(dq),
            plan.sizes(),
        );
        backward::of_keys::launch(
            &q.client,
            plan.cubes(plan.capacity.div_ceil(plan.tile)),
            plan.units(),
            float_input(&grad),
            float_input(&q),
            float_input(&k),
            float_input(&v),
            input(&plan.bounds),
            float_input(&rows),
            output(dk),
            output(dv),
            plan.sizes(),
        );
        gradients
    }
}
