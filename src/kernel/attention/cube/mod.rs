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
mod plan;
mod tensor_cores;
mod tile;

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::{Cube, DType};
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;

use self::backward::gradient_inputs;
use self::plan::Plan;
use super::{Attention, AttentionBackward, Inputs, Kept, Mask};
use crate::kernel::cube::{empty, empty_like, float_input, input, output, typed_input, unit_for_each};

/// The result, and the logsumexp of each row.
fn attend(plan: &Plan, [q, k, v]: [&CubeTensor; 3]) -> (CubeTensor, CubeTensor) {
    let (y, logsumexp) = (empty_like(q), empty([plan.num_rows()], DType::F32, q));
    let num_chunks = plan.num_chunks();
    if num_chunks > 1 {
        chunks::attend(plan, num_chunks, [q, k, v], [&y, &logsumexp]);
        return (y, logsumexp);
    }
    if tensor_cores::serve(plan, q) {
        tensor_cores::attend(plan, [q, k, v], [&y, &logsumexp]);
        return (y, logsumexp);
    }
    forward::forward::launch(
        &q.client,
        plan.cubes(plan.tiles_of_rows()),
        plan.units(),
        input(q),
        typed_input(k, q.dtype),
        typed_input(v, q.dtype),
        input(&plan.bounds),
        output(&y),
        output(&logsumexp),
        plan.sizes(),
        dtype_to_elem_type(q.dtype),
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
        let (plan, grad) = (Plan::new(&q, &k, mask), cast(grad, q.dtype));
        let (gradients, rows) = ([&q, &k, &v].map(empty_like), empty([plan.num_rows(), 2], DType::F32, &q));
        let [dq, dk, dv] = &gradients;
        let (cubes, units) = unit_for_each(plan.num_rows(), &q);
        backward::of_rows::launch(
            &q.client,
            cubes,
            units,
            input(&grad),
            input(&y),
            float_input(&logsumexp),
            output(&rows),
            plan.num_rows(),
            plan.head_dim,
            dtype_to_elem_type(q.dtype),
        );
        if tensor_cores::serve(&plan, &q) {
            tensor_cores::gradients(&plan, &grad, [&q, &k, &v], &rows, &gradients);
            return gradients;
        }
        backward::of_queries::launch(
            &q.client,
            plan.cubes(plan.tiles_of_rows()),
            plan.units(),
            gradient_inputs(&plan, &grad, [&q, &k, &v], &rows),
            output(dq),
            plan.sizes(),
            dtype_to_elem_type(q.dtype),
        );
        backward::of_keys::launch(
            &q.client,
            plan.cubes(plan.capacity.div_ceil(plan.tile)),
            plan.units(),
            gradient_inputs(&plan, &grad, [&q, &k, &v], &rows),
            output(dk),
            output(dv),
            plan.sizes(),
            dtype_to_elem_type(q.dtype),
        );
        gradients
    }
}
