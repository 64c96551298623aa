//! What lies under the name of a safetensors file and is none.

use std::path::Path;

use crate::error::FileError;
use crate::output::disk::ReadAt;
use crate::weights::WeightError;

/// Bytes that tell: a pointer of Git LFS is no longer.
const LOOKED_AT: u64 = 200;

/// Only looks where no header can be, so that no sound file is taken for another: byte 8 of a safetensors file is `{`.
pub(super) fn refuse(path: &Path, file: &dyn ReadAt, file_bytes: u64) -> Result<(), WeightError> {
    let mut start = vec![0; file_bytes.min(LOOKED_AT) as usize];
    file.read_exact_at(&mut start, 0).map_err(FileError::io(path))?;
    if start.get(8) == Some(&b'{') {
        return Ok(());
    }
    let path = path.to_owned();
    if start.starts_with(b"version https://git-lfs") {
        let text = String::from_utf8_lossy(&start);
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown").to_owned();
        Err(WeightError::LfsPointer { path, oid: line("oid "), size: line("size ") })
    } else if start.starts_with(b"PK\x03\x04") || matches!(start[..], [0x80, 2..=5, ..]) {
        Err(WeightError::Pickle { path })
    } else if let Some(version) = start.strip_prefix(b"GGUF").and_then(|rest| rest.first_chunk()) {
        Err(WeightError::Gguf { path, version: u32::from_le_bytes(*version) })
    } else if let Some(found) = kind_of_text(&start) {
        Err(WeightError::NotWeights { path, found })
    } else {
        Ok(())
    }
}

/// What a server answers in place of a file. Eight letters would be a length of more than 2^60 bytes.
fn kind_of_text(start: &[u8]) -> Option<&'static str> {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let letters = |bytes: &[u8]| bytes.iter().all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let lower = text.trim_ascii_start().to_ascii_lowercase();
    match lower.get(..8) {
        _ if lower.starts_with(b"<!doctype") || lower.starts_with(b"<html") => Some("an HTML page"),
        Some(_) if !letters(&text[..text.len().min(64)]) => None,
        Some([b'<', ..]) => Some("an XML document"),
        Some([b'{' | b'[', ..]) => Some("JSON text"),
        Some(_) => Some("text"),
        None => None,
    }
}
