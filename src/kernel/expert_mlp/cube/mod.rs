//! The experts in CubeCL: visits are sorted by expert on the device, and the products of all experts are one launch, whose
//! tiles find their expert there. The gradients are those of `cpu_backward.rs`.

mod blocks;
mod operands;
mod product;
mod rows;
mod tensor_cores;
mod visits;

use burn::backend::{Cube, DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;

use self::operands::{Rows, Weights};
use self::visits::Visits;
use super::{ExpertMlp, ExpertMlpBackward, ExpertOperand, Gradients, Inputs};
use crate::kernel::cube::{WordStack, empty};
use crate::kernel::silu_mul::SiluMul;

impl Visits {
    /// Each row times the matrix of its expert, in float32: `[num_visits, out]`; added to `sum` if there is one. Rows are rounded to
    /// bfloat16 if the matrices are.
    fn product(&self, x: Rows, weights: Weights, sum: Option<CubeTensor>) -> CubeTensor {
        let (stack, is_added) = (weights.stack(), sum.is_some());
        let y = sum.unwrap_or_else(|| empty([self.num_visits, weights.columns()], DType::F32, stack));
        match tensor_cores::serves(self, stack.dtype, &stack.client) {
            true => tensor_cores::product(self, x, weights, &y, is_added),
            false => product::product(self, x, weights, &y, is_added),
        }
        y
    }

    /// Each row times the matrix of its expert: `[num_visits, out]`. A few rows read the blocks; more read a copy of all matrices in
    /// float32, since which of them are visited is known on the device alone.
    fn product_of_blocks(&self, x: Rows, stack: &WordStack) -> CubeTensor {
        if stack.reads_blocks(self.num_visits) {
            return blocks::product(self, x, stack);
        }
        self.product(x, Weights::Transposed(&stack.dequantize()), None)
    }

    /// The weighted sums of tokens, and the gate and up of each visit.
    fn forward<M>(
        &self,
        x: &CubeTensor,
        weights: &CubeTensor,
        [gate, up, down]: [&M; 3],
        product: impl Fn(Rows, &M) -> CubeTensor,
    ) -> [CubeTensor; 3] {
        let [gate, up] = [gate, up].map(|matrices| product(Rows::OfTokens(x), matrices));
        let h = Cube::silu_mul(gate.clone(), up.clone());
        let y = product(Rows::OfVisits(&h), down);
        [self.sum(&y, Some(weights)), gate, up]
    }

    /// `Σ aᵀ·b` over the rows of each expert, the gradient of `stack`: `[num_experts, columns of a, columns of b]`.
    fn outer(&self, a: Rows, b: Rows, stack: &CubeTensor) -> CubeTensor {
        let y = empty([self.num_experts, a.width(), b.width()], DType::F32, stack);
        match tensor_cores::serves(self, stack.dtype, &stack.client) {
            true => tensor_cores::outer(self, a, b, &y),
            false => product::outer(self, a, b, &y),
        }
        y
    }
}

impl ExpertMlp for Cube {
    fn expert_mlp(x: CubeTensor, weights: CubeTensor, chosen: CubeTensor, experts: ExpertOperand<Self>) -> CubeTensor {
        match experts {
            ExpertOperand::Stacked { gate, up, down } => {
                let [y, ..] = Self::expert_mlp_saved([x, weights, gate, up, down], chosen);
                y
            }
            ExpertOperand::Quantized(experts) => expert_mlp_of_blocks(&x, &weights, chosen, experts.stacks()),
        }
    }
}

/// [`ExpertMlp::expert_mlp`] of quantized experts.
pub fn expert_mlp_of_blocks(
    x: &CubeTensor,
    weights: &CubeTensor,
    chosen: CubeTensor,
    stacks: &[WordStack; 3],
) -> CubeTensor {
    let visits = Visits::sort(chosen, stacks[0].places.shape().num_elements());
    let [y, ..] = visits.forward(x, weights, stacks.each_ref(), |x, stack| visits.product_of_blocks(x, stack));
    y
}

impl ExpertMlpBackward for Cube {
    fn expert_mlp_saved(inputs: Inputs<Self>, chosen: CubeTensor) -> [CubeTensor; 3] {
        let [x, weights, gate, up, down] = inputs;
        let visits = Visits::sort(chosen, gate.shape()[0]);
        let product = |x: Rows, stack: &CubeTensor| visits.product(x, Weights::Transposed(stack), None);
        visits.forward(&x, &weights, [&gate, &up, &down], product)
    }

    fn expert_mlp_backward(
        grad: CubeTensor,
        inputs: Inputs<Self>,
        chosen: CubeTensor,
        saved: [CubeTensor; 2],
        of_matrices: bool,
    ) -> Gradients<Self> {
        let [x, weights, gate, up, down] = inputs;
        let visits = Visits::sort(chosen, gate.shape()[0]);
        let (x, dy) = (Rows::OfTokens(&x), Rows::OfTokens(&grad));
        let z = visits.product(dy, Weights::Plain(&down), None);
        let [dgate, dup] = visits.gradients_of_hidden(&z, &saved, &weights);
        let (weighted, dweights) = visits.weighted_hidden(&z, &saved, &weights);
        let [dgate, dup] = [&dgate, &dup].map(Rows::OfVisits);
        let dx = visits.product(dgate, Weights::Plain(&gate), None);
        let dx = visits.sum(&visits.product(dup, Weights::Plain(&up), Some(dx)), None);
        let of_matrices = of_matrices
            .then(|| [(dgate, x, &gate), (dup, x, &up), (dy, Rows::OfVisits(&weighted), &down)])
            .map(|operands| operands.map(|(a, b, stack)| visits.outer(a, b, stack)));
        ([dx, dweights], of_matrices)
    }
}
