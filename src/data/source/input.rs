//! The bytes of a file of data, decompressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::MultiGzDecoder;

use super::error::SourceFault;
use super::format::Compression;
use crate::error::FileFault;

const BUFFER_BYTES: usize = 1 << 18;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Opens a regular file, no pipe or device, which might never end, and checks that it is no Git LFS pointer.
///
/// # Errors
/// [`SourceFault::File`], [`SourceFault::LfsPointer`].
pub(super) fn open_file(path: &Path) -> Result<File, SourceFault> {
    // Before opening, which blocks on a pipe without writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(SourceFault::File(FileFault::NotAFile));
    }
    let mut head = Vec::new();
    (&File::open(path)?).take(LFS_POINTER.len() as u64).read_to_end(&mut head)?;
    if head == LFS_POINTER {
        return Err(SourceFault::LfsPointer);
    }
    Ok(File::open(path)?)
}

/// Bytes of a file read so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) read_bytes: AtomicU64,
    hash: Mutex<blake3::Hasher>,
}

impl Tally {
    fn add(&self, bytes: &[u8]) {
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.hash.lock().unwrap_or_else(PoisonError::into_inner).update(bytes);
    }

    /// BLAKE3 of the bytes, in hexadecimal.
    pub(super) fn blake3(&self) -> String {
        self.hash.lock().unwrap_or_else(PoisonError::into_inner).finalize().to_hex().to_string()
    }
}

/// Opens a file as a stream of decompressed bytes, without a byte-order mark at its start. Bytes read from disk are counted and
/// hashed in `tally`.
///
/// # Errors
/// As [`open_file`]; [`SourceFault::BadCompression`].
pub(super) fn open(
    path: &Path,
    compression: Compression,
    tally: &Arc<Tally>,
) -> Result<Box<dyn BufRead + Send>, SourceFault> {
    let file = BufReader::with_capacity(BUFFER_BYTES, Tallied(open_file(path)?, Arc::clone(tally)));
    let mut stream: Box<dyn BufRead + Send> = match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => decompressed(MultiGzDecoder::new(file), "gzip"),
        Compression::Zstd => decompressed(zstd::stream::read::Decoder::with_buffer(file)?, "Zstandard"),
    };
    let mut head = Vec::new();
    stream.by_ref().take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut head)?;
    if head == BYTE_ORDER_MARK {
        head.clear();
    }
    Ok(Box::new(Cursor::new(head).chain(stream)))
}

fn decompressed(stream: impl Read + Send + 'static, expected: &'static str) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, Decompressed { stream, expected }))
}

/// Tallies the bytes that are read.
struct Tallied(File, Arc<Tally>);

impl Read for Tallied {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.add(&buffer[..count]);
        Ok(count)
    }
}

/// Turns the errors of a decompressor into [`SourceFault::BadCompression`].
struct Decompressed<R> {
    stream: R,
    expected: &'static str,
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let expected = self.expected;
        self.stream.read(buffer).map_err(|found| match found.raw_os_error() {
            Some(_) => found,
            None => io::Error::other(SourceFault::BadCompression { found, expected }),
        })
    }
}

/// A stream that fails once more than `left` bytes were read from it: bounds what a parser above it can gather.
pub(super) struct Limited<R> {
    stream: R,
    left_bytes: u64,
}

impl<R> Limited<R> {
    pub(super) fn new(stream: R, limit_bytes: u64) -> Self {
        Self { stream, left_bytes: limit_bytes }
    }

    /// Allows `limit_bytes` from here on.
    pub(super) fn refill(&mut self, limit_bytes: u64) {
        self.left_bytes = limit_bytes;
    }

    /// Whether it has failed, or the next byte would make it.
    pub(super) fn is_spent(&self) -> bool {
        self.left_bytes == 0
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_spent() && !buffer.is_empty() {
            return Err(io::Error::other("a row is too long"));
        }
        let len = buffer.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        let count = self.stream.read(&mut buffer[..len])?;
        self.left_bytes -= count as u64;
        Ok(count)
    }
}
