//! Cross entropy on the CPU: the logits of a chunk of tokens at a time.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;
use rayon::prelude::*;

use super::{Gradients, Inputs, LinearCrossEntropy, LinearCrossEntropyBackward, Upstream, tokens_of_chunk};
use crate::kernel::cpu::{
    Mat, MatMut, Matrix, Threads, WeightRows, compact, dense, empty, exponentials_in_place, indices, matmul_nn,
    matmul_nt, matmul_tn, products, tensor, values, vectorized,
};
use crate::kernel::linear::Operand;
use crate::kernel::quantized_weight::QuantizedWeight;

impl LinearCrossEntropy for Flex {
    fn linear_cross_entropy_forward(
        hidden: FlexTensor,
        weight: Operand<Self>,
        targets: FlexTensor,
        _upstream: Upstream,
    ) -> FlexTensor {
        losses(&dense(hidden), weight.contiguous().matrix(), &targets)
    }
}

impl LinearCrossEntropyBackward for Flex {
    fn losses_and_gradients(inputs: Inputs<Self>, of_weight: bool) -> (FlexTensor, Gradients<Self>) {
        let Inputs { hidden, weight, targets } = inputs;
        let (hidden, targets, head) = (dense(hidden), indices(&targets), Head::new(weight));
        let upstream = vec![1.0 / targets.len() as f32; targets.len()];
        let mut d_hidden = vec![0.0; values(&hidden).len()];
        let mut d_weight = of_weight.then(|| vec![0.0; head.len()]);
        let chunk = tokens_of_chunk(targets.len(), head.dims()[0]);
        let batch = Batch { states: values(&hidden), targets: &targets, upstream: &upstream, chunk };
        let losses = batch.losses_and_gradients(&head, Some(&mut d_hidden), d_weight.as_deref_mut());
        let weight = d_weight.map(|d_weight| tensor(d_weight, head.dims()));
        (tensor(losses, [targets.len()]), Gradients { hidden: tensor(d_hidden, hidden.shape()), weight })
    }

    fn gradients(
        upstream: FlexTensor,
        inputs: Inputs<Self>,
        of_mean: Gradients<Self>,
        of_weight: bool,
    ) -> Gradients<Self> {
        let upstream = dense(upstream);
        let upstream = values(&upstream);
        let share = 1.0 / upstream.len() as f32;
        if upstream.iter().all(|gradient| *gradient == upstream[0]) && of_mean.weight.is_some() == of_weight {
            let factor = upstream[0] / share;
            let scaled = |x| if factor == 1.0 { x } else { Self::float_mul_scalar(x, factor.into()) };
            return Gradients { hidden: scaled(of_mean.hidden), weight: of_mean.weight.map(scaled) };
        }
        let weight = of_weight.then(|| weight_gradient(upstream, &inputs));
        let mut hidden = compact(of_mean.hidden);
        let width = hidden.shape()[1];
        for (row, upstream) in hidden.storage_mut::<f32>().chunks_exact_mut(width).zip(upstream) {
            row.iter_mut().for_each(|gradient| *gradient *= upstream / share);
        }
        Gradients { hidden, weight }
    }
}

/// The gradient of `Σ upstream · losses` with respect to the weight, from the logits of the tokens whose `upstream` is not
/// zero.
fn weight_gradient(upstream: &[f32], inputs: &Inputs<Flex>) -> FlexTensor {
    let (hidden, targets) = (dense(inputs.hidden.clone()), indices(&inputs.targets));
    let (width, head) = (hidden.shape()[1], Head::new(inputs.weight.clone()));
    let tokens: Vec<usize> = (0..targets.len()).filter(|&token| upstream[token] != 0.0).collect();
    let state = |&token: &usize| &values(&hidden)[token * width..(token + 1) * width];
    let states: Vec<f32> = tokens.iter().flat_map(state).copied().collect();
    let targets: Vec<usize> = tokens.iter().map(|&token| targets[token]).collect();
    let upstream: Vec<f32> = tokens.iter().map(|&token| upstream[token]).collect();
    let mut d_weight = vec![0.0; head.len()];
    let chunk = tokens_of_chunk(targets.len(), head.dims()[0]);
    let batch = Batch { states: &states, targets: &targets, upstream: &upstream, chunk };
    batch.losses_and_gradients(&head, None, Some(&mut d_weight));
    tensor(d_weight, head.dims())
}

fn losses(hidden: &FlexTensor, weight: Matrix<'_>, targets: &FlexTensor) -> FlexTensor {
    let (hidden_size, targets) = (hidden.shape()[1], indices(targets));
    let vocab_size = weight.rows(hidden_size).expect("sizes were compared before");
    let mut losses = Vec::with_capacity(targets.len());
    let chunk = tokens_of_chunk(targets.len(), vocab_size);
    in_chunks(values(hidden), [vocab_size, hidden_size], &targets, chunk, |_, states, targets, logits| {
        products(states, hidden_size, vec![(weight, &mut *logits)], false, Threads::Pool);
        losses.extend(of_rows(logits, targets, None));
    });
    tensor(losses, [targets.len()])
}

/// The weight as the products of a training step read it.
#[expect(clippy::large_enum_variant, reason = "one per pass, on the stack")]
enum Head {
    /// In the type in which products read it, contiguous.
    Float(FlexTensor),
    /// Frozen; dequantized a tile at a time.
    Blocks(QuantizedWeight),
}

impl Head {
    fn new(weight: Operand<Flex>) -> Self {
        match weight {
            Operand::Float(weight) => Self::Float(weight.to_contiguous()),
            Operand::Quantized(weight) => Self::Blocks(weight),
        }
    }

