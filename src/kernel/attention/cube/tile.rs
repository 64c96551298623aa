//! The part of a cube: a tile of rows or keys of one key/value head of one sequence.

use burn_cubecl::cubecl::{self, prelude::*};

/// What every kernel of attention knows. A cube has `tile × tile` units, [`CUBE_POS_Y`] is its key/value head, and
/// [`CUBE_POS_Z`] its sequence.
#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
pub struct Sizes {
    pub num_queries: usize,
    pub capacity: usize,
    pub num_kv_heads: usize,
    /// Elements of the bounds from one sequence to the next; 0 if all have the same.
    pub bounds_stride: usize,
    /// `tile²`. A runtime value, so that loops with this step are not unrolled; unrolling spills registers on sm_90.
    pub num_units: usize,
    /// `1/√head_dim`.
    pub scale: f32,
    /// Query heads of a key/value head.
    #[cube(comptime)]
    pub group: usize,
    #[cube(comptime)]
    pub head_dim: usize,
    /// Rows and keys of a tile.
    #[cube(comptime)]
    pub tile: usize,
    /// Columns of a result that a unit has, `tile` apart; those behind `head_dim` do not exist.
    #[cube(comptime)]
    pub columns: usize,
}

#[cube]
impl Sizes {
    pub fn num_rows(&self) -> usize {
        self.num_queries * self.group
    }

    /// Which head of which query a row is.
    pub fn place(&self, row: usize) -> usize {
        let query = CUBE_POS_Z as usize * self.num_queries + row / self.group;
        (query * self.num_kv_heads + CUBE_POS_Y as usize) * self.group + row % self.group
    }

    /// Which key of the tensor a key is.
    pub fn key(&self, key: usize) -> usize {
        (CUBE_POS_Z as usize * self.capacity + key) * self.num_kv_heads + CUBE_POS_Y as usize
    }

    /// The keys that a row sees: none behind the last row.
    pub fn seen(&self, bounds: &[i32], row: usize) -> (usize, usize) {
        let mut first = 0usize;
        let mut end = 0usize;
        if row < self.num_rows() {
            let at = CUBE_POS_Z as usize * self.bounds_stride + row / self.group * 2;
            first = usize::cast_from(bounds[at]);
            end = usize::cast_from(bounds[at + 1]);
        }
        (first, end)
    }

    /// The keys that some row of a tile sees.
    pub fn seen_by_tile(&self, bounds: &[i32], first_row: usize) -> (usize, usize) {
        let mut first = self.capacity;
        let mut end = 0usize;
        for row in first_row..first_row + self.tile {
            let (row_first, row_end) = self.seen(bounds, row);
            if row_end > 0 {
                first = min(first, row_first);
                end = max(end, row_end);
            }
        }
        (first, end)
    }
}

/// Room for vectors of a tile. They are one element apart, so that no two begin in the same bank.
#[cube]
pub fn vectors(sizes: &Sizes) -> Shared<[f32]> {
    Shared::<[f32]>::new_slice(comptime!(sizes.tile * (sizes.head_dim + 1)))
}

/// Room for a number for each row and key of a tile.
#[cube]
pub fn scores(sizes: &Sizes) -> Shared<[f32]> {
    Shared::<[f32]>::new_slice(comptime!(sizes.tile * sizes.tile))
}

/// The kind of vectors in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vectors {
    /// Heads of queries.
    Rows,
    /// Keys or values.
    Keys,
}

/// Copies vectors to a tile, from `start`; those from `end` on are zero.
#[cube]
pub fn load<F: Float>(
    tile: &mut Shared<[f32]>,
    x: &[F],
    start: usize,
    end: usize,
    sizes: &Sizes,
    #[comptime] vectors: Vectors,
) {
    let head_dim = comptime!(sizes.head_dim);
    for i in range_stepped(UNIT_POS as usize, sizes.tile * head_dim, sizes.num_units) {
        let (vector, column) = (start + i / head_dim, i % head_dim);
        let mut value = 0.0f32;
        if vector < end {
            let place = if comptime!(vectors == Vectors::Rows) { sizes.place(vector) } else { sizes.key(vector) };
            value = f32::cast_from(x[place * head_dim + column]);
        }
        tile[i / head_dim * (head_dim + 1) + column] = value;
    }
}

/// The product of a vector in memory and one of a tile.
#[cube]
pub fn dot<F: Float>(x: &[F], vector: usize, tile: &Shared<[f32]>, row: usize, sizes: &Sizes) -> f32 {
    let head_dim = comptime!(sizes.head_dim);
    let mut sum = 0.0f32;
    for column in 0..head_dim {
        sum += f32::cast_from(x[vector * head_dim + column]) * tile[row * (head_dim + 1) + column];
    }
    sum
}

/// The product of a vector of one tile and one of another.
#[cube]
pub fn dot_of_tiles(a: &Shared<[f32]>, row_a: usize, b: &Shared<[f32]>, row_b: usize, sizes: &Sizes) -> f32 {
    let head_dim = comptime!(sizes.head_dim);
    let mut sum = 0.0f32;
    for column in 0..head_dim {
        sum += a[row_a * (head_dim + 1) + column] * b[row_b * (head_dim + 1) + column];
    }
    sum
}

/// A zero for each column of this unit.
#[cube]
pub fn zeros(sizes: &Sizes) -> Array<f32> {
    let mut sums = Array::<f32>::new(sizes.columns);
    #[unroll]
    for part in 0..sizes.columns {
        sums[part] = 0.0f32;
    }
    sums
}

/// Adds `Σ_i weights[row, i] · tile[i]` to the columns of this unit.
#[cube]
pub fn accumulate(sums: &mut Array<f32>, weights: &Shared<[f32]>, row: usize, tile: &Shared<[f32]>, sizes: &Sizes) {
    let head_dim = comptime!(sizes.head_dim);
    for i in 0..sizes.tile {
        let weight = weights[row * sizes.tile + i];
        #[unroll]
        for part in 0..sizes.columns {
            let column = part * sizes.tile + UNIT_POS_X as usize;
            if column < head_dim {
                sums[part] += weight * tile[i * (head_dim + 1) + column];
            }
        }
    }
}

/// Writes the columns of this unit, times `factor`.
#[cube]
pub fn store<F: Float>(y: &mut [F], vector: usize, sums: &Array<f32>, factor: f32, sizes: &Sizes) {
    #[unroll]
    for part in 0..sizes.columns {
        let column = part * sizes.tile + UNIT_POS_X as usize;
        if column < sizes.head_dim {
            y[vector * sizes.head_dim + column] = F::cast_from(sums[part] * factor);
        }
    }
}
