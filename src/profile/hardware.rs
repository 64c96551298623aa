//! What computes the operations of a device.

use burn::tensor::Device;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hardware {
    /// The processor.
    Processor,
    /// A GPU through CUDA.
    NvidiaGpu,
    /// A GPU through another interface, or a driver that emulates one.
    Other,
}

impl Hardware {
    /// That of a device, with or without gradients.
    pub fn of(device: &Device) -> Self {
        let name = format!("{:?}", device.as_dispatch());
        if ["Flex", "NdArray", "LibTorch(Cpu)"].iter().any(|backend| name.contains(backend)) {
            Self::Processor
        } else if name.contains("Cuda") {
            Self::NvidiaGpu
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "flex")]
    fn flex_is_the_processor() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            assert_eq!(Hardware::of(&device), Hardware::Processor);
        }
    }

    #[test]
    #[cfg(feature = "wgpu")]
    fn wgpu_is_neither_the_processor_nor_cuda() {
        let device = Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
        assert_eq!(Hardware::of(&device), Hardware::Other);
    }

    #[test]
    #[cfg(feature = "tch")]
    #[expect(deprecated, reason = "Burn keeps LibTorch for those who ask for it")]
    fn libtorch_is_what_it_was_opened_on() {
        assert_eq!(Hardware::of(&Device::libtorch()), Hardware::Processor);
        assert_eq!(Hardware::of(&Device::libtorch_cuda(0).autodiff()), Hardware::NvidiaGpu);
    }

    #[test]
    #[cfg(feature = "cuda")]
    fn cuda_is_a_gpu_of_nvidia() {
        assert_eq!(Hardware::of(&Device::cuda(0)), Hardware::NvidiaGpu);
    }
}
