//! Memory as the system reports it: that of the machine, and the peak of this process.

/// Peak resident set of this process so far, in bytes; `None` where the system does not report it (Linux does).
///
/// It never falls, not even when a model is dropped.
pub fn peak_rss_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Resident set of this process now, in bytes; `None` where the system does not report it.
pub fn rss_bytes() -> Option<u64> {
    field("/proc/self/status", "VmRSS:")
}

/// The memory of the machine, or of the container that this process runs in, in bytes; `None` where the system does not
/// report it.
pub fn total_memory_bytes() -> Option<u64> {
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|limit| limit.trim().parse().ok());
    field("/proc/meminfo", "MemTotal:").map(|total| limit.map_or(total, |limit: u64| limit.min(total)))
}

/// The memory that a process could take without swapping, in bytes; `None` where the system does not report it.
pub fn available_memory_bytes() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// A line of a file under `/proc`, in KiB there.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<u64>().ok()? << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn written_memory_raises_the_peak() {
        let before = peak_rss_bytes().expect("Linux reports it");
        let written = std::hint::black_box(vec![1u8; before as usize + (64 << 20)]);
        assert!(peak_rss_bytes().expect("Linux reports it") >= written.len() as u64);
        assert!(total_memory_bytes().expect("Linux reports it") > before);
    }
}
