//! The lengths in an `.arrow` file, checked against its size: the library allocates as many bytes as a file says.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use arrow_ipc::{Block, root_as_footer, root_as_message};
use arrow_schema::ArrowError;

/// The word before the length of a message; files of old versions begin with the length.
const CONTINUATION: u32 = 0xFFFF_FFFF;
/// The length of the footer and the magic bytes behind it.
const TRAILER_BYTES: u64 = 10;

/// Checks the messages of a stream: each has a length, metadata, and a body whose length the metadata says.
///
/// # Errors
/// If a length is beyond the end of a stream of `size_bytes`, or metadata is broken.
pub(super) fn check_stream<R: Read + Seek>(stream: R, size_bytes: u64) -> Result<(), ArrowError> {
    let mut stream = BufReader::new(stream);
    loop {
        if stream.fill_buf()?.is_empty() {
            return Ok(());
        }
        let mut length = word(&mut stream)?;
        if length == CONTINUATION {
            length = word(&mut stream)?;
        }
        if length == 0 {
            return Ok(());
        }
        let mut metadata = vec![0; within(length.into(), size_bytes)? as usize];
        stream.read_exact(&mut metadata)?;
        let message = root_as_message(&metadata).map_err(|error| ArrowError::ParseError(error.to_string()))?;
        stream.seek_relative(within(message.bodyLength(), size_bytes)? as i64)?;
        within(stream.stream_position()? as i64, size_bytes)?;
    }
}

/// Checks the blocks that the footer of a file lists.
///
/// # Errors
/// If a block is beyond the end of a file of `size_bytes`, or the footer is broken.
pub(super) fn check_file<R: Read + Seek>(mut file: R, size_bytes: u64) -> Result<(), ArrowError> {
    let footer_end = size_bytes.checked_sub(TRAILER_BYTES).ok_or_else(|| beyond(TRAILER_BYTES as i64, size_bytes))?;
    file.seek(SeekFrom::Start(footer_end))?;
    let length = within(word(&mut file)?.into(), footer_end)?;
    file.seek(SeekFrom::Start(footer_end - length))?;
    let mut footer = vec![0; length as usize];
    file.read_exact(&mut footer)?;
    let footer = root_as_footer(&footer).map_err(|error| ArrowError::ParseError(error.to_string()))?;
    let blocks = footer.dictionaries().into_iter().chain(footer.recordBatches()).flatten();
    let check = |block: &Block| {
        let parts = [block.offset(), block.metaDataLength().into(), block.bodyLength()];
        let ends = parts.into_iter().map(|part| within(part, size_bytes));
        let end = ends.sum::<Result<u64, ArrowError>>()?;
        within(end as i64, size_bytes).map(|_| ())
    };
    blocks.into_iter().try_for_each(check)
}

fn word(stream: &mut impl Read) -> io::Result<u32> {
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    Ok(u32::from_le_bytes(word))
}

/// A length that fits a file.
fn within(length: i64, size_bytes: u64) -> Result<u64, ArrowError> {
    u64::try_from(length).ok().filter(|length| *length <= size_bytes).ok_or_else(|| beyond(length, size_bytes))
}

fn beyond(length: i64, size_bytes: u64) -> ArrowError {
    ArrowError::ParseError(format!("found a length of {length} bytes in a file of {size_bytes}"))
}
