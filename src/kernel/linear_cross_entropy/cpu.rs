//! Cross entropy on the CPU: the logits of a chunk of tokens at a time.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::{Gradients, Inputs, LinearCrossEntropy, LinearCrossEntropyBackward};
use crate::kernel::cpu::{
    Mat, MatMut, Matrix, Threads, dense, exponentials_in_place, gemm, indices, products, tensor, values, vectorized,
    widened,
};
use crate::kernel::linear::Operand;
use crate::kernel::quantized_weight::QuantizedWeight;

/// Tokens whose logits exist at once.
const CHUNK: usize = 256;

impl LinearCrossEntropy for Flex {
    fn linear_cross_entropy_forward(hidden: FlexTensor, weight: Operand<Self>, targets: FlexTensor) -> FlexTensor {
        losses(&dense(hidden), weight.contiguous().matrix(), &targets)
    }
}

impl LinearCrossEntropyBackward for Flex {
    fn losses_and_gradients(inputs: Inputs<Self>, of_weight: bool) -> (FlexTensor, Gradients<Self>) {
        let Inputs { hidden, weight, targets } = inputs;
        let targets = indices(&targets);
        let upstream = vec![1.0 / targets.len() as f32; targets.len()];
        let head = Head::new(weight);
        let (losses, gradients) = with_gradients(&dense(hidden), &head, &targets, &upstream, of_weight);
        (tensor(losses, [targets.len()]), gradients)
    }

    fn gradients(upstream: FlexTensor, inputs: Inputs<Self>, of_mean: Gradients<Self>) -> Gradients<Self> {
        let upstream = dense(upstream);
        let upstream = values(&upstream);
        if upstream.iter().all(|gradient| *gradient == upstream[0]) {
            let factor = upstream[0] / (1.0 / upstream.len() as f32);
            let scaled = |x| if factor == 1.0 { x } else { Self::float_mul_scalar(x, factor.into()) };
            return Gradients { hidden: scaled(of_mean.hidden), weight: of_mean.weight.map(scaled) };
        }
        let Inputs { hidden, weight, targets } = inputs;
        let (hidden, targets) = (dense(hidden), indices(&targets));
        let hidden_size = hidden.shape()[1];
        let of_token = |token: usize| token * hidden_size..(token + 1) * hidden_size;
        let tokens: Vec<usize> = (0..targets.len()).filter(|&token| upstream[token] != 0.0).collect();
        let states = tokens.iter().flat_map(|&token| &values(&hidden)[of_token(token)]).copied().collect();
        let states = tensor(states, [tokens.len(), hidden_size]);
        let some_targets: Vec<usize> = tokens.iter().map(|&token| targets[token]).collect();
        let some_upstream: Vec<f32> = tokens.iter().map(|&token| upstream[token]).collect();
        let of_weight = of_mean.weight.is_some();
        let (_, found) = with_gradients(&states, &Head::new(weight), &some_targets, &some_upstream, of_weight);
        let mut d_hidden = vec![0.0; values(&hidden).len()];
        for (&token, row) in tokens.iter().zip(values(&found.hidden).chunks_exact(hidden_size)) {
            d_hidden[of_token(token)].copy_from_slice(row);
        }
        Gradients { hidden: tensor(d_hidden, hidden.shape()), ..found }
    }
}

fn losses(hidden: &FlexTensor, weight: Matrix<'_>, targets: &FlexTensor) -> FlexTensor {
    let (hidden_size, targets) = (hidden.shape()[1], indices(targets));
    let vocab_size = weight.rows(hidden_size).expect("sizes were compared before");
    let mut losses = Vec::with_capacity(targets.len());
    in_chunks(values(hidden), [vocab_size, hidden_size], &targets, |_, states, targets, logits| {
        products(states, hidden_size, vec![(weight, &mut *logits)], false, Threads::Pool);
        losses.extend(of_rows(logits, targets, None));
    });
    tensor(losses, [targets.len()])
}

