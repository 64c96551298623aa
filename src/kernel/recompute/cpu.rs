//! Conversions of Flex tensors. They do not look at the rank.

use burn::backend::autodiff::NodeId;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, DispatchTensor, Flex};
use burn::tensor::Tensor;

use super::{Recompute, RecomputeBackward};

impl Recompute for Flex {}

impl RecomputeBackward for Flex {
    fn dispatch(tensor: FloatTensor<Self>) -> DispatchTensor {
        Tensor::<1>::from_primitive::<Self>(tensor).into_dispatch()
    }

    fn primitive(tensor: DispatchTensor) -> FloatTensor<Self> {
        Tensor::<1>::from_dispatch(tensor).try_into_primitive::<Self>().expect("a gradient on Flex")
    }

    fn node_id(parameter: DispatchTensor) -> NodeId {
        let parameter = Tensor::<1>::from_dispatch(parameter).try_into_primitive::<Autodiff<Self>>();
        parameter.expect("a parameter that is trained on Flex").id()
    }
}
