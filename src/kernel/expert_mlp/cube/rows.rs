//! Steps between the products, with a unit for each element or a cube for each row.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::visits::Visits;
use crate::kernel::cube::{
    UNITS, cube_for_each, empty, empty_like, float_input, input, output, sum_of_units, unit_for_each,
};

impl Visits {
    /// The sum over the visits of each token, in the order of its choices: `[num_tokens, columns]`.
    pub fn sum(&self, rows: &CubeTensor, weights: Option<&CubeTensor>) -> CubeTensor {
        let (num_tokens, columns) = (self.num_visits / self.k, rows.shape()[1]);
        let y = empty([num_tokens, columns], DType::F32, rows);
        let (cubes, units) = unit_for_each(num_tokens * columns, &y);
        sum::launch(
            &y.client,
            cubes,
            units,
            float_input(rows),
            float_input(weights.unwrap_or(rows)),
            input(&self.places),
            output(&y),
            num_tokens * columns,
            columns,
            self.k,
            weights.is_some(),
        );
        y
    }

    /// The gradients of `gate(x)` and `up(x)` of each visit, given `z = downᵀ·dy`.
    pub fn gradients_of_hidden(
        &self,
        z: &CubeTensor,
        [gate, up]: &[CubeTensor; 2],
        weights: &CubeTensor,
    ) -> [CubeTensor; 2] {
        let [dgate, dup] = [gate, up].map(empty_like);
        let (len, width) = (z.shape().num_elements(), z.shape()[1]);
        let (cubes, units) = unit_for_each(len, z);
        gradients_of_hidden::launch(
            &z.client,
            cubes,
            units,
            float_input(z),
            float_input(gate),
            float_input(up),
            float_input(weights),
            input(&self.order),
            output(&dgate),
            output(&dup),
            len,
            width,
        );
        [dgate, dup]
    }

    /// The hidden state `h` of each visit times its weight, and the gradient `z·h` of the weight.
    pub fn weighted_hidden(
        &self,
        z: &CubeTensor,
        [gate, up]: &[CubeTensor; 2],
        weights: &CubeTensor,
    ) -> (CubeTensor, CubeTensor) {
        let (weighted, dweights) = (empty_like(gate), empty_like(weights));
        let (cubes, units) = cube_for_each(self.num_visits, z);
        weighted_hidden::launch(
            &z.client,
            cubes,
            units,
            float_input(z),
            float_input(gate),
            float_input(up),
            float_input(weights),
            input(&self.order),
            output(&weighted),
            output(&dweights),
            self.num_visits,
            z.shape()[1],
        );
        (weighted, dweights)
    }
}

#[cube(launch)]
fn sum(
    rows: &[f32],
    weights: &[f32],
    places: &[i32],
    y: &mut [f32],
    len: usize,
    columns: usize,
    k: usize,
    #[comptime] is_weighted: bool,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let (token, column) = (i / columns, i % columns);
    let mut sum = 0.0f32;
    for visit in token * k..(token + 1) * k {
        let row = rows[usize::cast_from(places[visit]) * columns + column];
        if comptime!(is_weighted) {
            sum += row * weights[visit];
        } else {
            sum += row;
        }
    }
    y[i] = sum;
}

#[cube(launch)]
fn gradients_of_hidden(
    z: &[f32],
    gate: &[f32],
    up: &[f32],
    weights: &[f32],
    order: &[i32],
    dgate: &mut [f32],
    dup: &mut [f32],
    len: usize,
    width: usize,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let dh = z[i] * weights[usize::cast_from(order[i / width])];
    let gate = gate[i];
    let sigmoid = 1.0 / (1.0 + (-gate).exp());
    dgate[i] = dh * up[i] * sigmoid * (1.0 + gate * (1.0 - sigmoid));
    dup[i] = dh * gate * sigmoid;
}

#[cube(launch)]
fn weighted_hidden(
    z: &[f32],
    gate: &[f32],
    up: &[f32],
    weights: &[f32],
    order: &[i32],
    weighted: &mut [f32],
    dweights: &mut [f32],
    num_visits: usize,
    width: usize,
) {
    let place = CUBE_POS;
    if place >= num_visits {
        terminate!();
    }
    let visit = usize::cast_from(order[place]);
    let weight = weights[visit];
    let mut along = 0.0f32;
    for i in range_stepped(place * width + UNIT_POS as usize, (place + 1) * width, UNITS as usize) {
        let h = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
        weighted[i] = h * weight;
        along += z[i] * h;
    }
    let dweight = sum_of_units(along, UNITS);
    if UNIT_POS == 0 {
        dweights[visit] = dweight;
    }
}
