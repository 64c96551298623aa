//! Rotary position embedding on libtorch. The gradient is rotated by the negative angle.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::Tensor;

use super::{Rope, RopeBackward};

/// Turns forwards or backwards. Each half of the result is written twice, and rounded to the type of `x` each time.
fn turned(x: &Tensor, cos: &Tensor, sin: &Tensor, is_forward: bool) -> TchTensor {
    let half = cos.size()[2];
    let [cos, sin] = [cos, sin].map(|table| table.unsqueeze(2).to_kind(x.kind()));
    let opposite = sin.neg();
    let [of_first, of_second] = if is_forward { [&opposite, &sin] } else { [&sin, &opposite] };
    let halves = |of: &Tensor| [of.narrow(3, 0, half), of.narrow(3, half, half)];
    let y = Tensor::empty(x.size(), (x.kind(), x.device()));
    let ([first, second], [y_first, y_second]) = (halves(x), halves(&y));
    for (out, along, across, sin) in [(y_first, &first, &second, of_first), (y_second, &second, &first, of_second)] {
        let _ = along.multiply_out(&out, &cos).addcmul_(across, sin);
    }
    TchTensor::new(y)
}

impl Rope for LibTorch {
    fn rope_forward(x: TchTensor, cos: TchTensor, sin: TchTensor) -> TchTensor {
        turned(&x.tensor, &cos.tensor, &sin.tensor, true)
    }
}

impl RopeBackward for LibTorch {
    fn rope_backward(grad: TchTensor, cos: TchTensor, sin: TchTensor) -> TchTensor {
        turned(&grad.tensor, &cos.tensor, &sin.tensor, false)
    }
}
