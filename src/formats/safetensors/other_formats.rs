//! Recognizes other formats under the name of a safetensors file.

use super::fault::SafetensorsFault;
use crate::output::disk::ReadAt;

/// Bytes to look at; a Git LFS pointer is no longer.
const LOOKED_AT: u64 = 200;

/// Refuses a file of another format. A sound file is never refused: byte 8 of a safetensors file is `{`.
pub(super) fn refuse(file: &dyn ReadAt, file_bytes: u64) -> Result<(), SafetensorsFault> {
    let mut start = vec![0; file_bytes.min(LOOKED_AT) as usize];
    file.read_exact_at(&mut start, 0)?;
    if start.get(8) == Some(&b'{') {
        return Ok(());
    }
    if start.starts_with(b"version https://git-lfs") {
        let text = String::from_utf8_lossy(&start);
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown").to_owned();
        Err(SafetensorsFault::LfsPointer { oid: line("oid "), size: line("size ") })
    } else if start.starts_with(b"PK\x03\x04") || matches!(start[..], [0x80, 2..=5, ..]) {
        Err(SafetensorsFault::Pickle)
    } else if let Some(version) = start.strip_prefix(b"GGUF").and_then(|rest| rest.first_chunk()) {
        Err(SafetensorsFault::Gguf { version: u32::from_le_bytes(*version) })
    } else if let Some(found) = kind_of_text(&start) {
        Err(SafetensorsFault::NotWeights { found })
    } else {
        Ok(())
    }
}

/// Recognizes a server's answer. As a header's length, eight letters would be more than 2^60 bytes.
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
