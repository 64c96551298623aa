//! Events around launches, from CubeCL's observer of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use burn::backend::DispatchDevice;
use burn::tensor::Device;
use burn_cubecl::cubecl::future::block_on;
use burn_cubecl::cubecl::logging::{LaunchObservation, LaunchObserver, TimingRequest};
use burn_cubecl::cubecl::profile::{Duration, Instant, ProfileDuration, ProfileTicks, TimingMethod};

use crate::kernel::dispatch_device;
use crate::trace::innermost;

/// CubeCL has one observer a process.
static OBSERVING: Mutex<()> = Mutex::new(());

pub fn has_events(device: &Device) -> bool {
    match dispatch_device(device) {
        DispatchDevice::Cube(device) => is_by_events(device.client().properties().timing_method),
        _ => false,
    }
}

/// Whether the device stamps events while the host goes on. Metal's timestamps do not count: for them, CubeCL drains the queue
/// before each kernel and waits for it (`TimestampSampling` in cubecl-wgpu).
fn is_by_events(method: TimingMethod) -> bool {
    method == TimingMethod::Device && !cfg!(target_vendor = "apple")
}

/// With the result of `work`, the place of the span and the time of each launch; `None` if one was not timed by events.
pub fn launch_times<R>(work: impl FnOnce() -> R) -> (R, Option<Vec<(usize, Duration)>>) {
    let _one_at_a_time = locked(&OBSERVING);
    let launches = Arc::new(Launches { thread: thread::current().id(), seen: Mutex::default() });
    let observation = LaunchObservation::new(launches.clone());
    let result = work();
    drop(observation);
    let Seen { num_launches, unread } = std::mem::take(&mut *locked(&launches.seen));
    // The measurement of a launch can be refused, and then only the launch was seen.
    let is_complete = unread.len() == num_launches;
    let times = unread.into_iter().map(|(span, profile)| {
        let method = profile.timing_method();
        let ticks = block_on(profile.resolve()).filter(|_| is_by_events(method))?;
        Some((span, ticks.duration()))
    });
    (result, if is_complete { times.collect() } else { None })
}

/// The launches of a thread that are in a span.
struct Launches {
    thread: ThreadId,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    num_launches: usize,
    /// Spans of the launches that were measured, and the measurements, which are read at the end: reading waits for the device.
    unread: Vec<(usize, ProfileDuration)>,
}

impl Launches {
    fn keep(&self, profile: ProfileDuration) {
        if let Some(span) = self.span() {
            locked(&self.seen).unread.push((span, profile));
        }
    }

    /// The place of the span in which the calling thread launches.
    fn span(&self) -> Option<usize> {
        innermost().filter(|_| thread::current().id() == self.thread)
    }
}

impl LaunchObserver for Launches {
    fn launched(&self, _: &'static str) {
        if self.span().is_some() {
            locked(&self.seen).num_launches += 1;
        }
    }

    fn timing(&self) -> TimingRequest {
        TimingRequest::Deferred
    }

    fn profiled(&self, _: &'static str, profile: ProfileDuration) {
        self.keep(profile);
    }

    /// Instead of [`profiled`](Self::profiled) if CubeCL also writes times to its log.
    fn timed(&self, _: &'static str, duration: Duration, method: TimingMethod) {
        let start = Instant::now();
        let ticks = ProfileTicks::from_start_end(start, start + duration);
        self.keep(ProfileDuration::new(Box::pin(async { Some(ticks) }), method));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
