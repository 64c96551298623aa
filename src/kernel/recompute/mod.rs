//! Segments of a model that keep their input only, and are computed again for their gradient (Chen et al., 2016,
//! arXiv:1604.06174, §3).
//!
//! Burn's own checkpointing computes single operations again, those that it marks as memory bound. The operations of this
//! crate save what their gradients need, so a segment is the unit here.

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;

use std::fmt::Debug;
use std::sync::Arc;
#[cfg(feature = "flex")]
use std::sync::Mutex;

use burn::backend::DispatchTensor;
#[cfg(feature = "flex")]
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, Tensor};

/// Whether segments on this device can be computed again.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device)
}

/// A function of one tensor with its parameters, which are used nowhere else.
pub trait Segment: Debug + Send + Sync + 'static {
    /// Computes the segment again from its input, without a graph, and the gradients of `Σ y∘dy + Σ scores∘dscores`.
    ///
    /// # Shapes
    /// - `x`, `dy`: those of the input and of `y`
    /// - `dscores`: that of `scores`; `None` if nothing depends on them
    fn backward(&self, x: Tensor<3>, dy: Tensor<3>, dscores: Option<Tensor<2>>) -> SegmentGradients;
}

/// The results of a segment.
#[derive(Debug, Clone)]
pub struct SegmentOutput {
    /// The main result.
    pub y: Tensor<3>,
    /// A second result, such as the scores of a router.
    pub scores: Option<Tensor<2>>,
}

/// The gradients of a segment, without graphs.
#[derive(Debug)]
pub struct SegmentGradients {
    /// Of its input.
    pub x: Tensor<3>,
    /// Parameters, each with its gradient.
    pub parameters: Vec<(DispatchTensor, DispatchTensor)>,
}

/// Gives `output`, which a segment computed from `x` without gradients, the gradient that the segment computes.
///
/// # Panics
/// If `x` is on a device that records no gradients or has no kernel.
pub fn recomputed(x: Tensor<3>, output: SegmentOutput, segment: Arc<dyn Segment>) -> SegmentOutput {
    assert!(has_kernel(&x.device()), "segments on {:?} cannot be computed again", x.device());
    #[cfg(feature = "flex")]
    let output = with_nodes(x, output, segment);
    #[cfg(not(feature = "flex"))]
    let _ = segment;
    output
}

#[cfg(feature = "flex")]
fn with_nodes(x: Tensor<3>, output: SegmentOutput, segment: Arc<dyn Segment>) -> SegmentOutput {
    // The node is tracked even if its input is not: the gradients of its parameters depend on it.
    let anchor = Tensor::<1>::zeros([1], &x.device()).require_grad();
    let dscores = ScoresGradient::default();
    let y = Tensor::from_dispatch(<Dispatch as Recompute>::recomputed(
        x.into_dispatch(),
        anchor.into_dispatch(),
        output.y.into_dispatch(),
        segment,
        dscores.clone(),
    ));
    let scores = output.scores.map(|scores| {
        let y: Tensor<3> = Tensor::clone(&y);
        Tensor::from_dispatch(<Dispatch as Recompute>::observed(y.into_dispatch(), scores.into_dispatch(), dscores))
    });
    SegmentOutput { y, scores }
}

/// The gradient of the scores of a segment, on its way to the node of the segment.
#[cfg(feature = "flex")]
#[derive(Debug, Clone, Default)]
struct ScoresGradient(Arc<Mutex<Option<DispatchTensor>>>);

#[cfg(feature = "flex")]
impl ScoresGradient {
    fn put(&self, gradient: DispatchTensor) {
        *self.0.lock().expect("nothing panics with it") = Some(gradient);
    }

    fn take(&self) -> Option<Tensor<2>> {
        self.0.lock().expect("nothing panics with it").take().map(Tensor::from_dispatch)
    }
}

/// The operations of a backend. Without gradients they give back what was computed.
#[cfg(feature = "flex")]
#[backend_extension(Flex, Autodiff)]
trait Recompute: Backend {
    /// `y`, whose gradient the segment computes from `x`.
    fn recomputed(
        _x: FloatTensor<Self>,
        _anchor: FloatTensor<Self>,
        y: FloatTensor<Self>,
        _segment: Arc<dyn Segment>,
        _dscores: ScoresGradient,
    ) -> FloatTensor<Self> {
        y
    }

    /// `scores`, whose gradient waits for the node of `y`, which runs after it.
    fn observed(_y: FloatTensor<Self>, scores: FloatTensor<Self>, _dscores: ScoresGradient) -> FloatTensor<Self> {
        scores
    }
}

/// The tensors of a backend as those of any backend, for [`Autodiff`](burn::backend::Autodiff).
#[cfg(feature = "flex")]
trait RecomputeBackward: Recompute {
    /// A tensor without a graph.
    fn dispatch(tensor: FloatTensor<Self>) -> DispatchTensor;
    /// Back.
    fn primitive(tensor: DispatchTensor) -> FloatTensor<Self>;
    /// The node of a parameter.
    fn node_id(parameter: DispatchTensor) -> burn::backend::autodiff::NodeId;
}
