//! AdamW in CubeCL: one unit per element; updates the parameter and its moments in place.

use burn::backend::{Cube, DType, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{AdamWOps, AdamWStep};
use crate::kernel::cube::{UNITS, cube_for_each, empty, float_input, output, owned, sum_of_units, unit_for_each};

/// Elements whose squares one cube sums.
const CHUNK: usize = 1 << 16;

/// The numbers of a step, as the update has them.
#[derive(CubeType, CubeLaunch, Clone)]
pub struct Factors {
    gradient_scale: f32,
    beta1: f32,
    /// `1 - β₁`, which float32 does not give exactly.
    rest1: f32,
    beta2: f32,
    /// `1 - β₂`.
    rest2: f32,
    /// `1 - γλ`.
    decay: f32,
    /// `γ / (1 - β₁ᵗ)`.
    rate: f32,
    /// `1 / (1 - β₂ᵗ)`.
    correction2: f32,
    epsilon: f32,
}

#[cube(launch)]
fn update(param: &mut [f32], moment1: &mut [f32], moment2: &mut [f32], grad: &[f32], factors: Factors, len: usize) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let grad = grad[i] * factors.gradient_scale;
    let m = factors.beta1 * moment1[i] + factors.rest1 * grad;
    let v = factors.beta2 * moment2[i] + factors.rest2 * grad * grad;
    moment1[i] = m;
    moment2[i] = v;
    param[i] = param[i] * factors.decay - factors.rate * m / ((v * factors.correction2).sqrt() + factors.epsilon);
}

/// One cube per chunk.
#[cube(launch)]
fn squares(x: &[f32], sums: &mut [f32], len: usize, num_chunks: usize) {
    let chunk = CUBE_POS;
    if chunk >= num_chunks {
        terminate!();
    }
    let mut sum = 0.0f32;
    let end = min((chunk + 1) * CHUNK, len);
    for i in range_stepped(chunk * CHUNK + UNIT_POS as usize, end, UNITS as usize) {
        sum += x[i] * x[i];
    }
    let sum = sum_of_units(sum, UNITS);
    if UNIT_POS == 0 {
        sums[chunk] = sum;
    }
}

impl AdamWOps for Cube {
    fn adamw_update(
        param: CubeTensor,
        moment1: CubeTensor,
        moment2: CubeTensor,
        grad: CubeTensor,
        step: AdamWStep,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [param, moment1, moment2] = [param, moment1, moment2].map(|x| owned(x, DType::F32));
        let (correction1, correction2) = step.corrections();
        let factors = FactorsLaunch::new(
            step.gradient_scale as f32,
            step.beta1 as f32,
            (1.0 - step.beta1) as f32,
            step.beta2 as f32,
            (1.0 - step.beta2) as f32,
            (1.0 - step.learning_rate * step.weight_decay) as f32,
            (step.learning_rate * correction1) as f32,
            correction2 as f32,
            step.epsilon as f32,
        );
        let len = param.shape().num_elements();
        let (cubes, units) = unit_for_each(len, &param);
        update::launch(
            &param.client,
            cubes,
            units,
            output(&param),
            output(&moment1),
            output(&moment2),
            float_input(&grad),
            factors,
            len,
        );
        (param, moment1, moment2)
    }

    fn squares_by_chunk(x: CubeTensor) -> CubeTensor {
        let len = x.shape().num_elements();
        let num_chunks = len.div_ceil(CHUNK);
        let sums = empty([num_chunks], DType::F32, &x);
        let (cubes, units) = cube_for_each(num_chunks, &x);
        squares::launch(&x.client, cubes, units, float_input(&x), output(&sums), len, num_chunks);
        sums
    }
}
