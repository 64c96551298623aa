//! The losses on libtorch, a chunk of rows at a time.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Reduction, Tensor};

use super::{Gradients, Inputs, LinearCrossEntropy, LinearCrossEntropyBackward, Upstream};
use crate::kernel::linear::Operand;
use crate::kernel::torch::{as_read, product};

/// Logits of a chunk, at most: 64 MiB on a CPU, 256 MiB on a GPU. Each chunk adds a gradient of the whole weight, so fewer
/// chunks are faster where there is room.
fn max_logits(device: tch::Device) -> i64 {
    if device.is_cuda() { 1 << 26 } else { 1 << 24 }
}

/// Hidden states and targets of consecutive chunks of tokens, `[rows, hidden_size]` and `[rows, 1]`.
fn chunks(hidden: &Tensor, targets: &Tensor, vocab_size: i64) -> Vec<(Tensor, Tensor)> {
    let rows = (max_logits(hidden.device()) / vocab_size).max(1);
    hidden.split(rows, 0).into_iter().zip(targets.unsqueeze(1).split(rows, 0)).collect()
}

impl LinearCrossEntropy for LibTorch {
    fn linear_cross_entropy_forward(
        hidden: TchTensor,
        weight: Operand<Self>,
        targets: TchTensor,
        _upstream: Upstream,
    ) -> TchTensor {
        const NOT_IGNORED: i64 = -100;
        let weight = weight.into_tensor().tensor;
        let chunks = chunks(&hidden.tensor, &targets.tensor, weight.size()[0]).into_iter();
        let losses = chunks.map(|(hidden, targets)| {
            let (logits, targets) = (product(&hidden, &weight.tr()), targets.squeeze_dim(1));
            logits.cross_entropy_loss::<Tensor>(&targets, None, Reduction::None, NOT_IGNORED, 0.0)
        });
        TchTensor::new(Tensor::cat(&losses.collect::<Vec<_>>(), 0))
    }
}

/// Losses of a chunk, and the gradients of their sum with respect to its logits.
fn losses_and_dlogits(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
    let mut log_p = product(hidden, &weight.tr()).log_softmax(1, Kind::Float);
    let losses = -log_p.gather(1, targets, false).squeeze_dim(1);
    let mut dlogits = log_p.exp_();
    let _ = dlogits.scatter_add_(1, targets, &Tensor::full_like(targets, -1).to_kind(Kind::Float));
    (losses, dlogits)
}

impl LinearCrossEntropyBackward for LibTorch {
    fn losses_and_gradients(inputs: Inputs<Self>, of_weight: bool) -> (TchTensor, Gradients<Self>) {
        let weight = inputs.weight.into_tensor().tensor;
        let share = 1.0 / inputs.hidden.tensor.size()[0] as f64;
        let mut dweight = of_weight.then(|| weight.zeros_like().to_kind(Kind::Float));
        let (mut losses, mut dhidden) = (Vec::new(), Vec::new());
        for (hidden, targets) in chunks(&inputs.hidden.tensor, &inputs.targets.tensor, weight.size()[0]) {
            let (of_chunk, mut dlogits) = losses_and_dlogits(&hidden, &weight, &targets);
            let _ = dlogits.g_mul_scalar_(share);
            losses.push(of_chunk);
            // Converted once for both gradients.
            let dlogits = as_read(&dlogits, &weight);
            dhidden.push(product(&dlogits, &weight).to_kind(Kind::Float));
            if let Some(dweight) = &mut dweight {
                let _ = dweight.g_add_(&product(&dlogits.tr(), &as_read(&hidden, &weight)));
            }
        }
        let [losses, hidden] = [losses, dhidden].map(|parts| TchTensor::new(Tensor::cat(&parts, 0)));
        (losses, Gradients { hidden, weight: dweight.map(TchTensor::new) })
    }

    fn gradients(
        upstream: TchTensor,
        inputs: Inputs<Self>,
        of_mean: Gradients<Self>,
        of_weight: bool,
    ) -> Gradients<Self> {
        let Gradients { hidden, weight: of_mean } = of_mean;
        let upstream = upstream.tensor;
        // Those of the mean are those of the losses, divided by their number.
        let factors = &upstream * upstream.size()[0] as f64;
        let hidden = TchTensor::new(hidden.tensor * factors.unsqueeze(1));
        let weight = of_weight.then(|| {
            let is_multiple = upstream.min().equal(&upstream.max());
            if let Some(of_mean) = of_mean.filter(|_| is_multiple) {
                return TchTensor::new(of_mean.tensor * factors.get(0));
            }
            let weight = inputs.weight.into_tensor().tensor;
            let mut sum = weight.zeros_like().to_kind(Kind::Float);
            let mut start = 0;
            for (hidden, targets) in chunks(&inputs.hidden.tensor, &inputs.targets.tensor, weight.size()[0]) {
                let (_, mut dlogits) = losses_and_dlogits(&hidden, &weight, &targets);
                let rows = hidden.size()[0];
                let _ = dlogits.g_mul_(&upstream.narrow(0, start, rows).unsqueeze(1));
                let _ = sum.g_add_(&product(&as_read(&dlogits, &weight).tr(), &as_read(&hidden, &weight)));
                start += rows;
            }
            TchTensor::new(sum)
        });
        Gradients { hidden, weight }
    }
}
