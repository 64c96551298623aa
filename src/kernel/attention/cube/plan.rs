//! How the kernels of attention are launched.

use burn::backend::{Cube, DType, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::super::{Band, Mask};
use super::tile::SizesLaunch;
use crate::kernel::cube::{empty, output, unit_for_each};

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
pub struct Plan {
    pub batch_size: usize,
    pub num_queries: usize,
    pub capacity: usize,
    pub num_kv_heads: usize,
    /// Query heads of a key/value head.
    pub group: usize,
    pub head_dim: usize,
    /// Rows and keys of a tile.
    pub tile: usize,
    /// The first key that a query sees, and one past the last.
    pub bounds: CubeTensor,
    /// Elements of `bounds` from one sequence to the next; 0 if all have the same.
    pub bounds_stride: usize,
    /// One past the last key that a query sees, of all sequences.
    pub num_keys: usize,
    /// Keys that the queries of a sequence see, at most.
    pub num_visible: usize,
}

impl Plan {
    pub fn new(q: &CubeTensor, k: &CubeTensor, mask: Mask<Cube>) -> Self {
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

    pub fn sizes(&self) -> SizesLaunch {
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
    pub fn cubes(&self, count: usize) -> CubeCount {
        CubeCount::Static(count as u32, self.num_kv_heads as u32, self.batch_size as u32)
    }

    pub fn tiles_of_rows(&self) -> usize {
        (self.num_queries * self.group).div_ceil(self.tile)
    }

    pub fn units(&self) -> CubeDim {
        CubeDim::new_2d(self.tile as u32, self.tile as u32)
    }

    /// Heads of queries.
    pub fn num_rows(&self) -> usize {
        self.batch_size * self.num_queries * self.num_kv_heads * self.group
    }
}
