//! The gradients of attention, on tensor cores. The tile that a cube loops over has half the length of that in the forward pass: scores
//! and their gradients both take shared memory, and two cubes should fit on a multiprocessor.

use burn_cubecl::cubecl::{self, prelude::*};
use half::bf16;

use super::super::backward::GradientInputs;
use super::super::tile::{Sizes, Vectors};
use super::tile::{
    TILE, WIDTH_OF_SCORES, accumulate, bytes_of_scores, bytes_of_vectors, load, multiply, own_vector, scores,
    seen_by_rows, store, stride_of_scores, stride_of_weights, vectors, weights,
};
use crate::kernel::cube::tensor_cores::{SIDE, zeros};

/// Keys of a tile in `of_queries_on_tensor_cores`, rows of one in `of_keys_on_tensor_cores`.
const OTHERS: usize = 32;

/// Bytes of shared memory of `of_keys_on_tensor_cores`, which needs more than `of_queries_on_tensor_cores`.
pub const fn shared_bytes(head_dim: usize) -> usize {
    bytes_of_vectors(2 * TILE + 2 * OTHERS, head_dim) + 2 * bytes_of_scores(OTHERS) + 4 * 4 * OTHERS
}

/// Writes `dq`. A cube has the same rows as in the forward pass, and loops over the same keys.
#[cube(launch)]
pub fn of_queries_on_tensor_cores(inputs: GradientInputs<bf16>, dq: &mut [bf16], sizes: Sizes) {
    let first_row = CUBE_POS_X as usize * TILE;
    let (tile_first, tile_end) = seen_by_rows(&inputs.bounds, first_row, TILE, &sizes);
    let (own, half) = own_vector();
    let row = first_row + own;
    let (first, end) = sizes.seen(&inputs.bounds, row);
    let mut queries = vectors(TILE, &sizes);
    let mut grads = vectors(TILE, &sizes);
    let mut keys = vectors(OTHERS, &sizes);
    let mut values = vectors(OTHERS, &sizes);
    let mut scores_of_tile = scores(OTHERS);
    let mut dweights = scores(OTHERS);
    let mut dscores = weights(OTHERS);
    let mut sums = zeros(comptime!(sizes.head_dim / SIDE));
    let of_rows = (first_row, sizes.num_rows());
    load(&mut queries, &inputs.q, first_row, of_rows, TILE, &sizes, Vectors::Rows);
    load(&mut grads, &inputs.grad, first_row, of_rows, TILE, &sizes, Vectors::Rows);
    let is_row = row < sizes.num_rows();
    let place = sizes.place(row);
    let mut logsumexp = 0.0f32;
    let mut along = 0.0f32;
    if is_row {
        logsumexp = inputs.rows[2 * place];
        along = inputs.rows[2 * place + 1];
    }
    for start in range_stepped(tile_first / OTHERS * OTHERS, tile_end, OTHERS) {
        load(&mut keys, &inputs.k, start, (tile_first, tile_end), OTHERS, &sizes, Vectors::Keys);
        load(&mut values, &inputs.v, start, (tile_first, tile_end), OTHERS, &sizes, Vectors::Keys);
        sync_cube();
        multiply(&mut scores_of_tile, &queries, &keys, OTHERS, &sizes);
        multiply(&mut dweights, &grads, &values, OTHERS, &sizes);
        sync_plane();
        let from = scores_of_tile.as_vectorized().with_vector_size::<Const<WIDTH_OF_SCORES>>();
        let from_dweights = dweights.as_vectorized().with_vector_size::<Const<WIDTH_OF_SCORES>>();
        let to = dscores.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH_OF_SCORES>>();
        #[unroll]
        for i in 0..comptime!(OTHERS / (2 * WIDTH_OF_SCORES)) {
            let part = 2 * i + half;
            let at = own * comptime!(stride_of_scores(OTHERS) / WIDTH_OF_SCORES) + part;
            let (of_scores, of_dweights) = (from[at], from_dweights[at]);
            let mut rounded = Vector::<bf16, Const<WIDTH_OF_SCORES>>::new(bf16::from_int(0));
            #[unroll]
            for element in 0..WIDTH_OF_SCORES {
                let key = start + part * WIDTH_OF_SCORES + element;
                if key >= first && key < end {
                    let weight = (of_scores.extract(element) * sizes.scale - logsumexp).exp();
                    rounded.insert(element, bf16::cast_from(weight * (of_dweights.extract(element) - along)));
                }
            }
            to[own * comptime!(stride_of_weights(OTHERS) / WIDTH_OF_SCORES) + part] = rounded;
        }
        sync_plane();
        accumulate(&sums, &dscores, &keys, OTHERS, &sizes);
        sync_cube();
    }
    store(dq, &mut sums, &mut scores_of_tile, place, is_row, sizes.scale, OTHERS, &sizes);
}

