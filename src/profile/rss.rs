//! The highest resident memory of the process.

/// The highest resident set of this process so far, in bytes; `None` where the system does not tell (it does on Linux).
///
/// It never falls: what a model took that is gone still counts.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
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
    }
}
