//! What computes the operations of a device.

use burn::backend::DispatchDevice;
use burn::tensor::Device;

use crate::kernel::dispatch_device;

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
    #[cfg_attr(feature = "tch", allow(deprecated, reason = "Burn keeps LibTorch for those who ask for it"))]
    pub fn of(device: &Device) -> Self {
        match dispatch_device(device) {
            #[cfg(feature = "flex")]
            DispatchDevice::Flex(_) => Self::Processor,
            #[cfg(feature = "ndarray")]
            DispatchDevice::NdArray(_) => Self::Processor,
            #[cfg(feature = "tch")]
            DispatchDevice::LibTorch(burn::backend::libtorch::LibTorchDevice::Cpu) => Self::Processor,
            #[cfg(feature = "tch")]
            DispatchDevice::LibTorch(burn::backend::libtorch::LibTorchDevice::Cuda(_)) => Self::NvidiaGpu,
            #[cfg(feature = "cuda")]
            DispatchDevice::Cube(burn_cubecl::CubeDevice::Cuda(_)) => Self::NvidiaGpu,
            _ => Self::Other,
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
    #[cfg(feature = "ndarray")]
    #[expect(deprecated, reason = "Burn keeps NdArray for those who ask for it")]
    fn ndarray_is_the_processor() {
        assert_eq!(Hardware::of(&Device::ndarray()), Hardware::Processor);
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
