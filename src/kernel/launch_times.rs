//! The time of each kernel, by the clock of the device that computes it.

use burn::tensor::Device;

/// The time of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchTime {
    /// The place of the innermost span around its launch, among the spans of the thread's record.
    pub span: usize,
    /// Nanoseconds between an event before it and one after it, as the device reached them.
    pub time_ns: u64,
}

/// Whether kernels of this device are timed by events: on CUDA, and on wgpu where the driver has timestamps, but not on Metal.
pub fn has_events(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return super::cube::launches::has_events(device);
    #[cfg(not(feature = "cube"))]
    return {
        let _ = device;
        false
    };
}

/// Runs `work`, and returns its result with the time of every kernel that it launched from this thread in a span of a record.
/// `None` if one of them was not timed by events.
///
/// No launch waits for its kernel; the times are read after `work`, which waits for the device. But each launch waits until the
/// thread of CubeCL has recorded its events, where it is otherwise only queued, and wgpu submits each kernel alone: the host takes
/// longer.
///
/// Copies between host and device are not kernels, and are not timed. If the device is idle, it reaches the event before a kernel
/// while the host still launches the kernel, which adds some microseconds. Calls do not nest.
pub fn launch_times<R>(work: impl FnOnce() -> R) -> (R, Option<Vec<LaunchTime>>) {
    #[cfg(feature = "cube")]
    return {
        let (result, times) = super::cube::launches::launch_times(work);
        let nanoseconds = |(span, time): (usize, std::time::Duration)| LaunchTime {
            span,
            time_ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        };
        (result, times.map(|times| times.into_iter().map(nanoseconds).collect()))
    };
    #[cfg(not(feature = "cube"))]
    return (work(), None);
}

#[cfg(test)]
#[cfg(all(feature = "flex", feature = "wgpu"))]
mod tests {
    use std::time::Instant;

    use burn::tensor::{Distribution, Tensor};
    use burn_cubecl::cubecl::profile::TimingMethod;

    use super::*;
    use crate::device::device;
    use crate::trace::{record_queued, span};

    /// Three kernels, one of them in a span of its own.
    fn work(x: &Tensor<2>) -> Tensor<2> {
        let _outer = span("outer");
        let y = x.clone().exp();
        let z = {
            let _inner = span("inner");
            y.matmul(x.clone())
        };
        z.log()
    }

    fn operand(device: &Device) -> Tensor<2> {
        Tensor::random([256, 256], Distribution::Uniform(0.0, 1.0), device)
    }

    #[test]
    fn times_of_a_sequence_are_positive_and_no_longer_than_the_host_waits() {
        let Ok(device) = device("wgpu").inspect_err(|error| eprintln!("not run: {error}")) else { return };
        let x = operand(&device);
        // Compiles the kernels.
        work(&x);
        device.sync().unwrap();
        let start = Instant::now();
        let ((result, spans), times) = launch_times(|| record_queued(|| work(&x)));
        device.sync().unwrap();
        let host_ns = start.elapsed().as_nanos();
        drop(result);
        assert_eq!(times.is_some(), has_events(&device));
        let Some(times) = times else { return eprintln!("not run: the driver has no timestamps") };
        assert_eq!(spans.iter().map(|span| span.name).collect::<Vec<_>>(), ["outer", "inner"]);
        let in_span = |span: usize| times.iter().filter(move |time| time.span == span).count();
        assert!(in_span(0) >= 2 && in_span(1) >= 1, "{times:?}");
        assert!(times.iter().all(|time| time.time_ns > 0), "{times:?}");
        let sum_ns: u128 = times.iter().map(|time| u128::from(time.time_ns)).sum();
        assert!(sum_ns <= host_ns + host_ns / 20, "{sum_ns} of {host_ns} ns: {times:?}");
    }

    #[test]
    fn events_are_promised_where_the_device_measures_by_its_own_clock() {
        let Ok(device) = device("wgpu").inspect_err(|error| eprintln!("not run: {error}")) else { return };
        let x = operand(&device);
        let (_, profile) = device.profile(|| x.exp()).unwrap();
        eprintln!("timestamps of the driver: {}", has_events(&device));
        let is_by_device = profile.timing_method() == TimingMethod::Device;
        assert_eq!(has_events(&device), is_by_device && !cfg!(target_vendor = "apple"));
        assert_eq!(has_events(&device.clone().autodiff()), has_events(&device));
        assert!(!has_events(&Device::flex()));
    }

    #[test]
    fn launches_outside_of_spans_and_of_other_threads_are_left_out() {
        let Ok(device) = device("wgpu").inspect_err(|error| eprintln!("not run: {error}")) else { return };
        let x = operand(&device);
        let (_, times) = launch_times(|| {
            x.clone().exp();
            record_queued(|| {
                x.clone().exp();
                {
                    let _span = span("span");
                    x.clone().exp();
                }
                std::thread::scope(|scope| scope.spawn(|| record_queued(|| work(&x))).join().map(drop)).unwrap();
            });
        });
        assert_eq!(times.is_some(), has_events(&device));
        let Some(times) = times else { return eprintln!("not run: the driver has no timestamps") };
        assert_eq!(times.iter().map(|time| time.span).collect::<Vec<_>>(), [0]);
    }
}
