//! Times of modules over repetitions, and the clock that measured them.

use std::fmt;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::energy::EnergyCounter;
use super::module_time::{ModuleTime, module_times};
use super::throughput::RunTime;
use crate::kernel::launch_times::{LaunchTime, has_events, launch_times};
use crate::trace::{self, Span};

/// What measured the times of modules: `device_events` or `host_clock` in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// Events of the device around each kernel: [the time of its computation](launch_times), without that of the host.
    DeviceEvents,
    /// The clock of the host, which waits for the device at both ends of each module.
    HostClock,
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeviceEvents => "device events",
            Self::HostClock => "host clock",
        })
    }
}

/// Repetitions of a test by module.
pub(super) struct Samples {
    pub timing: Timing,
    /// The modules of each repetition.
    pub modules: Vec<Vec<ModuleTime>>,
    /// Nanoseconds of whole repetitions by the host's clock, without events; empty if it measured the modules, too.
    pub runs_ns: Vec<u64>,
    /// Joules during the repetitions without events, or all if none has them; `None` without a counter, or for too short a time.
    pub energy_j: Option<f64>,
}

impl Samples {
    /// Times so many repetitions by events where the device has them, and then as many without; else by the host's clock.
    pub(super) fn of(
        repetitions: usize,
        device: &Device,
        counter: Option<&EnergyCounter>,
        mut run: impl FnMut() -> RunTime,
    ) -> Self {
        let by_events: Option<Vec<_>> =
            (0..repetitions).map(|_| has_events(device).then(|| by_events(&mut run)).flatten()).collect();
        let energy = counter.and_then(EnergyCounter::start);
        let (timing, modules, runs_ns) = match by_events {
            Some(modules) => (Timing::DeviceEvents, modules, (0..repetitions).map(|_| run().total_ns).collect()),
            None => {
                let by_host = |_| module_times(&trace::record(device, &mut run).1);
                (Timing::HostClock, (0..repetitions).map(by_host).collect(), Vec::new())
            }
        };
        Self { timing, modules, runs_ns, energy_j: energy.and_then(|meter| meter.joules()) }
    }
}

/// A repetition by events; `None` if a kernel was not timed so.
fn by_events(run: &mut impl FnMut() -> RunTime) -> Option<Vec<ModuleTime>> {
    let ((_, mut spans), launches) = launch_times(|| trace::record_queued(run));
    set_durations(&mut spans, &launches?);
    Some(module_times(&spans))
}

/// Makes the duration of each span the time of the kernels that were launched in it, those of inner spans included.
fn set_durations(spans: &mut [Span], launches: &[LaunchTime]) {
    for span in &mut *spans {
        span.duration_ns = 0;
    }
    for launch in launches {
        spans[launch.span].duration_ns += launch.time_ns;
    }
    // By depth, the spans behind this one that no span before them has taken as its own.
    let mut inner_ns: Vec<u64> = Vec::new();
    for span in spans.iter_mut().rev() {
        inner_ns.resize(inner_ns.len().max(span.depth + 2), 0);
        span.duration_ns += std::mem::take(&mut inner_ns[span.depth + 1]);
        inner_ns[span.depth] += span.duration_ns;
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "flex")]
    use std::{fs, thread, time::Duration};

    use super::*;

    fn span(name: &'static str, depth: usize) -> Span {
        Span {
            name,
            index: None,
            depth,
            start_ns: 0,
            duration_ns: 7,
            flops: 0,
            bytes: 0,
            backward_flops: 0,
            backward_bytes: 0,
        }
    }

    #[test]
    fn each_module_has_the_kernels_that_were_launched_directly_in_it() {
        let mut spans = [("repetition", 0), ("layer", 1), ("mlp", 2), ("layer", 1), ("mlp", 2), ("lm_head", 1)]
            .map(|(name, depth)| span(name, depth));
        let launches = [(0, 1), (1, 2), (2, 4), (2, 8), (4, 16), (5, 32), (0, 64)]
            .map(|(span, time_ns)| LaunchTime { span, time_ns });
        set_durations(&mut spans, &launches);
        assert_eq!(spans.map(|span| span.duration_ns), [127, 14, 12, 16, 16, 32]);
        let times = module_times(&spans);
        let found: Vec<_> = times.iter().map(|time| (time.path.as_str(), time.time_ns)).collect();
        assert_eq!(found, [("", 65), ("layer", 2), ("layer.mlp", 28), ("lm_head", 32)]);
    }

    #[test]
    #[cfg(feature = "flex")]
    fn energy_is_that_of_as_many_repetitions_as_asked_for_whatever_times_the_modules() {
        let powercap = tempfile::tempdir().unwrap();
        let package = powercap.path().join("intel-rapl:0");
        let write = |joules: u64| fs::write(package.join("energy_uj"), (1_000_000 * joules).to_string()).unwrap();
        fs::create_dir(&package).unwrap();
        fs::write(package.join("name"), "package-0").unwrap();
        write(0);
        let counter = EnergyCounter::in_folder(powercap.path());
        let opened = crate::device::device("wgpu").inspect_err(|error| eprintln!("on flex alone: {error}"));
        for device in [Some(Device::flex()), opened.ok()].into_iter().flatten() {
            let mut num_runs = 0;
            let samples = Samples::of(3, &device, counter.as_ref(), || {
                num_runs += 1;
                write(num_runs);
                // Together longer than the counter resolves.
                thread::sleep(Duration::from_millis(5));
                RunTime { first_ns: None, total_ns: 1 }
            });
            let expected = if has_events(&device) { (6, Timing::DeviceEvents, 3) } else { (3, Timing::HostClock, 0) };
            assert_eq!((num_runs, samples.timing, samples.runs_ns.len()), expected);
            assert_eq!((samples.modules.len(), samples.energy_j), (3, Some(3.0)));
            write(0);
        }
    }

    #[test]
    fn records_spell_the_clocks_in_snake_case() {
        for (timing, name) in [(Timing::DeviceEvents, "\"device_events\""), (Timing::HostClock, "\"host_clock\"")] {
            assert_eq!(serde_json::to_string(&timing).unwrap(), name);
            assert_eq!(serde_json::from_str::<Timing>(name).unwrap(), timing);
        }
    }
}
