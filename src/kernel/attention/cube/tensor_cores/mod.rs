//! Attention on tensor cores (Dao, 2023, arXiv:2307.08691, §3): queries, keys, values, weights and gradients are bfloat16 factors,
//! scores and sums float32.
//!
//! A cube computes the results of [`TILE`] vectors, each plane those of [`SIDE`]. The vectors are rows, and the cube walks along the keys
//! that they see; or keys, for the gradients of keys and values, and it walks along the rows that see them; a tile at a time. Fragments
//! are opaque, so scores pass shared memory: there, two units of a plane have a line of them.

mod backward;
mod forward;

use burn::backend::DType;
use burn_cubecl::cubecl::{self, cmma, prelude::*};
use burn_cubecl::tensor::CubeTensor;
use half::bf16;

use super::chunks::MAX_QUERIES;
use super::plan::Plan;
use super::tile::{Sizes, Vectors};
use crate::kernel::cube::tensor_cores::{self, ALIGNMENT, PADDING_BYTES, PLANE, SIDE, factor};
use crate::kernel::cube::{float_input, input, output, typed_input};

/// Vectors that a cube computes results for.
const TILE: usize = 64;
const NUM_PLANES: usize = TILE / SIDE;
const UNITS: usize = NUM_PLANES * PLANE;
/// Elements of bfloat16 in 16 bytes, the most that a unit reads or writes at once.
const WIDTH: usize = 8;
/// The same of float32.
const WIDTH_OF_SCORES: usize = 4;
/// The widest heads: the sums of wider ones, two times in the gradient of keys and values, take more registers than a unit has.
const MAX_HEAD_DIM: usize = 128;

/// Whether attention runs here: that of bfloat16, for more queries than are cut into chunks. Units read 16 bytes at once, also from
/// shared memory, which CubeCL allows where memory may be read as another type and is aligned as asked: on CUDA, not on Vulkan.
pub fn serve(plan: &Plan, q: &CubeTensor) -> bool {
    let shared_bytes = forward::shared_bytes(plan.head_dim).max(backward::shared_bytes(plan.head_dim));
    let features = &q.client.properties().features;
    q.dtype == DType::BF16
        && plan.num_queries > MAX_QUERIES
        && plan.head_dim.is_multiple_of(SIDE)
        && plan.head_dim <= MAX_HEAD_DIM
        && features.memory_reinterpret
        && features.alignment
        && tensor_cores::are_present(&q.client, NUM_PLANES, shared_bytes)
}

fn units() -> CubeDim {
    CubeDim::new_2d(PLANE as u32, NUM_PLANES as u32)
}

fn bfloat16_input(x: &CubeTensor) -> BufferArg {
    typed_input(x, DType::BF16)
}

/// Writes the result, and the logsumexp of each row.
pub fn attend(plan: &Plan, [q, k, v]: [&CubeTensor; 3], [y, logsumexp]: [&CubeTensor; 2]) {
    forward::forward_on_tensor_cores::launch(
        &q.client,
        plan.cubes((plan.num_queries * plan.group).div_ceil(TILE)),
        units(),
        bfloat16_input(q),
        bfloat16_input(k),
        bfloat16_input(v),
        input(&plan.bounds),
        output(y),
        output(logsumexp),
        plan.sizes(),
    );
}

/// Writes the gradients of queries, keys and values; `rows` has the two numbers of each row.
pub fn gradients(
    plan: &Plan,
    grad: &CubeTensor,
    [q, k, v]: [&CubeTensor; 3],
    rows: &CubeTensor,
    [dq, dk, dv]: &[CubeTensor; 3],
) {
    backward::of_queries_on_tensor_cores::launch(
        &q.client,
        plan.cubes((plan.num_queries * plan.group).div_ceil(TILE)),
        units(),
        bfloat16_input(grad),
        bfloat16_input(q),
        bfloat16_input(k),
        bfloat16_input(v),
        input(&plan.bounds),
        float_input(rows),
        output(dq),
        plan.sizes(),
    );
    backward::of_keys_on_tensor_cores::launch(
        &q.client,
        plan.cubes(plan.capacity.div_ceil(TILE)),
        units(),
        bfloat16_input(grad),
        bfloat16_input(q),
        bfloat16_input(k),
        bfloat16_input(v),
        input(&plan.bounds),
        float_input(rows),
        output(dk),
        output(dv),
        plan.sizes(),
    );
}