    /// Number of elements.
    fn len(&self) -> usize {
        self.dims().into_iter().product()
    }

    fn dims(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) => [weight.shape()[0], weight.shape()[1]],
            Self::Blocks(weight) => weight.dims(),
        }
    }

    /// The type of its gradient's products.
    fn dtype(&self) -> DType {
        match self {
            Self::Float(weight) => weight.dtype(),
            Self::Blocks(_) => DType::F32,
        }
    }

    /// `logits = states·Wᵀ`.
    fn logits(&self, states: &[f32], logits: &mut [f32]) {
        match self {
            Self::Float(weight) => {
                matmul_nt(states, WeightRows::from_tensor(weight), logits, self.dims()[1], Threads::Pool);
            }
            Self::Blocks(weight) => weight.panels().product(states, logits),
        }
    }

    /// `d_states = d_logits·W`.
    fn input_gradient(&self, d_logits: &[f32], d_states: &mut [f32]) {
        let [vocab_size, hidden_size] = self.dims();
        let tokens = d_states.len() / hidden_size;
        match self {
            Self::Float(weight) => {
                let (weight, d_logits) = (WeightRows::from_tensor(weight), Mat::new(d_logits, tokens, vocab_size));
                matmul_nn(d_logits, weight, MatMut::new(d_states, tokens, hidden_size), false, Threads::Pool);
            }
            Self::Blocks(weight) => weight.panels().input_gradient(d_logits, d_states),
        }
    }
}

/// Tokens, the gradient of the loss of each, and how many have logits at once.
struct Batch<'a> {
    states: &'a [f32],
    targets: &'a [usize],
    upstream: &'a [f32],
    chunk: usize,
}

impl Batch<'_> {
    /// The losses; writes the gradients of `Σ upstream · losses` with respect to the states and to the weight.
    fn losses_and_gradients(
        &self,
        head: &Head,
        mut d_states: Option<&mut [f32]>,
        mut d_weight: Option<&mut [f32]>,
    ) -> Vec<f32> {
        let Self { states, targets, upstream, chunk } = *self;
        let [vocab_size, hidden_size] = head.dims();
        let mut losses = Vec::with_capacity(targets.len());
        in_chunks(states, [vocab_size, hidden_size], targets, chunk, |first, states, targets, logits| {
            let tokens = targets.len();
            head.logits(states, logits);
            losses.extend(of_rows(logits, targets, Some(&upstream[first..first + tokens])));
            if let Some(d_states) = &mut d_states {
                head.input_gradient(logits, &mut d_states[first * hidden_size..(first + tokens) * hidden_size]);
            }
            if let Some(d_weight) = &mut d_weight {
                let (d_logits, states) = (Mat::new(logits, tokens, vocab_size), Mat::new(states, tokens, hidden_size));
                let d_weight = MatMut::new(d_weight, vocab_size, hidden_size);
                matmul_tn(d_logits, states, d_weight, head.dtype(), first > 0, Threads::Pool);
            }
        });
        losses
    }
}

/// Calls `body` for each `chunk` of tokens, with the index of its first token, its states and targets, and room for its logits.
fn in_chunks(
    hidden: &[f32],
    [vocab_size, hidden_size]: [usize; 2],
    targets: &[usize],
    chunk: usize,
    mut body: impl FnMut(usize, &[f32], &[usize], &mut [f32]),
) {
    if let Some(target) = targets.iter().find(|&&target| target >= vocab_size) {
        panic!("cross_entropy: target {target} of a vocabulary of {vocab_size}");
    }
    let mut logits = empty(chunk * vocab_size);
    let chunks = hidden.chunks(chunk * hidden_size).zip(targets.chunks(chunk));
    for (index, (states, targets)) in chunks.enumerate() {
        body(index * chunk, states, targets, &mut logits[..targets.len() * vocab_size]);
    }
}

/// The loss of each row of logits; if there is a gradient `upstream` of it, the row becomes
/// `upstream · (softmax(logits) − one_hot(target))`.
fn of_rows(logits: &mut [f32], targets: &[usize], upstream: Option<&[f32]>) -> Vec<f32> {
    let vocab_size = logits.len() / targets.len();
    let rows = logits.par_chunks_exact_mut(vocab_size).zip(targets).enumerate();
    let of_row = |(token, (row, &target)): (usize, (&mut [f32], &usize))| {
        let of_target = row[target];
        let (largest, total) = vectorized!(exponentials_in_place(row));
        if let Some(upstream) = upstream {
            let scale = upstream[token] / total;
            vectorized!(row.iter_mut().for_each(|p| *p *= scale));
            row[target] -= upstream[token];
        }
        largest + total.ln() - of_target
    };
    rows.map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_change_neither_losses_nor_gradients() {
        let numbers = |len: usize| (0..len).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<f32>>();
        let head = Head::Float(tensor(numbers(23 * 8), [23, 8]));
        let targets: Vec<usize> = (0..70).map(|token| token * 5 % 23).collect();
        let (states, upstream) = (numbers(70 * 8), numbers(70));
        let run = |chunk| {
            let batch = Batch { states: &states, targets: &targets, upstream: &upstream, chunk };
            let (mut d_states, mut d_weight) = (vec![0.0; 70 * 8], vec![0.0; 23 * 8]);
            let losses = batch.losses_and_gradients(&head, Some(&mut d_states), Some(&mut d_weight));
            [losses, d_states, d_weight]
        };
        for (found, expected) in run(31).iter().zip(&run(70)) {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
        }
    }
}
