//! A stream that may not stand still: bytes that drip in count for as little as none.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// What has to arrive in each period of grace.
const LEAST_BYTES: usize = 1 << 10;

/// Reads on as long as at least 1 KiB arrives in each period.
pub(super) struct Watched<R> {
    inner: R,
    grace: Duration,
    since: Instant,
    bytes: usize,
}

impl<R: Read> Watched<R> {
    pub fn new(inner: R, grace: Duration) -> Self {
        Self { inner, grace, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count;
        if self.bytes >= LEAST_BYTES {
            (self.since, self.bytes) = (Instant::now(), 0);
        } else if count > 0 && self.since.elapsed() > self.grace {
            let message = format!("less than {LEAST_BYTES} bytes arrived in {:?}", self.grace);
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives some bytes at a time, without end, after a rest.
    struct Dripping(usize);

    impl Read for Dripping {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            Ok(self.0.min(buffer.len()))
        }
    }

    #[test]
    fn a_stream_that_drips_is_ended_and_one_that_flows_is_not() {
        let grace = Duration::from_millis(20);
        let mut dripping = Watched::new(Dripping(1), grace);
        let error = io::copy(&mut dripping, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut flowing = Watched::new(Dripping(2048), grace).take(200 * 2048);
        assert_eq!(io::copy(&mut flowing, &mut io::sink()).unwrap(), 200 * 2048);
    }
}
