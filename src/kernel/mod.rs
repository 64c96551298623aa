//! The performance-critical operations of a decoder, each with a plain reference.
//!
//! One folder per operation:
//!
//! - `mod.rs`: the public function, its contract and reference, and an extension trait with the operation on a backend.
//!   `has_kernel` says on which devices the public function calls the trait; elsewhere it calls the reference, which
//!   is composed of Burn's operations, runs on every backend and is differentiable by construction.
//! - `autodiff.rs`: the gradient, once, generic over the backend below.
//! - `cpu.rs`: the body for Flex, on slices, built from `cpu/`.
//! - `cube.rs`: the body for CUDA, Vulkan and other GPUs, in CubeCL; `cube/` beside this file has what they share, and
//!   quantized matrices.
//! - `torch.rs`: the body for libtorch, by ATen's operations; `torch.rs` beside this file has what they share.
//!
//! [`graph`] records what a device launches, and replays it.
//!
//! Tests compare every body with the reference, gradients included, and those of `device/` run both on every device. To add a
//! backend, list it in the `backend_extension` attribute, implement the trait in a file beside `cpu.rs`, and extend
//! `has_kernel`. Only public functions count FLOPs. Nothing here depends on layers or configs.
//!
//! Activations are float32, or on libtorch and GPUs bfloat16 after products with bfloat16 weights ([`linear`]). Weights may be float32,
//! float16, bfloat16 or quantized. They are widened on the fly, except that libtorch and GPUs multiply bfloat16 as it is, and GPUs
//! float16.

#![cfg_attr(feature = "tch", expect(deprecated, reason = "Burn keeps LibTorch for those who ask for it"))]

pub mod adamw;
pub mod attention;
pub mod blocks;
pub mod dropout;
pub mod embedding;
pub mod expert_mlp;
pub mod graph;
pub mod launch_times;
pub mod linear;
pub mod linear_cross_entropy;
pub mod quantized_weight;
pub mod recompute;
pub mod rms_norm;
pub mod rope;
pub mod silu_mul;
pub mod top_k_softmax;

mod allocator;
mod counting_allocator;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(all(test, feature = "flex"))]
mod fixture;
#[cfg(feature = "tch")]
mod torch;

use burn::backend::DispatchDevice;
use burn::tensor::Device;

pub use allocator::CachingAllocator;
pub use counting_allocator::CountingAllocator;

/// The vector instructions that the CPU kernels of this build use on this machine.
pub fn vector_instructions() -> &'static str {
    #[cfg(feature = "flex")]
    return cpu::instructions();
    #[cfg(not(feature = "flex"))]
    return "none: built without flex";
}

/// The matrix instructions that products with bfloat16 weights use on this CPU, if it has any.
pub fn matrix_instructions() -> Option<&'static str> {
    #[cfg(feature = "flex")]
    return cpu::matrix_instructions();
    #[cfg(not(feature = "flex"))]
    return None;
}

/// The device of the backend that computes, without the one that records gradients.
pub(crate) fn dispatch_device(device: &Device) -> DispatchDevice {
    device.clone().inner().as_dispatch().clone()
}

/// Whether this is the CPU backend that the kernels are written for, with or without gradients.
fn is_flex(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    return {
        let _ = device;
        false
    };
}

/// Whether this is a device of libtorch, a CPU or a GPU, with or without gradients.
fn is_libtorch(device: &Device) -> bool {
    #[cfg(feature = "tch")]
    return matches!(dispatch_device(device), DispatchDevice::LibTorch(_));
    #[cfg(not(feature = "tch"))]
    return {
        let _ = device;
        false
    };
}

/// Whether this is a GPU of libtorch, with or without gradients.
fn is_libtorch_cuda(device: &Device) -> bool {
    #[cfg(feature = "tch")]
    return matches!(
        dispatch_device(device),
        DispatchDevice::LibTorch(burn::backend::libtorch::LibTorchDevice::Cuda(_))
    );
    #[cfg(not(feature = "tch"))]
    return {
        let _ = device;
        false
    };
}

/// Whether this is a device of CubeCL, CUDA or Vulkan, with or without gradients.
fn is_cube(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return matches!(dispatch_device(device), DispatchDevice::Cube(_));
    #[cfg(not(feature = "cube"))]
    return {
        let _ = device;
        false
    };
}
