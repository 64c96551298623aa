//! Quantized experts of a layer.

use std::ops::Deref;

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

#[cfg(feature = "cube")]
use crate::kernel::cube::WordStack;
use crate::kernel::quantized_weight::QuantizedWeight;

/// The matrices of one expert.
#[derive(Module, Debug)]
pub struct QuantizedExpert {
    /// `[intermediate_size, hidden_size]`.
    pub gate: QuantizedWeight,
    /// `[intermediate_size, hidden_size]`.
    pub up: QuantizedWeight,
    /// `[hidden_size, intermediate_size]`.
    pub down: QuantizedWeight,
}

impl QuantizedExpert {
    /// Gate, up and down.
    pub fn matrices(&self) -> [&QuantizedWeight; 3] {
        [&self.gate, &self.up, &self.down]
    }
}

/// The experts of a layer, frozen. Equal matrices may share memory.
#[derive(Debug, Clone)]
pub struct QuantizedExperts {
    experts: Vec<QuantizedExpert>,
    /// Gate, up and down of all experts.
    #[cfg(feature = "cube")]
    stacks: Option<[WordStack; 3]>,
}

impl QuantizedExperts {
    /// On devices of CubeCL, the matrices of a projection are moved into one buffer if they have the same format and the device has
    /// such a large one, so that a kernel finds those of an expert that only the device knows.
    pub fn new(experts: Vec<QuantizedExpert>) -> Self {
        #[cfg(feature = "cube")]
        let (experts, stacks) = stacked(experts);
        Self {
            experts,
            #[cfg(feature = "cube")]
            stacks,
        }
    }

    /// Whether a kernel on this device takes the experts if tokens visit them so many times. On devices of CubeCL, many visits
    /// need a buffer for all matrices of a projection in float32.
    pub fn has_kernel(&self, device: &Device, num_visits: usize) -> bool {
        #[cfg(feature = "cube")]
        let is_stacked = self
            .stacks
            .as_ref()
            .is_some_and(|stacks| stacks.iter().all(|stack| stack.reads_blocks(num_visits) || stack.can_dequantize()));
        #[cfg(not(feature = "cube"))]
        let is_stacked = {
            let _ = num_visits;
            false
        };
        !device.is_autodiff() && (crate::kernel::is_flex(device) || is_stacked)
    }

    /// Gate, up and down of all experts.
    ///
    /// # Panics
    /// If they are not on a device of CubeCL, or the matrices of a projection differ in format or are too large for one buffer.
    #[cfg(feature = "cube")]
    pub(super) fn stacks(&self) -> &[WordStack; 3] {
        self.stacks.as_ref().expect("experts in stacks")
    }
}

#[cfg(feature = "cube")]
fn stacked(mut experts: Vec<QuantizedExpert>) -> (Vec<QuantizedExpert>, Option<[WordStack; 3]>) {
    let mut stack = |matrix: fn(&mut QuantizedExpert) -> &mut QuantizedWeight| {
        QuantizedWeight::stack(experts.iter_mut().map(matrix))
    };
    let gate = stack(|expert| &mut expert.gate);
    let up = stack(|expert| &mut expert.up);
    let down = stack(|expert| &mut expert.down);
    let stacks = gate.zip(up).zip(down).map(|((gate, up), down)| [gate, up, down]);
    (experts, stacks)
}

impl Deref for QuantizedExperts {
    type Target = [QuantizedExpert];

    fn deref(&self) -> &Self::Target {
        &self.experts
    }
}

impl Module for QuantizedExperts {
    fn visit<V: ModuleVisitor>(&self, _visitor: &mut V) {}

    fn map<M: ModuleMapper>(self, _mapper: &mut M) -> Self {
        self
    }

    fn to_device(self, device: &Device) -> Self {
        Self::new(self.experts.to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        self.experts.collect_devices(devices)
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        Self::new(self.experts.valid())
    }

    fn train(self) -> Self {
        Self::new(self.experts.train())
    }
}

impl ModuleDisplayDefault for QuantizedExperts {
    fn content(&self, content: Content) -> Option<Content> {
        self.experts.content(content)
    }
}

impl ModuleDisplay for QuantizedExperts {}
