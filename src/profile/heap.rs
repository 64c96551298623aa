//! Use of the heap: now, and at its peak.

use burn::backend::DispatchDevice;
use burn::tensor::Device;

use crate::kernel::{CachingAllocator, CountingAllocator as Counting, dispatch_device};

/// The allocator of tensors, which also counts live bytes. A binary registers it for its speed and for heap peaks:
///
/// ```
/// use deepwide::profile::heap::{COUNTING, CountingAllocator};
/// #[global_allocator]
/// static HEAP: &CountingAllocator = &COUNTING;
/// ```
pub static COUNTING: CountingAllocator = Counting::new(CachingAllocator::new());

/// Type of [`COUNTING`].
pub type CountingAllocator = Counting<CachingAllocator>;

/// Runs `work` and returns its result and the peak of the heap during it, in bytes above the use before. The peak is
/// `None` if the heap [is not counted](is_counted). Measurements do not nest.
pub fn peak_bytes<R>(device: &Device, work: impl FnOnce() -> R) -> (R, Option<u64>) {
    let counted = is_counted(device);
    let before = COUNTING.live_bytes();
    COUNTING.reset_peak();
    let result = work();
    (result, counted.then(|| COUNTING.peak_bytes().saturating_sub(before) as u64))
}

/// Bytes in use now, and the most since the last call or [`peak_bytes`]: a
/// [`MemoryProbe`](crate::trace::MemoryProbe).
pub fn probe() -> [u64; 2] {
    let found = [COUNTING.live_bytes() as u64, COUNTING.peak_bytes() as u64];
    COUNTING.reset_peak();
    found
}

/// Whether the tensors of `device` are on a heap that is counted: the binary has registered [`COUNTING`], and the device is the CPU.
pub fn is_counted(device: &Device) -> bool {
    is_registered() && is_on_the_heap(device)
}

/// A process whose heap is counted has some of it in use.
fn is_registered() -> bool {
    COUNTING.live_bytes() > 0
}

/// Whether a backend takes the memory of its tensors from Rust's allocator, which libtorch does not.
fn is_on_the_heap(device: &Device) -> bool {
    match dispatch_device(device) {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "flex")]
    fn tensors_of_flex_are_on_the_heap_with_or_without_gradients() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            assert!(is_on_the_heap(&device), "{device:?}");
        }
    }

    #[test]
    #[cfg(feature = "tch")]
    #[expect(deprecated, reason = "Burn keeps LibTorch for those who ask for it")]
    fn tensors_of_libtorch_are_not() {
        assert!(!is_on_the_heap(&Device::libtorch()));
    }
}
