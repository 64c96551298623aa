//! The losses in CubeCL, a chunk of tokens at a time: a product, and a kernel that overwrites its logits with their gradients.

use burn::backend::{Cube, DType, TensorMetadata};
use burn::tensor::Tensor;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{Gradients, Inputs, LinearCrossEntropy, LinearCrossEntropyBackward, Upstream, tokens_of_chunk};
use crate::kernel::cube::{
    UNITS, cube_for_each, empty, float_input, input, matrix_product, max_of_units, output, owned, primitive, public,
    sum_of_units,
};
use crate::kernel::linear::Operand;

/// One cube per token: the loss of its logits, and `factor · (softmax − 1 at the target)` in their place.
#[cube(launch)]
fn losses_of_logits(
    logits: &mut [f32],
    targets: &[i32],
    factors: &[f32],
    losses: &mut [f32],
    num_tokens: usize,
    vocab_size: usize,
    #[comptime] has_gradients: bool,
) {
    let token = CUBE_POS;
    if token >= num_tokens {
        terminate!();
    }
    let (start, end) = (token * vocab_size, (token + 1) * vocab_size);
    let target = start + usize::cast_from(targets[token]);
    let of_target = logits[target];
    let mut highest = logits[start];
    for i in range_stepped(start + UNIT_POS as usize, end, UNITS as usize) {
        highest = max(highest, logits[i]);
    }
    let highest = max_of_units(highest, UNITS);
    let mut sum = 0.0f32;
    for i in range_stepped(start + UNIT_POS as usize, end, UNITS as usize) {
        sum += (logits[i] - highest).exp();
    }
    let sum = sum_of_units(sum, UNITS);
    if UNIT_POS == 0 {
        losses[token] = highest + sum.ln() - of_target;
    }
    if comptime!(has_gradients) {
        let factor = factors[token];
        for i in range_stepped(start + UNIT_POS as usize, end, UNITS as usize) {
            let mut gradient = (logits[i] - highest).exp() / sum;
            if i == target {
                gradient -= 1.0f32;
            }
            logits[i] = gradient * factor;
        }
    }
}

/// The losses of a chunk and, if each has a factor, the gradients of `Σ factor · loss` with respect to its logits.
fn losses_and_dlogits(
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: CubeTensor,
    factors: Option<Tensor<1>>,
) -> (Tensor<1>, Tensor<2>) {
    let logits = owned(primitive(matrix_product(hidden.clone(), weight.clone().transpose())), DType::F32);
    let [num_tokens, vocab_size] = logits.shape().dims();
    let losses = empty([num_tokens], DType::F32, &logits);
    let has_gradients = factors.is_some();
    let factors = factors.map_or_else(|| empty([1], DType::F32, &logits), primitive);
    let (cubes, units) = cube_for_each(num_tokens, &logits);
    losses_of_logits::launch(
        &logits.client,
        cubes,
        units,
        output(&logits),
        input(&targets),
        float_input(&factors),
        output(&losses),
        num_tokens,
        vocab_size,
        has_gradients,
    );
    (public(losses), public(logits))
}

/// A batch, in chunks of tokens.
struct Batch {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: CubeTensor,
}

impl Batch {
    fn new(Inputs { hidden, weight, targets }: Inputs<Cube>) -> Self {
        let targets = burn_cubecl::kernel::cast(targets, DType::I32);
        let (hidden, weight) = (public::<2>(hidden), public::<2>(weight.into_tensor()));
        // Products read them in the same type.
        let hidden = if weight.dtype() == DType::BF16 { hidden.cast(DType::BF16) } else { hidden };
        Self { hidden, weight, targets }
    }

    fn num_tokens(&self) -> usize {
        self.hidden.dims()[0]
    }

