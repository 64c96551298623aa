//! Embedding lookup on devices of CubeCL: rows by Burn's selection, and the gradient from tokens that are sorted by id.

use burn::backend::{Cube, DType, TensorMetadata};
use burn::tensor::Tensor;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{Embedding, EmbeddingBackward, embedding_reference};
use crate::kernel::cube::{UNITS, empty, float_input, input, output, primitive, public, unit_for_each};

impl Embedding for Cube {
    fn embedding_rows(table: CubeTensor, tokens: CubeTensor) -> CubeTensor {
        primitive(embedding_reference(public(table), Tensor::from_primitive::<Self>(tokens)))
    }
}

impl EmbeddingBackward for Cube {
    /// For `N` tokens and rows of `width`: `N²` comparisons of ids, which are read `N² / 128` times; `N · width` additions; and
    /// one write of the whole gradient. A row is summed in the order of its tokens.
    fn lookup_backward(grad: CubeTensor, tokens: CubeTensor, vocab_size: usize) -> CubeTensor {
        let num_tokens = tokens.shape().num_elements();
        let width = *grad.shape().last().expect("three axes");
        let tokens = burn_cubecl::kernel::cast(tokens, DType::I32);
        let ints = |len: usize| empty([len], DType::I32, &tokens);
        let (order, sorted, starts) = (ints(num_tokens), ints(num_tokens), ints(vocab_size + 1));
        let client = &tokens.client;

        let (cubes, units) = unit_for_each(num_tokens, &tokens);
        sort::launch(client, cubes, units, input(&tokens), output(&order), output(&sorted), num_tokens);

        let (cubes, units) = unit_for_each(vocab_size + 1, &tokens);
        find::launch(client, cubes, units, input(&sorted), output(&starts), num_tokens, vocab_size);

        let y = empty([vocab_size, width], DType::F32, &grad);
        let len = vocab_size * width;
        let (cubes, units) = unit_for_each(len, &y);
        sum::launch(client, cubes, units, float_input(&grad), input(&order), input(&starts), output(&y), len, width);
        y
    }
}

/// Sorts stably by id. A unit has a token, whose place is the number of tokens that come before it: there are too many ids to
/// count each, and few tokens to compare.
#[cube(launch)]
fn sort(tokens: &[i32], order: &mut [i32], sorted: &mut [i32], num_tokens: usize) {
    let (token, unit) = (ABSOLUTE_POS, UNIT_POS as usize);
    let mut others = Shared::<[i32]>::new_slice(UNITS as usize);
    let mut id = 0i32;
    if token < num_tokens {
        id = tokens[token];
    }
    let mut place = 0u32;
    for first in range_stepped(0usize, num_tokens, UNITS as usize) {
        if first + unit < num_tokens {
            others[unit] = tokens[first + unit];
        }
        sync_cube();
        for i in 0..min(UNITS as usize, num_tokens - first) {
            let other = others[i];
            if other < id || (other == id && first + i < token) {
                place += 1u32;
            }
        }
        sync_cube();
    }
    if token < num_tokens {
        order[place as usize] = i32::cast_from(token);
        sorted[place as usize] = id;
    }
}

/// A unit has an id, and searches its first place; that of the id behind the last is the number of tokens.
#[cube(launch)]
fn find(sorted: &[i32], starts: &mut [i32], num_tokens: usize, vocab_size: usize) {
    let id = ABSOLUTE_POS;
    if id > vocab_size {
        terminate!();
    }
    let mut first = 0usize;
    let mut end = num_tokens;
    while first < end {
        let middle = (first + end) / 2;
        if sorted[middle] < i32::cast_from(id) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    starts[id] = i32::cast_from(first);
}

/// A unit has an element of the gradient.
#[cube(launch)]
fn sum(grad: &[f32], order: &[i32], starts: &[i32], y: &mut [f32], len: usize, width: usize) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let (id, column) = (i / width, i % width);
    let mut sum = 0.0f32;
    for place in usize::cast_from(starts[id])..usize::cast_from(starts[id + 1]) {
        sum += grad[usize::cast_from(order[place]) * width + column];
    }
    y[i] = sum;
}