/// The weight as the products of a training step read it.
#[expect(clippy::large_enum_variant, reason = "one per pass, on the stack")]
enum Head {
    /// In float32.
    Float(FlexTensor),
    /// Frozen; dequantized a tile at a time.
    Blocks(QuantizedWeight),
}

impl Head {
    fn new(weight: Operand<Flex>) -> Self {
        match weight {
            Operand::Float(weight) => Self::Float(widened(weight)),
            Operand::Quantized(weight) => Self::Blocks(weight),
        }
    }

    fn dims(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) => [weight.shape()[0], weight.shape()[1]],
            Self::Blocks(weight) => weight.dims(),
        }
    }

    /// `logits = states·Wᵀ`.
    fn logits(&self, states: &[f32], logits: &mut [f32]) {
        let [vocab_size, hidden_size] = self.dims();
        let tokens = states.len() / hidden_size;
        match self {
            Self::Float(weight) => {
                let matrix = Mat::new(values(weight), vocab_size, hidden_size);
                let states = Mat::new(states, tokens, hidden_size);
                gemm(MatMut::new(logits, tokens, vocab_size), false, states, matrix.t(), Threads::Pool);
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
                let matrix = Mat::new(values(weight), vocab_size, hidden_size);
                let d_logits = Mat::new(d_logits, tokens, vocab_size);
                gemm(MatMut::new(d_states, tokens, hidden_size), false, d_logits, matrix, Threads::Pool);
            }
            Self::Blocks(weight) => weight.panels().input_gradient(d_logits, d_states),
        }
    }
}

/// The losses, and the gradients of `Σ upstream · losses`.
fn with_gradients(
    hidden: &FlexTensor,
    head: &Head,
    targets: &[usize],
    upstream: &[f32],
    of_weight: bool,
) -> (Vec<f32>, Gradients<Flex>) {
    let [vocab_size, hidden_size] = head.dims();
    let mut d_hidden = vec![0.0; values(hidden).len()];
    let mut d_weight = of_weight.then(|| vec![0.0; vocab_size * hidden_size]);
    let mut losses = Vec::with_capacity(targets.len());
    in_chunks(values(hidden), [vocab_size, hidden_size], targets, |first, states, targets, logits| {
        let tokens = targets.len();
        let d_states = &mut d_hidden[first * hidden_size..(first + tokens) * hidden_size];
        head.logits(states, logits);
        losses.extend(of_rows(logits, targets, Some(&upstream[first..first + tokens])));
        head.input_gradient(logits, d_states);
        if let Some(d_weight) = &mut d_weight {
            let (d_logits, states) = (Mat::new(logits, tokens, vocab_size), Mat::new(states, tokens, hidden_size));
            let d_weight = MatMut::new(d_weight, vocab_size, hidden_size);
            gemm(d_weight, first > 0, d_logits.t(), states, Threads::Pool);
        }
    });
    let weight = d_weight.map(|d_weight| tensor(d_weight, [vocab_size, hidden_size]));
    (losses, Gradients { hidden: tensor(d_hidden, hidden.shape()), weight })
}

/// Calls `body` for each chunk, with the index of its first token, its states and targets, and room for its logits.
fn in_chunks(
    hidden: &[f32],
    [vocab_size, hidden_size]: [usize; 2],
    targets: &[usize],
    mut body: impl FnMut(usize, &[f32], &[usize], &mut [f32]),
) {
    if let Some(target) = targets.iter().find(|&&target| target >= vocab_size) {
        panic!("cross_entropy: target {target} of a vocabulary of {vocab_size}");
    }
    let mut logits = vec![0.0; CHUNK.min(targets.len()) * vocab_size];
    let chunks = hidden.chunks(CHUNK * hidden_size).zip(targets.chunks(CHUNK));
    for (index, (states, targets)) in chunks.enumerate() {
        body(index * CHUNK, states, targets, &mut logits[..targets.len() * vocab_size]);
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
