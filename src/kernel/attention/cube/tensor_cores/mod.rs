//! Attention on tensor cores (Dao, 2023, arXiv:2307.08691, §3): queries, keys, values, weights and gradients are bfloat16 factors,
//! scores and sums float32.
//!
//! A cube computes the results of 64 vectors, and each of its planes those of 16. In the forward pass and for `dq`, the vectors are rows,
//! and the cube loops over tiles of keys; for `dk` and `dv`, they are keys, and it loops over tiles of rows. The layout of fragments is
//! unspecified, so scores go through shared memory, where two units of a plane share a line.

mod backward;
mod forward;
mod tile;

use burn::backend::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use self::tile::{NUM_PLANES, TILE};
use super::backward::gradient_inputs;
use super::chunks::MAX_QUERIES;
use super::plan::Plan;
use crate::kernel::cube::tensor_cores::{self, PLANE, SIDE};
use crate::kernel::cube::{input, output, typed_input};

/// The widest heads: the sums of wider ones, of keys and of values in the same kernel, take more registers than a unit has.
const MAX_HEAD_DIM: usize = 128;

/// Whether these kernels compute it: in bfloat16, with more queries than are cut into chunks. Units read 16 bytes at once, also from
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
///
/// # Panics
/// If one of the others is not bfloat16.
pub fn gradients(
    plan: &Plan,
    grad: &CubeTensor,
    [q, k, v]: [&CubeTensor; 3],
    rows: &CubeTensor,
    [dq, dk, dv]: &[CubeTensor; 3],
) {
    assert_eq!(q.dtype, DType::BF16, "the factors of tensor cores");
    let inputs = || gradient_inputs(plan, grad, [q, k, v], rows);
    let cubes = plan.cubes((plan.num_queries * plan.group).div_ceil(TILE));
    backward::of_queries_on_tensor_cores::launch(&q.client, cubes, units(), inputs(), output(dq), plan.sizes());
    let (cubes, dk, dv) = (plan.cubes(plan.capacity.div_ceil(TILE)), output(dk), output(dv));
    backward::of_keys_on_tensor_cores::launch(&q.client, cubes, units(), inputs(), dk, dv, plan.sizes());
}
