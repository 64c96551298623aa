//! What can be wrong with weights on disk: one variant per rule.
//!
//! Every message names the file, what was found and what was expected. Names from a file are hostile: they are
//! shown escaped and cut at 200 characters.

mod shown;

use std::path::PathBuf;

use shown::{axes, cut_after, listed, or_tied};

use crate::config::ConfigError;
use crate::error::{ErrorKind, FileError, cut, quoted};
use crate::formats::gguf::{GgufFault, VocabularyError};
use crate::weights::{Dtype, TensorId};

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The text is not JSON, or not of the form that its format calls for.
    #[error("{path:?}: {}", cut(.source))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and expected, with line and column.
        source: serde_json::Error,
    },

    /// A safetensors file has at least a length and an empty header.
    #[error("{path:?} has {found_bytes} bytes, expected at least 10: 8 for the header's length and 2 for a header")]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
    },
    /// A pointer of Git LFS stands in place of the weights.
    #[error(
        "{path:?} is a Git LFS pointer to {} of {} bytes, expected weights: run `git lfs pull` where it came from",
        cut(.oid), cut(.size)
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// The hash of the weights, as the pointer has it.
        oid: String,
        /// Their size in bytes, as the pointer has it.
        size: String,
    },
    /// What a server answered was saved in place of the weights.
    #[error("{path:?} is {found}, expected weights: download it again, logged in if they are not for everybody")]
    NotWeights {
        /// The file.
        path: PathBuf,
        /// What it is, with an article.
        found: &'static str,
    },
    /// PyTorch's pickles can run code when they are read; they never are.
    #[error("{path:?} is a PyTorch pickle, which is never read, expected safetensors")]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A GGUF file under the wrong name.
    #[error("{path:?} is GGUF, version {version}, expected safetensors: call it .gguf and name the file itself")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The version of GGUF.
        version: u32,
    },
    /// The header is longer than the format allows.
    #[error("{path:?} announces a header of {found_bytes} bytes, expected at most {limit_bytes}")]
    HeaderTooLong {
        /// The file.
        path: PathBuf,
        /// The length that the file announces.
        found_bytes: u64,
        /// The format's limit.
        limit_bytes: u64,
    },
    /// The header would end after the file.
    #[error("{path:?} announces a header of {header_bytes} bytes, but only {left_bytes} follow")]
    HeaderBeyondFile {
        /// The file.
        path: PathBuf,
        /// The length that the file announces.
        header_bytes: u64,
        /// Bytes after the announcement.
        left_bytes: u64,
    },
    /// The header does not start as an object.
    #[error("{path:?} has a header that starts with byte {found:#04x}, expected `{{`")]
    HeaderNotObject {
        /// The file.
        path: PathBuf,
        /// The first byte of the header.
        found: u8,
    },
    /// The format pads a header with spaces; after NULs, readers disagree where it ends.
    #[error("{path:?} has NUL bytes at the end of its header, from byte {offset} of the file on, expected spaces")]
    NulPadding {
        /// The file.
        path: PathBuf,
        /// The first of them, counted from the start of the file.
        offset: u64,
    },
    /// A name that is no name, or would move the cursor of a terminal.
    #[error(
        "{path:?} names a tensor {} ({found_bytes} bytes), expected 1 to {limit_bytes} bytes without control characters",
        quoted(.name)
    )]
    BadTensorName {
        /// The file.
        path: PathBuf,
        /// The name, or its beginning.
        name: String,
        /// Its length.
        found_bytes: usize,
        /// The longest allowed.
        limit_bytes: usize,
    },
    /// More of something than any real file has.
    #[error("{path:?} has {found} {what}, expected at most {limit}")]
    TooMany {
        /// The file.
        path: PathBuf,
        /// Of what, in the plural.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A shape of more axes than any weight has.
    #[error("{path:?}: tensor {} has {found} axes, expected at most {limit}", quoted(.name))]
    TooManyAxes {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Two tensors have one name: a reader that keeps the last would reinterpret the bytes of the first.
    #[error("{path:?} defines tensor {} twice, expected once", quoted(.name))]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A key stands twice at the top level: one of its values would be lost.
    #[error("{path:?} gives key {} twice, expected once", quoted(.key))]
    RepeatedKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// Lists and objects in one another, deeper than any real file.
    #[error("{path:?} nests lists and objects more than {limit} deep, which no real file does")]
    TooDeep {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A key stands twice in one object.
    #[error("{path:?} gives key {} of {} twice, expected once", quoted(.key), quoted(.name))]
    DuplicateKey {
        /// The file.
        path: PathBuf,
        /// The tensor, or other object, with the key.
        name: String,
        /// The key.
        key: String,
    },
    /// A header entry is not `{dtype, shape, data_offsets}`.
    #[error("{path:?}: entry {}: {}, expected dtype, shape and data_offsets", quoted(.name), cut(.source))]
    BadTensorEntry {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was found and expected.
        source: serde_json::Error,
    },
    /// `__metadata__` is not an object of strings.
    #[error("{path:?}: __metadata__: {}, expected an object of strings", cut(.source))]
    BadMetadata {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        source: serde_json::Error,
    },
    /// The format knows no such number type.
    #[error("{path:?}: tensor {} has dtype {}, expected one that safetensors defines", quoted(.name), quoted(.dtype))]
    UnknownDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was found.
        dtype: String,
    },
    /// A tensor ends before it begins.
    #[error("{path:?}: tensor {} has offsets [{begin}, {end}], expected the first not above the second", quoted(.name))]
    OffsetsOutOfOrder {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// First byte.
        begin: u64,
        /// Byte after the last.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("{path:?}: tensor {} begins at {begin}, inside the one before, which ends at {expected}", quoted(.name))]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The later tensor.
        name: String,
        /// Where it begins.
        begin: u64,
        /// Where it should.
        expected: u64,
    },
    /// Bytes between two tensors belong to neither.
    #[error("{path:?}: tensor {} begins at {begin}, expected {expected}: a hole before it", quoted(.name))]
    Hole {
        /// The file.
        path: PathBuf,
        /// The later tensor.
        name: String,
        /// Where it begins.
        begin: u64,
        /// Where it should.
        expected: u64,
    },
    /// The header promises more data than there is.
    #[error(
        "{path:?} holds {found_bytes} bytes of tensors, expected {expected_bytes}: it is cut short {}, download it again",
        cut_after(.complete)
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes after the header.
        found_bytes: u64,
        /// Bytes that the header describes.
        expected_bytes: u64,
        /// The last tensor that is whole.
        complete: Option<String>,
    },
    /// Data follows the last tensor.
    #[error("{path:?} holds {found_bytes} bytes of tensors, expected {expected_bytes}: the rest are nobody's")]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Bytes after the header.
        found_bytes: u64,
        /// Bytes that the header describes.
        expected_bytes: u64,
    },
    /// The size of a tensor does not fit 64 bits.
    #[error("{path:?}: tensor {} of shape {} has a size above 2^64 bits", quoted(.name), cut(&format!("{shape:?}")))]
    SizeOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Numbers of less than a byte do not fill whole bytes.
    #[error("{path:?}: tensor {} has {bits} bits, expected a multiple of 8", quoted(.name))]
    PartialByte {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its size.
        bits: u64,
    },
    /// The span of a tensor is not what its shape and type take.
    #[error("{path:?}: tensor {} spans {found_bytes} bytes, expected {expected_bytes}", quoted(.name))]
    SizeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// `end - begin`.
        found_bytes: u64,
        /// Product of the shape times the size of a number.
        expected_bytes: u64,
    },

    /// The sizes in `config.json` make no decoder.
    #[error("{path:?}: {source}")]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// The broken rule.
        source: ConfigError,
    },
    /// `config.json` asks for something that these decoders do not compute.
    #[error("{path:?}: {key} is {}, expected {expected}", cut(.found))]
    Unsupported {
        /// The `config.json`.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// A value is not of the kind that its key calls for.
    #[error("{path:?}: {}: {}", quoted(.key), cut(.source))]
    BadValue {
        /// The `config.json`.
        path: PathBuf,
        /// The key at the top level.
        key: String,
        /// What was found and expected, with line and column.
        source: serde_json::Error,
    },
    /// A key that other keys make necessary is absent.
    #[error("{path:?} has no {key}, expected one beside {beside}")]
    MissingKey {
        /// The `config.json`.
        path: PathBuf,
        /// The absent key.
        key: &'static str,
        /// The key that needs it.
        beside: &'static str,
    },
    /// Two spellings of one setting have different values.
    #[error("{path:?}: {first} is {first_found} but {second} is {second_found}, expected the same")]
    KeysDisagree {
        /// The `config.json`.
        path: PathBuf,
        /// One key.
        first: &'static str,
        /// Its value.
        first_found: String,
        /// The other key.
        second: &'static str,
        /// Its value.
        second_found: String,
    },
    /// A list with an entry for each layer has another length.
    #[error("{path:?}: {key} has {found} entries, expected {expected}, one for each of num_hidden_layers")]
    ListLength {
        /// The `config.json`.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its length.
        found: usize,
        /// Layers.
        expected: usize,
    },
    /// Without `head_dim`, heads share the hidden size out evenly.
    #[error(
        "{path:?}: hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}, expected one or a head_dim"
    )]
    NoHeadDim {
        /// The `config.json`.
        path: PathBuf,
        /// Width of the residual stream.
        hidden_size: usize,
        /// Query heads.
        num_attention_heads: usize,
    },

    /// The directory has no weights that can be read.
    #[error("{path:?} has neither model.safetensors nor model.safetensors.index.json{beside}")]
    NoWeights {
        /// The directory.
        path: PathBuf,
        /// What lies there instead, after a comma, or nothing.
        beside: &'static str,
    },
    /// A single file and an index to other files lie side by side.
    #[error(
        "{path:?} has both model.safetensors and an index that does not name it, expected one of them: remove the older"
    )]
    AmbiguousWeights {
        /// The directory.
        path: PathBuf,
    },
    /// A shard's name would lead out of the directory.
    #[error("{path:?} names shard {}, expected a plain file name", quoted(.shard))]
    UnsafeShardName {
        /// The index.
        path: PathBuf,
        /// What it names.
        shard: String,
    },
    /// The index names a shard that is not there.
    #[error("{path:?} names {missing} of {total} shards that do not exist: {}", listed(.names, *.missing))]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The first of them, by name.
        names: Vec<String>,
        /// How many are missing.
        missing: usize,
        /// How many there should be.
        total: usize,
    },
    /// The index assigns a tensor to a shard that lacks it.
    #[error("{path:?} lacks tensor {}, which the index assigns to it", quoted(.name))]
    NotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A shard holds a tensor that the index does not assign to it.
    #[error("{path:?} holds tensor {}, which the index does not assign to it", quoted(.name))]
    NotInIndex {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A shard holds a tensor that the index assigns to another.
    #[error("{path:?} holds tensor {}, which the index assigns to {}", quoted(.name), quoted(.shard))]
    InOtherShard {
        /// The shard that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shard that should.
        shard: String,
    },
    /// The files hold more layers than the config has, or fewer.
    #[error("{path:?} holds {found} layers, expected {expected} by num_hidden_layers")]
    LayerCount {
        /// The directory.
        path: PathBuf,
        /// One more than the highest layer.
        found: usize,
        /// `num_hidden_layers`.
        expected: usize,
    },
    /// Tied embeddings beside a head that is none of them: transformers takes the one or the other, by its version.
    #[error(
        "{path:?}: tie_word_embeddings is true, but lm_head.weight is not model.embed_tokens.weight, expected no such tensor or tie_word_embeddings false"
    )]
    HeadNotTied {
        /// The directory.
        path: PathBuf,
    },
    /// A tensor that was asked for, or that the config calls for, is not there.
    #[error("{path:?} has no tensor {}, expected one{}", quoted(.name), or_tied(.name))]
    MissingTensor {
        /// The directory or file.
        path: PathBuf,
        /// The first missing tensor, in the order of the forward pass.
        name: String,
    },
    /// A tensor that the config does not call for: leaving it out could change the model.
    #[error("{path:?} holds tensor {}, which a decoder of this config.json does not have", quoted(.name))]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A weight does not have the shape that the config gives it.
    #[error(
        "{path:?}: tensor {} has shape {}, expected {expected:?}{}",
        quoted(.name), cut(&format!("{found:?}")), axes(.name)
    )]
    ShapeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the config gives it.
        expected: Vec<usize>,
    },
    /// A weight is of a type of less than a byte, or one that nothing here can hold.
    #[error("{path:?}: tensor {} has dtype {found}, expected a type of whole bytes", quoted(.name))]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: ::safetensors::Dtype,
    },
    /// A weight is copied as it is, but cannot be computed with.
    #[error("{id} holds {found}, expected {expected}")]
    NotComputable {
        /// The weight.
        id: TensorId,
        /// Its type.
        found: Dtype,
        /// What can be computed with.
        expected: &'static str,
    },
    /// Rounded to a type of smaller range, a finite number would become infinite.
    #[error("{id} holds {value} at place {place}, beyond the range of {dtype}")]
    Overflow {
        /// The weight.
        id: TensorId,
        /// Place of the first such number, row-major.
        place: usize,
        /// The number.
        value: f64,
        /// The type it was to be rounded to.
        dtype: Dtype,
    },

    /// A weight holds a number that is none.
    #[error("{id} holds {value} at place {place}, expected a finite number")]
    NotFinite {
        /// The weight.
        id: TensorId,
        /// Place of the first such value, row-major.
        place: usize,
        /// The value.
        value: f64,
    },
    /// A weight holds a number that the type to write cannot.
    #[error("{id} holds {found}, which {file_type} cannot, expected a number within its range")]
    NotWritable {
        /// The weight.
        id: TensorId,
        /// The first such number.
        found: f32,
        /// The type.
        file_type: &'static str,
    },
    /// A vocabulary breaks a rule, or does not fit the model.
    #[error("{path:?}: {source}")]
    Vocabulary {
        /// The file that it comes from or goes to.
        path: PathBuf,
        /// The broken rule.
        source: VocabularyError,
    },
    /// A directory holds a checkpoint in each of two formats.
    #[error(
        "both {gguf:?} and {safetensors:?} are there, expected one format: give the GGUF file's own path, or for safetensors that of the config.json beside them"
    )]
    TwoFormats {
        /// One.
        gguf: PathBuf,
        /// The other.
        safetensors: PathBuf,
    },
    /// A directory holds several GGUF files.
    #[error("both {first:?} and {second:?} are there, expected one GGUF file: give the path of one")]
    SeveralGgufs {
        /// One.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// A GGUF file breaks a rule.
    #[error("{path:?}: {source}")]
    GgufFile {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        source: Box<GgufFault>,
    },
    /// GGUF counts in 32 bits.
    #[error("{path:?}: {key} would be {found}, expected at most 4294967295")]
    TooLargeForGguf {
        /// The file that was to be written.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: usize,
    },
}

impl WeightError {
    /// Which kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::NoWeights { .. } | Self::MissingShard { .. } => ErrorKind::NotFound,
            _ => ErrorKind::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_cut() {
        let path = PathBuf::from("model.safetensors");
        let error = WeightError::UnexpectedTensor { path, name: format!("\u{1b}[31m\n{}", "x".repeat(1000)) };
        let message = error.to_string();
        assert!(message.contains(r"\u{1b}[31m\nxxx"), "{message}");
        assert!(!message.contains('\u{1b}') && !message.contains('\n'));
        assert!(message.len() < 400, "{} bytes", message.len());
    }

    #[test]
    fn hostile_values_are_escaped_and_cut() {
        let found = format!("\u{1b}{}", "y".repeat(1000));
        let key = "hidden_act";
        let error = WeightError::Unsupported { path: PathBuf::from("config.json"), key, found, expected: "silu" };
        let message = error.to_string();
        assert!(message.contains(r"\u{1b}yyy") && message.ends_with("…, expected silu"), "{message}");
        assert!(!message.contains('\u{1b}'));
    }
}