/// Writes `dk` and `dv`. A cube has a tile of keys, and loops over the rows that see at least one of them.
#[cube(launch)]
pub fn of_keys_on_tensor_cores(inputs: GradientInputs<bf16>, dk: &mut [bf16], dv: &mut [bf16], sizes: Sizes) {
    let first_key = CUBE_POS_X as usize * TILE;
    let (own, half) = own_vector();
    let key = first_key + own;
    let mut keys = vectors(TILE, &sizes);
    let mut values = vectors(TILE, &sizes);
    let mut queries = vectors(OTHERS, &sizes);
    let mut grads = vectors(OTHERS, &sizes);
    let mut scores_of_tile = scores(OTHERS);
    let mut dweights = scores(OTHERS);
    let mut weights_of_tile = weights(OTHERS);
    let mut dscores = weights(OTHERS);
    // Two numbers per row: in `seen` the bounds of its keys, in `numbers` its logsumexp and `dy·y`.
    let mut seen = Shared::<[u32]>::new_slice(comptime!(2 * OTHERS));
    let mut numbers = Shared::<[f32]>::new_slice(comptime!(2 * OTHERS));
    let mut key_sums = zeros(comptime!(sizes.head_dim / SIDE));
    let mut value_sums = zeros(comptime!(sizes.head_dim / SIDE));
    let of_keys = (first_key, sizes.capacity);
    load(&mut keys, &inputs.k, first_key, of_keys, TILE, &sizes, Vectors::Keys);
    load(&mut values, &inputs.v, first_key, of_keys, TILE, &sizes, Vectors::Keys);
    for first_row in range_stepped(0usize, sizes.num_rows(), OTHERS) {
        let (tile_first, tile_end) = seen_by_rows(&inputs.bounds, first_row, OTHERS, &sizes);
        if tile_first < first_key + TILE && tile_end > first_key {
            let of_rows = (first_row, sizes.num_rows());
            load(&mut queries, &inputs.q, first_row, of_rows, OTHERS, &sizes, Vectors::Rows);
            load(&mut grads, &inputs.grad, first_row, of_rows, OTHERS, &sizes, Vectors::Rows);
            let unit = UNIT_POS as usize;
            if unit < OTHERS {
                let (first, end) = sizes.seen(&inputs.bounds, first_row + unit);
                seen[2 * unit] = first as u32;
                seen[2 * unit + 1] = end as u32;
                if first_row + unit < sizes.num_rows() {
                    let place = sizes.place(first_row + unit);
                    numbers[2 * unit] = inputs.rows[2 * place];
                    numbers[2 * unit + 1] = inputs.rows[2 * place + 1];
                }
            }
            sync_cube();
            multiply(&mut scores_of_tile, &keys, &queries, OTHERS, &sizes);
            multiply(&mut dweights, &values, &grads, OTHERS, &sizes);
            sync_plane();
            let from = scores_of_tile.as_vectorized().with_vector_size::<Const<WIDTH_OF_SCORES>>();
            let from_dweights = dweights.as_vectorized().with_vector_size::<Const<WIDTH_OF_SCORES>>();
            let to_weights = weights_of_tile.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH_OF_SCORES>>();
            let to_dscores = dscores.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH_OF_SCORES>>();
            #[unroll]
            for i in 0..comptime!(OTHERS / (2 * WIDTH_OF_SCORES)) {
                let part = 2 * i + half;
                let at = own * comptime!(stride_of_scores(OTHERS) / WIDTH_OF_SCORES) + part;
                let (of_scores, of_dweights) = (from[at], from_dweights[at]);
                let mut rounded_weights = Vector::<bf16, Const<WIDTH_OF_SCORES>>::new(bf16::from_int(0));
                let mut rounded_dscores = Vector::<bf16, Const<WIDTH_OF_SCORES>>::new(bf16::from_int(0));
                #[unroll]
                for element in 0..WIDTH_OF_SCORES {
                    let row = part * WIDTH_OF_SCORES + element;
                    if key >= seen[2 * row] as usize && key < seen[2 * row + 1] as usize {
                        let weight = (of_scores.extract(element) * sizes.scale - numbers[2 * row]).exp();
                        let dscore = weight * (of_dweights.extract(element) - numbers[2 * row + 1]);
                        rounded_weights.insert(element, bf16::cast_from(weight));
                        rounded_dscores.insert(element, bf16::cast_from(dscore));
                    }
                }
                let at = own * comptime!(stride_of_weights(OTHERS) / WIDTH_OF_SCORES) + part;
                to_weights[at] = rounded_weights;
                to_dscores[at] = rounded_dscores;
            }
            sync_plane();
            accumulate(&value_sums, &weights_of_tile, &grads, OTHERS, &sizes);
            accumulate(&key_sums, &dscores, &queries, OTHERS, &sizes);
            sync_cube();
        }
    }
    let (is_key, place) = (key < sizes.capacity, sizes.key(key));
    store(dk, &mut key_sums, &mut scores_of_tile, place, is_key, sizes.scale, OTHERS, &sizes);
    store(dv, &mut value_sums, &mut scores_of_tile, place, is_key, 1.0f32, OTHERS, &sizes);
}
