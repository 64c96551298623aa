//! Attention with a cache: rotation, keys and values written to their places, attention; a kernel each.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::super::Mask;
use super::super::cached::CachedAttention;
use super::{Plan, attend};
use crate::kernel::cube::{input, output, owned, typed_input, unit_for_each};
use crate::kernel::rope::Rope;

impl CachedAttention for Cube {
    fn cached_attention_forward(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        cos: CubeTensor,
        sin: CubeTensor,
        keys: CubeTensor,
        values: CubeTensor,
        mask: Mask<Self>,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let q = Self::rope_forward(q, cos.clone(), sin.clone());
        let k = Self::rope_forward(k, cos, sin);
        let [keys, values] = [keys, values].map(|buffer| owned(buffer, k.dtype));
        let plan = Plan::new(&q, &keys, mask);
        let len = k.shape().num_elements();
        let (cubes, units) = unit_for_each(len, &q);
        append::launch(
            &q.client,
            cubes,
            units,
            input(&k),
            typed_input(&v, k.dtype),
            input(&plan.bounds),
            output(&keys),
            output(&values),
            len,
            plan.num_queries,
            plan.capacity,
            plan.num_kv_heads * plan.head_dim,
            plan.bounds_stride,
            dtype_to_elem_type(k.dtype),
        );
        let (y, _) = attend(&plan, [&q, &keys, &values]);
        (y, keys, values)
    }
}

/// Writes the key and value of each query to the place of its own key, the last that it sees. Padding has none.
#[cube(launch)]
fn append<F: Float>(
    k: &[F],
    v: &[F],
    bounds: &[i32],
    keys: &mut [F],
    values: &mut [F],
    len: usize,
    num_queries: usize,
    capacity: usize,
    width: usize,
    bounds_stride: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let (row, column) = (i / width, i % width);
    let (sequence, query) = (row / num_queries, row % num_queries);
    let end = usize::cast_from(bounds[sequence * bounds_stride + 2 * query + 1]);
    if end > 0 {
        let at = (sequence * capacity + end - 1) * width + column;
        keys[at] = k[i];
        values[at] = v[i];
    }
}
