//! What the system says of memory: how much there is, and the most that this process has had.

/// The highest resident set of this process so far, in bytes; `None` where the system does not tell (it does on Linux).
///
/// It never falls: what a model took that is gone still counts.
pub fn peak_rss_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// The memory of the machine, in bytes; `None` where the system does not tell.
pub fn total_memory_bytes() -> Option<u64> {
    field("/proc/meminfo", "MemTotal:")
}

/// A line of a file of the kernel, which counts in KiB.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<u64>().ok()? << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_to_raises_the_peak() {
        let before = peak_rss_bytes().expect("Linux tells");
        let written = std::hint::black_box(vec![1u8; before as usize + (64 << 20)]);
        assert!(peak_rss_bytes().expect("Linux tells") >= written.len() as u64);
        assert!(total_memory_bytes().expect("Linux tells") > before);
    }
}
