//! Energy of a device, where the system tells: RAPL counters of Linux for the processor, NVML for an NVIDIA GPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::Device;

use super::hardware::Hardware;
use super::nvidia::NvidiaGpu;

/// Where Linux has the counters; reading them needs root on most systems.
const POWERCAP: &str = "/sys/class/powercap";

/// The counters of the processor or GPU that computes.
#[derive(Debug)]
pub struct EnergyCounter(Source);

#[derive(Debug)]
enum Source {
    /// The folder of each processor package.
    Processor(Vec<PathBuf>),
    Gpu(NvidiaGpu),
}

/// A measurement that is running.
#[derive(Debug)]
pub struct EnergyMeter<'a> {
    counter: &'a EnergyCounter,
    start: Instant,
    /// Of each counter.
    start_uj: Vec<u64>,
}

impl EnergyCounter {
    /// The counters of the processor or of the GPU that is `device`; `None` where none can be read.
    pub fn of(device: &Device) -> Option<Self> {
        match Hardware::of(device) {
            Hardware::Processor => Self::in_folder(Path::new(POWERCAP)),
            Hardware::NvidiaGpu => Some(Self(Source::Gpu(NvidiaGpu::of(device)?))),
            Hardware::Other => None,
        }
    }

    pub(super) fn in_folder(powercap: &Path) -> Option<Self> {
        let folders = fs::read_dir(powercap).ok()?.flatten().map(|entry| entry.path());
        // `intel-rapl:0` is a package, or `psys`, which contains the packages; `intel-rapl:0:1` is a part of one. AMD's
        // processors have the same names.
        let is_package = |folder: &PathBuf| {
            let folder_name = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let is_top = |index: &str| index.parse::<u32>().is_ok();
            let name = fs::read_to_string(folder.join("name")).unwrap_or_default();
            folder_name.strip_prefix("intel-rapl:").is_some_and(is_top) && name.starts_with("package-")
        };
        let packages: Vec<PathBuf> = folders.filter(is_package).collect();
        (!packages.is_empty()).then_some(Self(Source::Processor(packages)))
    }

    /// The GPU of this counter, which also reports its memory; `None` for a processor.
    pub fn gpu(&self) -> Option<&NvidiaGpu> {
        match &self.0 {
            Source::Processor(_) => None,
            Source::Gpu(gpu) => Some(gpu),
        }
    }

    /// Starts a measurement; `None` if the counters cannot be read.
    pub fn start(&self) -> Option<EnergyMeter<'_>> {
        Some(EnergyMeter { counter: self, start: Instant::now(), start_uj: self.read_uj()? })
    }

    fn read_uj(&self) -> Option<Vec<u64>> {
        match &self.0 {
            Source::Processor(packages) => packages.iter().map(|package| number(&package.join("energy_uj"))).collect(),
            Source::Gpu(gpu) => Some(vec![gpu.energy_uj()?]),
        }
    }

    /// Where counter `index` begins anew.
    fn range_uj(&self, index: usize) -> Option<u64> {
        match &self.0 {
            Source::Processor(packages) => number(&packages[index].join("max_energy_range_uj")),
            Source::Gpu(_) => None,
        }
    }

    /// The shortest time that the counters resolve: that of a GPU is renewed ten times a second.
    fn resolution(&self) -> Duration {
        match &self.0 {
            Source::Processor(_) => Duration::from_millis(10),
            Source::Gpu(_) => Duration::from_secs(1),
        }
    }
}

impl EnergyMeter<'_> {
    /// Joules since the start, of everything that the processor or GPU computed; `None` if that was too short a time. A counter that
    /// began anew has done so once.
    pub fn joules(&self) -> Option<f64> {
        if self.start.elapsed() < self.counter.resolution() {
            return None;
        }
        let now_uj = self.counter.read_uj()?;
        let used_uj =
            self.start_uj.iter().zip(now_uj).enumerate().map(|(index, (&start, now))| match now.checked_sub(start) {
                Some(used) => Some(used),
                None => Some(self.counter.range_uj(index)? - start + now),
            });
        Some(used_uj.sum::<Option<u64>>()? as f64 / 1e6)
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_alone_are_added_up_and_a_counter_may_begin_anew() {
        let powercap = tempfile::tempdir().unwrap();
        let write = |name: &str, file: &str, number: u64| {
            fs::write(powercap.path().join(name).join(file), format!("{number}\n")).unwrap();
        };
        assert!(EnergyCounter::in_folder(powercap.path()).is_none());
        for (folder, name) in [
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:1", "package-1-die-0"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl-mmio:0", "package-0"),
        ] {
            let folder = powercap.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        }
        write("intel-rapl:0", "energy_uj", 1_000_000);
        write("intel-rapl:1", "energy_uj", 9_000_000);
        write("intel-rapl:1", "max_energy_range_uj", 10_000_000);
        let others = ["intel-rapl:2", "intel-rapl:0:0", "intel-rapl-mmio:0"];
        for folder in others {
            write(folder, "energy_uj", 5);
        }
        let counter = EnergyCounter::in_folder(powercap.path()).unwrap();
        assert!(counter.gpu().is_none(), "a processor");
        let mut meter = counter.start().unwrap();
        assert_eq!(meter.joules(), None, "too short");
        meter.start -= counter.resolution();
        write("intel-rapl:0", "energy_uj", 1_500_000);
        write("intel-rapl:1", "energy_uj", 2_000_000);
        for folder in others {
            write(folder, "energy_uj", 4_000_000);
        }
        assert_eq!(meter.joules(), Some(0.5 + 3.0));
        assert!(EnergyCounter::in_folder(Path::new("/no/such/folder")).is_none());
    }
}