    /// Calls `f` with the hidden states, the losses, and the gradients of the logits of each chunk.
    fn for_each_chunk(&self, factors: Option<&Tensor<1>>, mut f: impl FnMut(Tensor<2>, Tensor<1>, Tensor<2>)) {
        let (num_tokens, [vocab_size, _]) = (self.num_tokens(), self.weight.dims());
        let len = tokens_of_chunk(num_tokens, vocab_size);
        for first in (0..num_tokens).step_by(len) {
            let end = (first + len).min(num_tokens);
            let hidden = self.hidden.clone().slice([first..end]);
            let targets = burn_cubecl::kernel::slice(self.targets.clone(), &[first..end]);
            let factors = factors.map(|factors| factors.clone().slice([first..end]));
            let (losses, dlogits) = losses_and_dlogits(&hidden, &self.weight, targets, factors);
            let dlogits = if hidden.dtype() == DType::BF16 { dlogits.cast(DType::BF16) } else { dlogits };
            f(hidden, losses, dlogits);
        }
    }

    /// `Σ factor · loss` with respect to the weight, summed over the chunks.
    fn gradient_of_weight(&self, factors: &Tensor<1>) -> Tensor<2> {
        let mut sum: Option<Tensor<2>> = None;
        self.for_each_chunk(Some(factors), |hidden, _, dlogits| {
            add(&mut sum, matrix_product(dlogits.transpose(), hidden))
        });
        sum.expect("tokens")
    }
}

fn add(sum: &mut Option<Tensor<2>>, term: Tensor<2>) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + term,
        None => term,
    });
}

/// The parts one after another; the only one is not copied.
fn joined<const D: usize>(mut parts: Vec<Tensor<D>>) -> Tensor<D> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

impl LinearCrossEntropy for Cube {
    fn linear_cross_entropy_forward(
        hidden: CubeTensor,
        weight: Operand<Self>,
        targets: CubeTensor,
        _upstream: Upstream,
    ) -> CubeTensor {
        let mut losses = Vec::new();
        Batch::new(Inputs { hidden, weight, targets }).for_each_chunk(None, |_, of_chunk, _| losses.push(of_chunk));
        primitive(joined(losses))
    }
}

impl LinearCrossEntropyBackward for Cube {
    fn losses_and_gradients(inputs: Inputs<Self>, of_weight: bool) -> (CubeTensor, Gradients<Self>) {
        let batch = Batch::new(inputs);
        let num_tokens = batch.num_tokens();
        let factors = Tensor::full([num_tokens], 1.0 / num_tokens as f64, &batch.hidden.device());
        let (mut losses, mut dhidden, mut dweight) = (Vec::new(), Vec::new(), None);
        batch.for_each_chunk(Some(&factors), |hidden, of_chunk, dlogits| {
            losses.push(of_chunk);
            dhidden.push(matrix_product(dlogits.clone(), batch.weight.clone()));
            if of_weight {
                add(&mut dweight, matrix_product(dlogits.transpose(), hidden));
            }
        });
        let hidden = primitive(joined(dhidden));
        (primitive(joined(losses)), Gradients { hidden, weight: dweight.map(primitive) })
    }

    fn gradients(
        upstream: CubeTensor,
        inputs: Inputs<Self>,
        of_mean: Gradients<Self>,
        of_weight: bool,
    ) -> Gradients<Self> {
        let Gradients { hidden, weight: of_mean } = of_mean;
        let upstream: Tensor<1> = public(upstream);
        let [num_tokens] = upstream.dims();
        // Those of the mean are those of the losses, divided by their number.
        let factors = upstream.clone() * num_tokens as f64;
        let hidden = primitive(public::<2>(hidden) * factors.clone().reshape([num_tokens, 1]));
        let weight = of_weight.then(|| {
            let is_multiple =
                || upstream.clone().min().into_scalar::<f32>() == upstream.clone().max().into_scalar::<f32>();
            primitive(match of_mean {
                Some(of_mean) if is_multiple() => public::<2>(of_mean) * factors.slice([0..1]).reshape([1, 1]),
                _ => Batch::new(inputs).gradient_of_weight(&upstream),
            })
        });
        Gradients { hidden, weight }
    }
}
