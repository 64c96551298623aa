//! What can be wrong with a safetensors file: one variant per rule.

use std::io;

use ::safetensors::Dtype as StoredDtype;

use crate::error::{ErrorKind, FileError, FileFault, InFile, cut, quoted};

/// A fault of a safetensors file.
pub type SafetensorsError = InFile<SafetensorsFault>;

/// Why a safetensors file is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsFault {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileFault),
    /// Shorter than a length and an empty header.
    #[error("has {found_bytes} bytes, expected at least 10: 8 for the header's length and 2 for a header")]
    TooShort {
        /// Size of the file.
        found_bytes: u64,
    },
    /// A Git LFS pointer in place of the weights.
    #[error(
        "is a Git LFS pointer to {} of {} bytes, expected weights: run `git lfs pull` where it came from",
        cut(.oid), cut(.size)
    )]
    LfsPointer {
        /// Hash of the weights, according to the pointer.
        oid: String,
        /// Their size in bytes, according to the pointer.
        size: String,
    },
    /// A server's answer was saved in place of the weights.
    #[error("is {found}, expected weights: download it again, logged in if the repository is gated")]
    NotWeights {
        /// Kind of file, with an article.
        found: &'static str,
    },
    /// A PyTorch pickle. Reading one can run code, so none is read.
    #[error("is a PyTorch pickle, which is never read, expected safetensors")]
    Pickle,
    /// A GGUF file under the wrong name.
    #[error("is GGUF, version {version}, expected safetensors: rename it to .gguf and give that path")]
    Gguf {
        /// Version of GGUF.
        version: u32,
    },
    /// The header is longer than the format allows.
    #[error("announces a header of {found_bytes} bytes, expected at most {limit_bytes}")]
    HeaderTooLong {
        /// The announced length.
        found_bytes: u64,
        /// The format's limit.
        limit_bytes: u64,
    },
    /// The header would end after the file.
    #[error("announces a header of {header_bytes} bytes, but only {left_bytes} follow")]
    HeaderBeyondFile {
        /// The announced length.
        header_bytes: u64,
        /// Bytes after the announcement.
        left_bytes: u64,
    },
    /// The header does not start as an object.
    #[error("has a header that starts with byte {found:#04x}, expected `{{`")]
    HeaderNotObject {
        /// First byte of the header.
        found: u8,
    },
    /// The header is padded with NULs, after which readers disagree on its end. The format pads with spaces.
    #[error("has NUL bytes at the end of its header, from byte {offset} of the file on, expected spaces")]
    NulPadding {
        /// Offset of the first NUL in the file.
        offset: u64,
    },
    /// The header is not JSON.
    #[error("{}", cut(.0))]
    Malformed(serde_json::Error),
    /// A name that is empty, too long, or contains control characters.
    #[error(
        "names a tensor {} ({found_bytes} bytes), expected 1 to {limit_bytes} bytes without control characters",
        quoted(.name)
    )]
    BadTensorName {
        /// The name, or its beginning.
        name: String,
        /// Its length.
        found_bytes: usize,
        /// The longest allowed.
        limit_bytes: usize,
    },
    /// More entries than any real file has.
    #[error("has {found} {what}, expected at most {limit}")]
    TooMany {
        /// The kind of entries, in the plural.
        what: &'static str,
        /// Their number.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A shape of more axes than any weight has.
    #[error("tensor {} has {found} axes, expected at most {limit}", quoted(.name))]
    TooManyAxes {
        /// The tensor.
        name: String,
        /// Number of axes.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Two tensors have one name: a reader that keeps the last would reinterpret the bytes of the first.
    #[error("defines tensor {} twice, expected once", quoted(.name))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// One object has a key twice.
    #[error("gives key {} of {} twice, expected once", quoted(.key), quoted(.name))]
    DuplicateKey {
        /// The tensor, or other object, with the key.
        name: String,
        /// The key.
        key: String,
    },
    /// A header entry is not `{dtype, shape, data_offsets}`.
    #[error("entry {}: {}, expected dtype, shape and data_offsets", quoted(.name), cut(.source))]
    BadTensorEntry {
        /// The tensor.
        name: String,
        /// The parser's complaint.
        source: serde_json::Error,
    },
    /// `__metadata__` is not an object of strings.
    #[error("__metadata__: {}, expected an object of strings", cut(.0))]
    BadMetadata(serde_json::Error),
    /// The format defines no such number type.
    #[error("tensor {} has dtype {}, expected one that safetensors defines", quoted(.name), quoted(.dtype))]
    UnknownDtype {
        /// The tensor.
        name: String,
        /// The type.
        dtype: String,
    },
    /// A tensor ends before it begins.
    #[error("tensor {} has offsets [{begin}, {end}], expected the first not above the second", quoted(.name))]
    OffsetsOutOfOrder {
        /// The tensor.
        name: String,
        /// First byte.
        begin: u64,
        /// Byte after the last.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("tensor {} begins at {begin}, inside the one before, which ends at {expected}", quoted(.name))]
    Overlap {
        /// The later tensor.
        name: String,
        /// Its first byte.
        begin: u64,
        /// End of the earlier one.
        expected: u64,
    },
    /// Bytes between two tensors belong to neither.
    #[error("tensor {} begins at {begin}, expected {expected}: a hole before it", quoted(.name))]
    Hole {
        /// The later tensor.
        name: String,
        /// Its first byte.
        begin: u64,
        /// End of the earlier one.
        expected: u64,
    },
    /// The header describes more bytes than the file has.
    #[error(
        "holds {found_bytes} bytes of tensors, expected {expected_bytes}: it is cut short {}, download it again",
        cut_after(.complete)
    )]
    Truncated {
        /// Bytes after the header.
        found_bytes: u64,
        /// Bytes that the header describes.
        expected_bytes: u64,
        /// The last complete tensor.
        complete: Option<String>,
    },
    /// Bytes after the last tensor.
    #[error("holds {found_bytes} bytes of tensors, expected {expected_bytes}: no tensor has the rest")]
    TrailingBytes {
        /// Bytes after the header.
        found_bytes: u64,
        /// Bytes that the header describes.
        expected_bytes: u64,
    },
    /// The size of a tensor exceeds 64 bits.
    #[error("tensor {} of shape {} has a size above 2^64 bits", quoted(.name), cut(&format!("{shape:?}")))]
    SizeOverflow {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Numbers of less than a byte do not fill whole bytes.
    #[error("tensor {} has {bits} bits, expected a multiple of 8", quoted(.name))]
    PartialByte {
        /// The tensor.
        name: String,
        /// Its size.
        bits: u64,
    },
    /// The span of a tensor disagrees with its shape and type.
    #[error("tensor {} spans {found_bytes} bytes, expected {expected_bytes}", quoted(.name))]
    SizeMismatch {
        /// The tensor.
        name: String,
        /// `end - begin`.
        found_bytes: u64,
        /// Product of the shape times the size of a number.
        expected_bytes: u64,
    },
    /// The tensor asked for is not in the file.
    #[error("has no tensor {}, expected one", quoted(.name))]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// The numbers of a tensor are smaller than a byte.
    #[error("tensor {} has dtype {found}, expected a type of whole bytes", quoted(.name))]
    UnsupportedDtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: StoredDtype,
    },
}

impl SafetensorsError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match &self.fault {
            SafetensorsFault::File(fault) => fault.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

impl From<FileError> for SafetensorsError {
    fn from(error: FileError) -> Self {
        Self { path: error.path, fault: SafetensorsFault::File(error.fault) }
    }
}

impl From<io::Error> for SafetensorsFault {
    fn from(error: io::Error) -> Self {
        Self::File(error.into())
    }
}

/// Where a truncated file ends.
fn cut_after(complete: &Option<String>) -> String {
    complete.as_ref().map_or_else(|| "in its first tensor".to_owned(), |name| format!("after tensor {}", quoted(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_truncated() {
        let name = format!("\u{1b}[31m\n{}", "x".repeat(1000));
        let message = InFile::new("model.safetensors", SafetensorsFault::MissingTensor { name }).to_string();
        assert!(message.contains(r"\u{1b}[31m\nxxx"), "{message}");
        assert!(!message.contains('\u{1b}') && !message.contains('\n'));
        assert!(message.len() < 400, "{} bytes", message.len());
    }
}
