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

/// Bytes in use: live bytes of the heap, or reserved by the pool of a device with memory of its own; `None` if the
/// binary has not registered [`CountingAllocator`] and the device has no pool.
pub fn live_bytes(device: &Device) -> Option<u64> {
    match device.memory_pool_usage() {
        Some(usage) => Some(usage.bytes_reserved),
        None => Some(CountingAllocator.current_usage() as u64).filter(|bytes| *bytes > 0),
    }
}

/// Runs `work` and returns its result with the most [`live_bytes`] during it beyond those before it. A device's pool
/// keeps what it once reserved, so that its use at the end is its peak.
pub fn peak_bytes<R>(device: &Device, work: impl FnOnce() -> R) -> (R, Option<u64>) {
    let before = live_bytes(device);
    CountingAllocator.reset_peak_usage();
    let result = work();
    let peak = match device.memory_pool_usage() {
        Some(usage) => usage.bytes_reserved,
        None => CountingAllocator.peak_usage() as u64,
    };
    (result, before.map(|before| peak.saturating_sub(before)))
}
