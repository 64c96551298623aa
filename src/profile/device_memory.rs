//! Memory of a device's tensors: counted on the heap, or reported by the pool of the device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use burn::tensor::Device;

use super::heap;
use crate::trace::MemoryProbe;

/// Time between two looks at a pool: short beside an update, long beside the launch of an operation.
const INTERVAL: Duration = Duration::from_millis(10);

/// Reads the memory in use on `device`. `None` if its tensors are neither on a [counted heap](heap::is_counted) nor in a pool that
/// reports its use, as those of CubeCL's devices are.
///
/// The heap also has the peak between two calls. A pool has none: there it is what is in use at the call.
pub fn probe_of(device: &Device) -> Option<MemoryProbe> {
    if heap::is_counted(device) {
        return Some(|_| heap::probe());
    }
    pool_bytes(device).map(|_| of_pool as MemoryProbe)
}

fn of_pool(device: &Device) -> [u64; 2] {
    [pool_bytes(device).unwrap_or(0); 2]
}

/// Runs `work` and returns its result and the peak of the memory of `device` during it, in bytes above the use before. The peak is
/// `None` if the memory [cannot be read](probe_of). That of a pool is the highest of samples, one in ten milliseconds, which disturb
/// timings. Measurements do not nest.
///
/// # Panics
/// If `work` does.
pub fn peak_bytes<R>(device: &Device, work: impl FnOnce() -> R) -> (R, Option<u64>) {
    if heap::is_counted(device) {
        return heap::peak_bytes(device, work);
    }
    let Some(before) = pool_bytes(device) else { return (work(), None) };
    let is_done = AtomicBool::new(false);
    let sample = || {
        let mut highest = before;
        while !is_done.load(Ordering::Relaxed) {
            highest = pool_bytes(device).map_or(highest, |bytes| highest.max(bytes));
            thread::sleep(INTERVAL);
        }
        highest
    };
    thread::scope(|scope| {
        let sampler = scope.spawn(sample);
        let done = SetOnDrop(&is_done);
        let result = work();
        let after = pool_bytes(device).unwrap_or(before);
        drop(done);
        let highest = sampler.join().ok();
        (result, highest.map(|highest| highest.max(after) - before))
    })
}

/// Ends the sampler, also after a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn pool_bytes(device: &Device) -> Option<u64> {
    device.memory_pool_usage().map(|usage| usage.bytes_in_use)
}

#[cfg(test)]
#[cfg(all(feature = "flex", feature = "wgpu"))]
mod tests {
    use burn::tensor::Tensor;

    use super::*;
    use crate::device::device;

    /// 64 MiB, much more than other tests allocate on the device meanwhile.
    const SHAPE: [usize; 2] = [4096, 4096];
    const BYTES: u64 = 4 * 4096 * 4096;

    fn is_near(bytes: u64) -> bool {
        bytes.abs_diff(BYTES) < BYTES / 4
    }

    #[test]
    fn a_pool_shows_a_tensor_while_it_lives() {
        let Ok(device) = device("wgpu").inspect_err(|error| eprintln!("not run: {error}")) else { return };
        let ((), peak) = peak_bytes(&device, || {
            let tensor = Tensor::<2>::ones(SHAPE, &device);
            device.sync().unwrap();
            thread::sleep(5 * INTERVAL);
            drop(tensor);
        });
        let peak = peak.expect("a pool");
        assert!(is_near(peak), "{peak}");
        let probe = probe_of(&device).expect("a pool");
        let [before, _] = probe(&device);
        let tensor = Tensor::<2>::ones(SHAPE, &device);
        let [after, _] = probe(&device);
        assert!(is_near(after - before), "{}", after - before);
        drop(tensor);
    }

    #[test]
    #[should_panic(expected = "on purpose")]
    fn a_panic_ends_the_sampler() {
        let Ok(device) = device("wgpu") else { panic!("not run, on purpose") };
        peak_bytes(&device, || -> () { panic!("on purpose") });
    }
}
