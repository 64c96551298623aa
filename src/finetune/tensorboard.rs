//! TensorBoard event files.
//!
//! A file is a list of records: the length (u64), its checksum, the bytes, their checksum. Checksums are masked CRC-32C. The
//! bytes are an `Event` of TensorFlow's `event.proto`, of which only scalars are written.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::LogEntry;

/// An event file, open for the lines of a log.
#[derive(Debug)]
pub struct EventFile(File);

impl EventFile {
    /// Creates the file of a process in a directory, which is made if it does not exist. TensorBoard reads all files of a
    /// directory as one run.
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let name = format!("events.out.tfevents.{}.deepwide.{}", now().as_secs(), std::process::id());
        let mut file = Self(File::create(directory.join(name))?);
        let mut event = Vec::new();
        double(&mut event, 1, now().as_secs_f64());
        bytes(&mut event, 3, b"brain.Event:2");
        file.record(&event)?;
        Ok(file)
    }

    /// Writes the numbers of a line as scalars at its step; the load of the experts is a scalar for each.
    ///
    /// # Errors
    /// I/O errors.
    pub fn push(&mut self, entry: &LogEntry) -> io::Result<()> {
        let step = entry.get("step").and_then(serde_json::Value::as_u64).unwrap_or(0);
        for (key, value) in entry.iter().filter(|(key, _)| *key != "step") {
            let tag = key.strip_prefix("eval_").map_or_else(|| format!("train/{key}"), |key| format!("eval/{key}"));
            match value {
                serde_json::Value::Array(values) => {
                    for (index, value) in values.iter().enumerate() {
                        self.scalar(&format!("{tag}/{index}"), value.as_f64(), step)?;
                    }
                }
                value => self.scalar(&tag, value.as_f64(), step)?,
            }
        }
        self.0.flush()
    }

    fn scalar(&mut self, tag: &str, value: Option<f64>, step: u64) -> io::Result<()> {
        let Some(value) = value else { return Ok(()) };
        let mut point = Vec::new();
        bytes(&mut point, 1, tag.as_bytes());
        point.push(2 << 3 | 5);
        point.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &point);
        let mut event = Vec::new();
        double(&mut event, 1, now().as_secs_f64());
        event.push(2 << 3);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, event: &[u8]) -> io::Result<()> {
        let len = (event.len() as u64).to_le_bytes();
        let mut record = len.to_vec();
        record.extend(masked(&len).to_le_bytes());
        record.extend(event);
        record.extend(masked(event).to_le_bytes());
        self.0.write_all(&record)
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field of wire type 1.
fn double(message: &mut Vec<u8>, field: u8, value: f64) {
    message.push(field << 3 | 1);
    message.extend(value.to_le_bytes());
}

/// A field of wire type 2.
fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_tensorflow_writes() {
        // `EventFileWriter` of tensorboard 2.20 begins every file with the version, here at time 0.
        let mut event = Vec::new();
        double(&mut event, 1, 0.0);
        bytes(&mut event, 3, b"brain.Event:2");
        assert_eq!(event.len(), 24);
        assert_eq!(masked(&24u64.to_le_bytes()), 0x224b_7fa3);
    }

    #[test]
    fn numbers_above_seven_bits_take_several_bytes() {
        let mut message = Vec::new();
        varint(&mut message, 300);
        assert_eq!(message, [0xac, 0x02]);
    }
}
