//! The highest use of memory during some work.

use burn::tensor::Device;
/// The allocator that counts. A binary that wants heap peaks registers it:
///
/// ```
/// use deepwide::profile::heap::CountingAllocator;
/// #[global_allocator]
/// static HEAP: CountingAllocator = CountingAllocator;
/// ```
pub use peak_alloc::PeakAlloc as CountingAllocator;

/// Runs `work` and returns its result with the most bytes that were in use during it beyond those in use before.
///
/// On the host: live bytes of the heap, counted by [`CountingAllocator`]; `None` if the binary has not registered it.
/// On a device with memory of its own: bytes that the device's pool reserved, at the end of the work.
pub fn peak_bytes<R>(device: &Device, work: impl FnOnce() -> R) -> (R, Option<u64>) {
    let reserved = || device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    let (heap, pool) = (CountingAllocator.current_usage(), reserved());
    CountingAllocator.reset_peak_usage();
    let result = work();
    let peak = match (pool, reserved()) {
        (Some(before), Some(after)) => Some(after.saturating_sub(before)),
        _ if heap == 0 => None,
        _ => Some((CountingAllocator.peak_usage().saturating_sub(heap)) as u64),
    };
    (result, peak)
}