/// Elements from one vector to the next in shared memory.
const fn stride_of_vectors(head_dim: usize) -> usize {
    head_dim + PADDING_BYTES / 2
}

/// Elements from one line of scores, those with `count` vectors, to the next.
const fn stride_of_scores(count: usize) -> usize {
    count + PADDING_BYTES / 4
}

/// The same of weights.
const fn stride_of_weights(count: usize) -> usize {
    count + PADDING_BYTES / 2
}

/// Bytes of `count` vectors.
const fn bytes_of_vectors(count: usize, head_dim: usize) -> usize {
    2 * count * stride_of_vectors(head_dim)
}

/// Bytes of scores and weights of a tile with `count` vectors.
const fn bytes_of_scores(count: usize) -> usize {
    TILE * (4 * stride_of_scores(count) + 2 * stride_of_weights(count))
}

/// Room for vectors.
#[cube]
fn vectors(#[comptime] count: usize, sizes: &Sizes) -> Shared<[bf16]> {
    Shared::<[bf16]>::new_aligned_slice(comptime!(count * stride_of_vectors(sizes.head_dim)), ALIGNMENT)
}

/// Room for the scores of a tile with `count` vectors.
#[cube]
fn scores(#[comptime] count: usize) -> Shared<[f32]> {
    Shared::<[f32]>::new_aligned_slice(comptime!(TILE * stride_of_scores(count)), ALIGNMENT)
}

/// Room for the weights of a tile with `count` vectors.
#[cube]
fn weights(#[comptime] count: usize) -> Shared<[bf16]> {
    Shared::<[bf16]>::new_aligned_slice(comptime!(TILE * stride_of_weights(count)), ALIGNMENT)
}

/// The first vector of the plane of this unit in its tile.
#[cube]
fn first_of_plane() -> usize {
    UNIT_POS_Y as usize * SIDE
}

/// The vector of this unit in its tile, which another unit has too, and which of both this unit is.
#[cube]
fn own_vector() -> (usize, usize) {
    let lane = UNIT_POS_X as usize;
    (first_of_plane() + lane / 2, lane % 2)
}

/// The keys that one of `count` rows sees; a unit of each plane looks at every 32nd.
#[cube]
fn seen_by_rows(bounds: &[i32], first_row: usize, #[comptime] count: usize, sizes: &Sizes) -> (usize, usize) {
    let mut first = sizes.capacity as u32;
    let mut end = 0u32;
    #[unroll]
    for i in 0..comptime!(count / PLANE) {
        let (row_first, row_end) = sizes.seen(bounds, first_row + comptime!(i * PLANE) + UNIT_POS_X as usize);
        if row_end > 0 {
            first = min(first, row_first as u32);
            end = max(end, row_end as u32);
        }
    }
    (plane_min(first) as usize, plane_max(end) as usize)
}

/// Copies `count` vectors, from `start`; those that are not in a range are zero.
#[cube]
fn load(
    tile: &mut Shared<[bf16]>,
    x: &[bf16],
    start: usize,
    range: (usize, usize),
    #[comptime] count: usize,
    sizes: &Sizes,
    #[comptime] vectors: Vectors,
) {
    let (first, end) = range;
    let parts = comptime!(sizes.head_dim / WIDTH);
    let x = x.as_vectorized().with_vector_size::<Const<WIDTH>>();
    let tile = tile.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH>>();
    for i in range_stepped(UNIT_POS as usize, comptime!(count * parts), UNITS) {
        let (vector, part) = (start + i / parts, i % parts);
        let mut value = Vector::<bf16, Const<WIDTH>>::new(bf16::from_int(0));
        if vector >= first && vector < end {
            let place = if comptime!(vectors == Vectors::Rows) { sizes.place(vector) } else { sizes.key(vector) };
            value = x[place * parts + part];
        }
        tile[i / parts * comptime!(stride_of_vectors(sizes.head_dim) / WIDTH) + part] = value;
    }
}

