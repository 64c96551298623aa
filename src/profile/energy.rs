//! Energy of the processor, where the system tells: RAPL counters of Linux.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux has the counters; reading them needs root on most systems.
const POWERCAP: &str = "/sys/class/powercap";

/// A measurement that is running: the counter of each processor package.
#[derive(Debug)]
pub struct EnergyMeter {
    packages: Vec<Package>,
}

#[derive(Debug)]
struct Package {
    folder: PathBuf,
    start_uj: u64,
}

impl EnergyMeter {
    /// Starts measuring; `None` where there is no counter that may be read.
    pub fn start() -> Option<Self> {
        Self::start_in(Path::new(POWERCAP))
    }

    fn start_in(powercap: &Path) -> Option<Self> {
        let folders = fs::read_dir(powercap).ok()?.flatten().map(|entry| entry.path());
        // `intel-rapl:0` is a package, `intel-rapl:0:1` a part of it; AMD's processors have the same names.
        let is_package = |folder: &PathBuf| {
            let name = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            name.strip_prefix("intel-rapl:").is_some_and(|index| index.parse::<u32>().is_ok())
        };
        let package = |folder: PathBuf| {
            let start_uj = number(&folder.join("energy_uj"))?;
            Some(Package { folder, start_uj })
        };
        let packages: Vec<Package> = folders.filter(is_package).filter_map(package).collect();
        (!packages.is_empty()).then_some(Self { packages })
    }

    /// Joules of all packages since the start, of everything that the machine computed. A counter that began anew has done so once.
    pub fn joules(&self) -> Option<f64> {
        let of = |package: &Package| {
            let now = number(&package.folder.join("energy_uj"))?;
            match now.checked_sub(package.start_uj) {
                Some(used) => Some(used),
                None => Some(number(&package.folder.join("max_energy_range_uj"))? - package.start_uj + now),
            }
        };
        let used: Option<Vec<u64>> = self.packages.iter().map(of).collect();
        Some(used?.into_iter().sum::<u64>() as f64 / 1e6)
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_added_up_and_a_counter_may_begin_anew() {
        let powercap = tempfile::tempdir().unwrap();
        let write = |name: &str, file: &str, number: u64| {
            let folder = powercap.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), format!("{number}\n")).unwrap();
        };
        assert!(EnergyMeter::start_in(powercap.path()).is_none());
        write("intel-rapl:0", "energy_uj", 1_000_000);
        write("intel-rapl:1", "energy_uj", 9_000_000);
        write("intel-rapl:1", "max_energy_range_uj", 10_000_000);
        write("intel-rapl:0:0", "energy_uj", 5);
        let meter = EnergyMeter::start_in(powercap.path()).unwrap();
        write("intel-rapl:0", "energy_uj", 1_500_000);
        write("intel-rapl:1", "energy_uj", 2_000_000);
        write("intel-rapl:0:0", "energy_uj", 4_000_000);
        assert_eq!(meter.joules(), Some(0.5 + 3.0));
        assert!(EnergyMeter::start_in(Path::new("/no/such/folder")).is_none());
    }
}
