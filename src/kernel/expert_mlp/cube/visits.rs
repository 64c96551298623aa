//! The visits of tokens to experts, sorted by expert on the device.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use crate::kernel::cube::{UNITS, empty, input, output};

/// Rows of an expert, on average, from which products take their largest tiles. Below, as in decoding, most of such a tile
/// would be padding. A guess: no GPU has been measured.
const ENOUGH_ROWS: usize = 16;

/// Visit `token · k + j` is the `j`-th choice of `token`; a place is a position in the sorted order. All int32.
pub struct Visits {
    /// Experts per token.
    pub k: usize,
    pub num_experts: usize,
    pub num_visits: usize,
    /// The visit at each place.
    pub order: CubeTensor,
    /// The place of each visit.
    pub places: CubeTensor,
    /// Places of expert `e`: `starts[e]..starts[e + 1]`.
    pub starts: CubeTensor,
}

impl Visits {
    /// Sorts stably by expert.
    pub fn sort(chosen: CubeTensor, num_experts: usize) -> Self {
        let [num_tokens, k] = chosen.shape().dims();
        let num_visits = num_tokens * k;
        let chosen = burn_cubecl::kernel::cast(chosen, DType::I32);
        let ints = |len: usize| empty([len], DType::I32, &chosen);
        let visits = Self {
            k,
            num_experts,
            num_visits,
            order: ints(num_visits),
            places: ints(num_visits),
            starts: ints(num_experts + 1),
        };
        sort::launch(
            &chosen.client,
            CubeCount::Static(num_experts as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            input(&chosen),
            output(&visits.order),
            output(&visits.places),
            output(&visits.starts),
            num_visits,
            num_experts,
        );
        visits
    }

    /// Whether experts have enough rows for large tiles.
    pub fn are_many(&self) -> bool {
        self.num_visits >= ENOUGH_ROWS * self.num_experts
    }

    /// A cube for each tile of that many rows and columns of a product. An expert has at most one tile that is not full, no tile
    /// of an expert is without a row, and those behind the last expert are empty.
    pub fn tiles(&self, columns: usize, [rows_of_tile, columns_of_tile]: [usize; 2]) -> CubeCount {
        let along_rows = self.num_visits.min(self.num_visits / rows_of_tile + self.num_experts);
        CubeCount::Static(columns.div_ceil(columns_of_tile) as u32, along_rows as u32, 1)
    }
}

/// A stable counting sort, one cube per expert: it counts the visits to those before, which is its first place, then
/// gives places to its own, [`UNITS`] visits at a time in their order.
#[cube(launch)]
fn sort(
    chosen: &[i32],
    order: &mut [i32],
    places: &mut [i32],
    starts: &mut [i32],
    num_visits: usize,
    num_experts: usize,
) {
    let unit = UNIT_POS as usize;
    let expert = i32::cast_from(CUBE_POS);
    let mut counts = Shared::<[u32]>::new_slice(UNITS as usize);
    let mut before = 0u32;
    for visit in range_stepped(unit, num_visits, UNITS as usize) {
        if chosen[visit] < expert {
            before += 1u32;
        }
    }
    counts[unit] = before;
    sync_cube();
    let mut next = 0u32;
    for other in 0..UNITS as usize {
        next += counts[other];
    }
    sync_cube();
    if UNIT_POS == 0 {
        starts[CUBE_POS] = i32::cast_from(next);
        if CUBE_POS == 0 {
            starts[num_experts] = i32::cast_from(num_visits);
        }
    }
    for first in range_stepped(0usize, num_visits, UNITS as usize) {
        let visit = first + unit;
        let mut is_own = 0u32;
        if visit < num_visits {
            if chosen[visit] == expert {
                is_own = 1u32;
            }
        }
        counts[unit] = is_own;
        sync_cube();
        let mut rank = 0u32;
        let mut total = 0u32;
        for other in 0..UNITS as usize {
            if other < unit {
                rank += counts[other];
            }
            total += counts[other];
        }
        if is_own == 1u32 {
            let place = next + rank;
            order[place as usize] = i32::cast_from(visit);
            places[visit] = i32::cast_from(place);
        }
        next += total;
        sync_cube();
    }
}
