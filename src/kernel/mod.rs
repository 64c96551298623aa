//! The operations that decide how fast a decoder is, each with a plain reference beside it.
//!
//! A file is one operation: a public function over tensors, its `…_reference` composed of Burn's own operations
//! (runs on every backend, differentiable by construction), and bodies written by hand for the backends that
//! have one, with their gradients. The public function takes the hand-written body where there is one and the
//! reference elsewhere; tests hold the two to the same numbers. Nothing here knows a layer or a config.
//!
//! Kernels multiply float32 activations; weights may be float32, float16 or bfloat16 and are widened on the way.

pub mod adamw;
pub mod attention;
pub mod embedding;
pub mod expert_mlp;
pub mod flop_counter;
pub mod linear;
pub mod linear_cross_entropy;
pub mod projections;
pub mod quantized_linear;
pub mod rms_norm;
pub mod rope;
pub mod silu_mul;

mod allocator;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(all(test, feature = "flex"))]
mod fixture;

use burn::tensor::Device;

pub use allocator::CachingAllocator;

/// Whether tensors on this device have hand-written bodies.
fn has_kernel(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    return {
        let _ = device;
        false
    };
}
