//! The CPU time of other processes during a timing.

use std::fs;
use std::time::Instant;

/// Clock ticks per second of `/proc` (`USER_HZ`), which Linux fixes for user space.
const TICKS_PER_S: f64 = 100.0;

/// A measurement that is running.
#[derive(Debug)]
pub struct OtherLoad {
    start: Instant,
    /// Busy ticks of the machine, and of this process.
    ticks: Option<[u64; 2]>,
}

impl OtherLoad {
    /// Starts measuring.
    pub fn start() -> Self {
        Self { start: Instant::now(), ticks: ticks() }
    }

    /// CPUs that other processes kept busy on average since [`start`](Self::start): 0 on an idle machine, 1.0 if they used
    /// one CPU all the time. `None` where the system does not report it.
    pub fn cpus(&self) -> Option<f64> {
        let [machine, own] = self.ticks?;
        let [machine_now, own_now] = ticks()?;
        let other = machine_now.saturating_sub(machine).saturating_sub(own_now.saturating_sub(own));
        Some(other as f64 / TICKS_PER_S / self.start.elapsed().as_secs_f64().max(1.0 / TICKS_PER_S))
    }
}

fn ticks() -> Option<[u64; 2]> {
    let (machine, own) = (fs::read_to_string("/proc/stat").ok()?, fs::read_to_string("/proc/self/stat").ok()?);
    Some([busy_ticks(&machine)?, own_ticks(&own)?])
}

/// User, nice, system, irq, softirq and steal time of all CPUs.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].into_iter().map(|index| fields.get(index).copied()).sum()
}

/// User and system time of a process; its name, in parentheses, may contain spaces.
fn own_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_from_the_fields_of_proc() {
        assert_eq!(busy_ticks("cpu  10 1 5 1000 7 2 3 4 0 0\ncpu0 1 1"), Some(25));
        assert_eq!(busy_ticks("intr 5"), None);
        assert_eq!(own_ticks("42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20"), Some(100));
        assert_eq!(own_ticks("42 (name) S 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn own_work_is_not_other_load() {
        let load = OtherLoad::start();
        assert!(load.cpus().is_some_and(|cpus| cpus >= 0.0));
    }
}
