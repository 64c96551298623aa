//! Reads a header front to back, 64 KiB at a time, and nothing past the end of the file.

use super::GgufFault;
use super::failure::Failure;
use crate::output::disk::ReadAt;

const BUFFER_BYTES: usize = 64 << 10;

/// A place in a file, and what it belongs to.
pub(super) struct Cursor<'a> {
    file: &'a dyn ReadAt,
    file_bytes: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are behind the cursor.
    used: usize,
    /// Where in the file the buffer ends.
    buffered_to: u64,
    /// The key or tensor being read, for messages.
    pub place: String,
}

impl<'a> Cursor<'a> {
    /// At byte `offset`.
    pub fn new(file: &'a dyn ReadAt, file_bytes: u64, offset: u64) -> Self {
        Self { file, file_bytes, buffer: Vec::new(), used: 0, buffered_to: offset, place: "its beginning".to_owned() }
    }

    /// Where it stands.
    pub fn offset(&self) -> u64 {
        self.buffered_to - (self.buffer.len() - self.used) as u64
    }

    /// Bytes from here to the end of the file.
    pub fn left(&self) -> u64 {
        self.file_bytes - self.offset()
    }

    /// The next `count` bytes, at most 64 KiB.
    pub fn take(&mut self, count: usize) -> Result<&[u8], Failure> {
        if (count as u64) > self.left() {
            let (offset, left) = (self.offset(), self.left());
            return Err(
                GgufFault::HeaderCutShort { place: self.place.clone(), offset, needed: count as u64, left }.into()
            );
        }
        if self.buffer.len() - self.used < count {
            self.buffer.drain(..self.used);
            self.used = 0;
            let more = (BUFFER_BYTES.max(count) - self.buffer.len()) as u64;
            let (kept, more) = (self.buffer.len(), more.min(self.file_bytes - self.buffered_to) as usize);
            self.buffer.resize(kept + more, 0);
            self.file.read_exact_at(&mut self.buffer[kept..], self.buffered_to).map_err(Failure::Io)?;
            self.buffered_to += more as u64;
        }
        self.used += count;
        Ok(&self.buffer[self.used - count..self.used])
    }

    /// The next bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> Result<u32, Failure> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    pub fn u64(&mut self) -> Result<u64, Failure> {
        self.array().map(u64::from_le_bytes)
    }

    /// The length of a string, which lies in the file.
    pub fn text_length(&mut self) -> Result<u64, Failure> {
        let (offset, length) = (self.offset(), self.u64()?);
        match self.left() {
            left if length > left => Err(GgufFault::StringBeyondFile { offset, length, left }.into()),
            _ => Ok(length),
        }
    }

    /// The next `length` bytes as text, all of it in memory.
    pub fn text(&mut self, length: u64) -> Result<String, Failure> {
        let offset = self.offset();
        let mut bytes = Vec::with_capacity(length.min(self.left()) as usize);
        self.runs(length, |run| {
            bytes.extend_from_slice(run);
            true
        })?;
        String::from_utf8(bytes).map_err(|_| GgufFault::NotUtf8 { offset }.into())
    }

    /// Passes over text; it must be UTF-8 all the same.
    pub fn pass_text(&mut self, length: u64) -> Result<(), Failure> {
        let offset = self.offset();
        // The start of a character that the next run ends.
        let mut open: Vec<u8> = Vec::new();
        let mut sound = true;
        self.runs(length, |run| {
            open.extend_from_slice(run);
            match std::str::from_utf8(&open) {
                Ok(_) => open.clear(),
                Err(error) if error.error_len().is_none() => drop(open.drain(..error.valid_up_to())),
                Err(_) => sound = false,
            }
            sound
        })?;
        if sound && open.is_empty() { Ok(()) } else { Err(GgufFault::NotUtf8 { offset }.into()) }
    }

    /// The next `length` bytes run by run, until `take` wants no more.
    fn runs(&mut self, mut length: u64, mut take: impl FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        while length > 0 {
            let run = length.min(BUFFER_BYTES as u64);
            if !take(self.take(run as usize)?) {
                return Ok(());
            }
            length -= run;
        }
        Ok(())
    }

    /// Goes on `count` bytes from here, which lie in the file.
    pub fn skip(&mut self, count: u64) {
        let target = self.offset() + count;
        if target <= self.buffered_to {
            self.used += count as usize;
        } else {
            self.buffer.clear();
            (self.used, self.buffered_to) = (0, target);
        }
    }
}
