//! The experts on libtorch: visits are sorted by expert on the device, and each expert multiplies its own.
//!
//! In bfloat16 the products of all experts are one `_grouped_mm`, which reads where each expert ends on the device. In other
//! precisions, and for sizes that it does not take, each expert has a product of its own, for which the ends come to the host.
//! The gradients are those of `cpu_backward.rs`.

use std::cell::OnceCell;

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::{ExpertMlp, ExpertMlpBackward, ExpertOperand, Gradients, Inputs};

/// Bytes to which `_grouped_mm` wants rows aligned.
const ALIGNMENT: i64 = 16;

/// The visits of tokens to experts, sorted by expert.
struct Visits {
    /// The token of each visit, sorted.
    tokens: Tensor,
    /// The visits, sorted.
    order: Tensor,
    /// Position of each visit in `order`.
    places: Tensor,
    /// One past the last position of each expert, int32.
    ends: Tensor,
    /// The same on the host.
    host_ends: OnceCell<Vec<i64>>,
    /// Experts per token.
    k: i64,
}

impl Visits {
    fn sort(chosen: &Tensor, num_experts: i64) -> Self {
        let k = chosen.size()[1];
        let chosen = chosen.reshape([-1]);
        let order = chosen.argsort_stable(true, 0, false);
        let counts = Tensor::zeros([num_experts], (Kind::Int64, chosen.device()));
        let counts = counts.scatter_add(0, &chosen, &chosen.ones_like());
        Self {
            tokens: order.divide_scalar_mode(k, "floor"),
            places: order.argsort(0, false),
            ends: counts.cumsum(0, Kind::Int),
            order,
            host_ends: OnceCell::new(),
            k,
        }
    }

    /// First and number of the visits of each expert.
    fn ranges(&self) -> impl Iterator<Item = (i64, i64)> {
        let ends = self.host_ends.get_or_init(|| Vec::try_from(self.ends.to_kind(Kind::Int64)).expect("a vector"));
        ends.iter()
            .scan(0, |start, end| Some((std::mem::replace(start, *end), *end)))
            .map(|(start, end)| (start, end - start))
    }

    /// Rows of tokens as rows of visits.
    fn gather(&self, x: &Tensor) -> Tensor {
        x.index_select(0, &self.tokens)
    }

    /// The sum over the visits of each token, in the order of its experts.
    fn sum(&self, rows: &Tensor, weights: Option<&Tensor>) -> Tensor {
        let by_token = rows.index_select(0, &self.places).reshape([-1, self.k, rows.size()[1]]);
        let weighted = match weights {
            Some(weights) => by_token * weights.unsqueeze(2),
            None => by_token,
        };
        weighted.sum_dim_intlist(1, false, Kind::Float)
    }

    /// Each row of `x` times the matrix of its expert, `[num_visits, in]` and `[num_experts, in, out]`, in the type of `x`.
    fn product(&self, x: &Tensor, matrices: &Tensor) -> Tensor {
        if is_grouped(matrices) {
            return x.internal_grouped_mm(matrices, Some(&self.ends), None, None);
        }
        let y = Tensor::empty([x.size()[0], matrices.size()[2]], (x.kind(), x.device()));
        // Only the matrices of experts that are visited are converted, one at a time.
        for (expert, (start, len)) in (0..).zip(self.ranges()).filter(|(_, (_, len))| *len > 0) {
            let matrix = matrices.get(expert).to_kind(x.kind());
            let _ = x.narrow(0, start, len).mm_out(&y.narrow(0, start, len), &matrix);
        }
        y
    }

    /// The sum over the visits of each expert of `aᵀ·b`, `[num_experts, columns of a, columns of b]`.
    fn outer(&self, a: &Tensor, b: &Tensor) -> TchTensor {
        if a.kind() == Kind::BFloat16 {
            return TchTensor::new(a.tr().internal_grouped_mm(b, Some(&self.ends), None, None));
        }
        let of_expert = |(start, len)| a.narrow(0, start, len).tr().mm(&b.narrow(0, start, len));
        TchTensor::new(Tensor::stack(&self.ranges().map(of_expert).collect::<Vec<_>>(), 0))
    }
}

/// Rows in the type in which the products with these matrices read them.
fn as_read(x: &Tensor, matrices: &Tensor) -> Tensor {
    x.to_kind(if is_grouped(matrices) { Kind::BFloat16 } else { Kind::Float })
}

/// Whether `_grouped_mm` takes stacks of such matrices.
fn is_grouped(matrices: &Tensor) -> bool {
    let is_aligned = |size: &i64| size * 2 % ALIGNMENT == 0;
    matrices.kind() == Kind::BFloat16 && matrices.size()[1..].iter().all(is_aligned)
}

/// `gate(x)`, `up(x)`, and `down(silu(gate) ∘ up)` of each visit.
fn forward(visits: &Visits, x: &Tensor, [gate, up, down]: [&Tensor; 3]) -> [Tensor; 3] {
    let x = visits.gather(&as_read(x, gate));
    let [gate, up] = [gate, up].map(|stack| visits.product(&x, &stack.transpose(1, 2)));
    let y = visits.product(&(gate.silu() * &up), &down.transpose(1, 2));
    [gate, up, y]
}

impl ExpertMlp for LibTorch {
    fn expert_mlp(x: TchTensor, weights: TchTensor, chosen: TchTensor, experts: ExpertOperand<Self>) -> TchTensor {
        let [gate, up, down] = experts.into_stacks();
        let [y, ..] = Self::expert_mlp_saved([x, weights, gate, up, down], chosen);
        y
    }
}

impl ExpertMlpBackward for LibTorch {
    fn expert_mlp_saved(inputs: Inputs<Self>, chosen: TchTensor) -> [TchTensor; 3] {
        let [x, weights, gate, up, down] = inputs.map(|input| input.tensor);
        let visits = Visits::sort(&chosen.tensor, gate.size()[0]);
        let [gate, up, y] = forward(&visits, &x, [&gate, &up, &down]);
        [visits.sum(&y, Some(&weights)), gate, up].map(TchTensor::new)
    }

    fn expert_mlp_backward(
        grad: TchTensor,
        inputs: Inputs<Self>,
        chosen: TchTensor,
        saved: [TchTensor; 2],
        of_matrices: bool,
    ) -> Gradients<Self> {
        let [x, weights, gate, up, down] = inputs.map(|input| input.tensor);
        let [gate_out, up_out] = saved.map(|saved| saved.tensor);
        let visits = Visits::sort(&chosen.tensor, gate.size()[0]);
        let dy = visits.gather(&as_read(&grad.tensor, &down));
        let weight = weights.reshape([-1]).index_select(0, &visits.order).unsqueeze(1).to_kind(dy.kind());
        let silu = gate_out.silu();
        let (z, h) = (visits.product(&dy, &down), &silu * &up_out);
        let dweights = (&z * &h).sum_dim_intlist(1, false, Kind::Float).index_select(0, &visits.places);
        let dh = z * &weight;
        let (dgate, dup) = (gate_out.silu_backward(&(&dh * up_out)), dh * silu);
        let dx = visits.sum(&(visits.product(&dgate, &gate) + visits.product(&dup, &up)), None);
        let of_matrices = of_matrices.then(|| {
            let x = visits.gather(&as_read(&x, &gate));
            [visits.outer(&dgate, &x), visits.outer(&dup, &x), visits.outer(&dy, &(h * weight))]
        });
        ([dx, dweights.reshape_as(&weights)].map(TchTensor::new), of_matrices)
    }
}