/// The products of the vectors of the plane of this unit and `count` others.
#[cube]
fn multiply(
    products: &mut Shared<[f32]>,
    tile: &Shared<[bf16]>,
    others: &Shared<[bf16]>,
    #[comptime] count: usize,
    sizes: &Sizes,
) {
    let stride = comptime!(stride_of_vectors(sizes.head_dim));
    let first = first_of_plane();
    let mut sums = tensor_cores::zeros(comptime!(count / SIDE));
    #[unroll]
    for step in 0..comptime!(sizes.head_dim / SIDE) {
        let column = comptime!(step * SIDE);
        let (ident, layout) = comptime!((cmma::MatrixIdent::A, cmma::MatrixLayout::RowMajor));
        let a = factor(tile, first * stride + column, comptime!(TILE * stride), stride, ident, layout);
        #[unroll]
        for j in 0..comptime!(count / SIDE) {
            let start = comptime!(j * SIDE * stride + column);
            let (ident, layout) = comptime!((cmma::MatrixIdent::B, cmma::MatrixLayout::ColMajor));
            let b = factor(others, start, comptime!(count * stride), stride, ident, layout);
            cmma::execute(&a, &b, sums.index(j), sums.index(j));
        }
    }
    write(products, &mut sums, 0usize, comptime!(count / SIDE), count);
}

/// Writes fragments `first..first + num_fragments` to the lines of scores of the plane of this unit.
#[cube]
fn write(
    lines: &mut Shared<[f32]>,
    sums: &mut Sequence<cmma::Matrix<f32>>,
    #[comptime] first: usize,
    #[comptime] num_fragments: usize,
    #[comptime] count: usize,
) {
    let stride = comptime!(stride_of_scores(count));
    let own = first_of_plane() * stride;
    #[unroll]
    for j in 0..num_fragments {
        let region = &mut lines[own + comptime!(j * SIDE)..comptime!(TILE * stride)];
        let sum = sums.index(comptime!(first + j));
        cmma::store(region, sum, comptime!(stride as u32), cmma::MatrixLayout::RowMajor);
    }
}

/// Adds `Σ_i weights[vector, i] · others[i]` to the sums of the plane of this unit.
#[cube]
fn accumulate(
    sums: &Sequence<cmma::Matrix<f32>>,
    weights: &Shared<[bf16]>,
    others: &Shared<[bf16]>,
    #[comptime] count: usize,
    sizes: &Sizes,
) {
    let (stride, stride_of_weights) = comptime!((stride_of_vectors(sizes.head_dim), stride_of_weights(count)));
    let first = first_of_plane();
    #[unroll]
    for step in 0..comptime!(count / SIDE) {
        let start = first * stride_of_weights + comptime!(step * SIDE);
        let layout = comptime!(cmma::MatrixLayout::RowMajor);
        let len = comptime!(TILE * stride_of_weights);
        let a = factor(weights, start, len, stride_of_weights, cmma::MatrixIdent::A, layout);
        #[unroll]
        for j in 0..comptime!(sizes.head_dim / SIDE) {
            let start = comptime!(step * SIDE * stride + j * SIDE);
            let b = factor(others, start, comptime!(count * stride), stride, cmma::MatrixIdent::B, layout);
            cmma::execute(&a, &b, sums.index(j), sums.index(j));
        }
    }
}

/// Writes the sums of the plane of this unit, each vector's times the factor of its units. `place` is that of the vector of this
/// unit. Sums pass the lines of scores with `count` vectors, which have to be read by now.
#[cube]
fn store(
    y: &mut [bf16],
    sums: &mut Sequence<cmma::Matrix<f32>>,
    lines: &mut Shared<[f32]>,
    place: usize,
    is_written: bool,
    factor: f32,
    #[comptime] count: usize,
    sizes: &Sizes,
) {
    let (vector, half) = own_vector();
    let y = y.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH>>();
    #[unroll]
    for part in 0..comptime!(sizes.head_dim.div_ceil(count)) {
        let first_column = comptime!(part * count);
        let columns = comptime!(Ord::min(count, sizes.head_dim - first_column));
        write(lines, sums, comptime!(first_column / SIDE), comptime!(columns / SIDE), count);
        sync_plane();
        if is_written {
            #[unroll]
            for i in 0..comptime!(columns / (2 * WIDTH)) {
                let column = half * comptime!(columns / 2) + comptime!(i * WIDTH);
                let mut value = Vector::<bf16, Const<WIDTH>>::new(bf16::from_int(0));
                #[unroll]
                for element in 0..WIDTH {
                    let at = vector * comptime!(stride_of_scores(count)) + column + element;
                    value.insert(element, bf16::cast_from(lines[at] * factor));
                }
                y[place * comptime!(sizes.head_dim / WIDTH) + (first_column + column) / WIDTH] = value;
            }
        }
        sync_plane();
    }
}
