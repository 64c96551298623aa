//! Peak use of the heap.

use std::hint::black_box;

use burn::tensor::Device;
use peakmem_alloc::{PeakMemAlloc, PeakMemAllocTrait};

use crate::kernel::CachingAllocator;

/// The allocator of tensors, which also counts live bytes. A binary registers it for its speed and for heap peaks:
///
/// ```
/// use deepwide::profile::heap::{COUNTING, CountingAllocator};
/// #[global_allocator]
/// static HEAP: &CountingAllocator = &COUNTING;
/// ```
pub static COUNTING: CountingAllocator = PeakMemAlloc::new(CachingAllocator::new());

/// Type of [`COUNTING`].
pub type CountingAllocator = PeakMemAlloc<CachingAllocator>;

/// Runs `work` and returns its result and the peak of the heap during it, in bytes above the use before. The peak is
/// `None` if the binary has not registered [`COUNTING`], or if tensors of `device` are not on the heap. Measurements do
/// not nest.
pub fn peak_bytes<R>(device: &Device, work: impl FnOnce() -> R) -> (R, Option<u64>) {
    let counted = is_registered() && is_on_the_heap(device);
    COUNTING.reset_peak_memory();
    let result = work();
    (result, counted.then(|| COUNTING.get_peak_memory() as u64))
}

fn is_registered() -> bool {
    COUNTING.reset_peak_memory();
    drop(black_box(Vec::<u8>::with_capacity(4096)));
    COUNTING.get_peak_memory() >= 4096
}

fn is_on_the_heap(device: &Device) -> bool {
    let device = format!("{:?}", device.as_dispatch());
    ["Flex", "NdArray"].iter().any(|backend| device.contains(backend))
}
