//! What can be wrong with a GGUF file: one variant per rule.

use crate::config::ConfigError;
use crate::error::{cut, listed, quoted};

/// Why a GGUF file is not read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufFault {
    /// The sizes do not make a decoder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Parts of a split file do not exist.
    #[error("names {missing} of {total} parts that do not exist: {}", listed(.names, *.missing))]
    MissingParts {
        /// The first of them, by name.
        names: Vec<String>,
        /// Number of missing parts.
        missing: usize,
        /// Number of all parts.
        total: usize,
    },
    /// A scaling of rotary frequencies that is not written.
    #[error("rope_scaling is {found}, expected \"default\", \"dynamic\", \"linear\" or \"llama3\" for GGUF")]
    RopeScaling {
        /// The scaling.
        found: String,
    },
    /// A size that does not fit 32 bits, in which GGUF counts.
    #[error("{key} would be {found}, expected at most 4294967295")]
    TooLarge {
        /// The key.
        key: &'static str,
        /// Its value.
        found: usize,
    },
    /// Another format, or none.
    #[error("it begins with \"{}\", expected \"GGUF\"", found.escape_ascii())]
    NotGguf {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// Numbers with the most significant byte first.
    #[error("it is big-endian, expected little-endian: convert it on the machine that made it")]
    BigEndian,
    /// A version whose layout differs.
    #[error("it has version {found}, expected 2 or 3")]
    Version {
        /// What was found.
        found: u32,
    },
    /// More tensors than the bytes left could describe, or than are ever held.
    #[error("it announces {count} tensors, which take at least {needed} bytes, but {left} are left (limit {limit})")]
    TooManyTensors {
        /// What is announced.
        count: u64,
        /// Least bytes of their entries.
        needed: u128,
        /// Bytes left.
        left: u64,
        /// Most that is read.
        limit: u64,
    },
    /// More keys than the bytes left could hold, or than are ever held.
    #[error("it announces {count} keys, which take at least {needed} bytes, but {left} are left (limit {limit})")]
    TooManyKeys {
        /// What is announced.
        count: u64,
        /// Least bytes of their entries.
        needed: u128,
        /// Bytes left.
        left: u64,
        /// Most that is read.
        limit: u64,
    },
    /// A string would end after the file.
    #[error("byte {offset}: a string of {length} bytes, but only {left} are left")]
    StringBeyondFile {
        /// Where it begins.
        offset: u64,
        /// Its length.
        length: u64,
        /// Bytes left.
        left: u64,
    },
    /// An array would end after the file.
    #[error("byte {offset}: an array of {count} values of {element}, but only {left} bytes are left")]
    ArrayBeyondFile {
        /// Where it begins.
        offset: u64,
        /// Its length.
        count: u64,
        /// The type of its values.
        element: &'static str,
        /// Bytes left.
        left: u64,
    },
    /// An array of arrays.
    #[error("key {} is an array of arrays, expected one of numbers, truth values or strings", quoted(.key))]
    NestedArray {
        /// The key.
        key: String,
    },
    /// The format knows no such value.
    #[error("byte {offset}: value type {found}, expected 0 to 12")]
    ValueType {
        /// Where it stands.
        offset: u64,
        /// What was found.
        found: u32,
    },
    /// A truth value is one byte, 0 or 1.
    #[error("byte {offset}: a truth value of {found}, expected 0 or 1")]
    Bool {
        /// Where it stands.
        offset: u64,
        /// What was found.
        found: u8,
    },
    /// A string is no UTF-8.
    #[error("byte {offset}: a string that is not valid UTF-8")]
    NotUtf8 {
        /// Where it begins.
        offset: u64,
    },
    /// A key is empty or too long.
    #[error("byte {offset}: a key of {length} bytes, expected 1 to 65535")]
    KeyLength {
        /// Where it begins.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// A key holds letters beyond ASCII, which the format forbids.
    #[error("key {} is not ASCII, expected ASCII", quoted(.key))]
    KeyNotAscii {
        /// The key.
        key: String,
    },
    /// A key stands twice.
    #[error("key {} occurs twice, expected once", quoted(.key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The file ends within its header.
    #[error("it ends within {place}: {needed} bytes are needed from byte {offset} on, but only {left} are left")]
    HeaderCutShort {
        /// Which key or tensor.
        place: String,
        /// From where on.
        offset: u64,
        /// How many.
        needed: u64,
        /// How many there are.
        left: u64,
    },
    /// A tensor's name is empty or too long.
    #[error("tensor {index} has a name of {length} bytes, expected 1 to 63")]
    TensorNameLength {
        /// Its place in the table.
        index: u64,
        /// What was found.
        length: u64,
    },
    /// Two tensors have one name.
    #[error("tensor {} occurs twice, expected once", quoted(.name))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor has at most four axes.
    #[error("tensor {} has {found} axes, expected at most 4", quoted(.name))]
    TooManyAxes {
        /// The tensor.
        name: String,
        /// What was found.
        found: u32,
    },
    /// An axis is empty, or longer than 63 bits count.
    #[error("tensor {}: axis {axis} has size {found}, expected 1 to 2^63 - 1", quoted(.name))]
    AxisSize {
        /// The tensor.
        name: String,
        /// Which axis, fastest first.
        axis: u32,
        /// What was found.
        found: u64,
    },
    /// A size does not fit 63 bits.
    #[error("tensor {}: its size, or where it ends, exceeds 2^63 bytes", quoted(.name))]
    SizeOverflow {
        /// The tensor.
        name: String,
    },
    /// A number type that ggml does not define.
    #[error("tensor {} has type {number}, expected {}", quoted(.name), super::type_names::supported())]
    UnknownType {
        /// The tensor.
        name: String,
        /// ggml's number of the type.
        number: u32,
    },
    /// A number type that is defined, or once was, but not read.
    #[error("tensor {} has type {found}, expected {}", quoted(.name), super::type_names::supported())]
    UnreadType {
        /// The tensor.
        name: String,
        /// The type.
        found: &'static str,
    },
    /// Blocks do not cross rows.
    #[error("tensor {}: rows of {columns} numbers in {ty}, expected a multiple of {block_numbers}", quoted(.name))]
    PartialBlock {
        /// The tensor.
        name: String,
        /// Length of a row.
        columns: u64,
        /// Its type.
        ty: &'static str,
        /// Numbers in a block.
        block_numbers: usize,
    },
    /// Tensors begin at multiples of the alignment.
    #[error("general.alignment is {}, expected a power of two from 8 to 65536 as u32", cut(.found))]
    Alignment {
        /// What was found.
        found: String,
    },
    /// A tensor does not begin at a multiple of the alignment.
    #[error("tensor {} begins at {offset}, expected a multiple of {alignment}", quoted(.name))]
    Unaligned {
        /// The tensor.
        name: String,
        /// Where it begins.
        offset: u64,
        /// `general.alignment`.
        alignment: u64,
    },
    /// Tensors follow one another without overlap or hole.
    #[error("tensor {} begins at {offset}, expected {expected}, right after the one before", quoted(.name))]
    OutOfPlace {
        /// The tensor.
        name: String,
        /// Where it begins.
        offset: u64,
        /// Where it should.
        expected: u64,
    },
    /// A tensor would end after the file.
    #[error("tensor {} ends at byte {end}, but the file has {file_bytes}: it is cut short", quoted(.name))]
    BeyondFile {
        /// The tensor.
        name: String,
        /// Byte after its last.
        end: u64,
        /// Size of the file.
        file_bytes: u64,
    },

    /// A key that a decoder needs.
    #[error("it has no key {key}, expected one")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key has a value of another type.
    #[error("key {key} is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// Its type.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A key has a value that these decoders do not compute.
    #[error("key {key} is {}, expected {expected}", cut(.found))]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is supported.
        expected: String,
    },
    /// The architecture is another.
    #[error("general.architecture is {}, expected llama", quoted(.found))]
    Architecture {
        /// What was found.
        found: String,
    },
    /// A tensor that the keys call for is not there.
    #[error("it has no tensor {}, expected one for llama.block_count {blocks}", quoted(.name))]
    MissingTensor {
        /// The tensor.
        name: String,
        /// Number of layers.
        blocks: usize,
    },
    /// A tensor that the keys do not call for.
    #[error("it holds tensor {}, which a decoder of these keys does not have", quoted(.name))]
    UnexpectedTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor does not have the shape that the keys give it.
    #[error("tensor {} has shape {found:?}, expected {expected:?}", quoted(.name))]
    ShapeMismatch {
        /// The tensor.
        name: String,
        /// Its shape, slowest axis first.
        found: Vec<usize>,
        /// The shape that the keys give it.
        expected: Vec<usize>,
    },
    /// Frequencies are stretched in a way that no `rope_scaling` says.
    #[error("rope_freqs.weight holds other factors than Llama 3's, expected those of one of its models")]
    UnknownRopeFactors,
    /// One part of a split file is not the part that its name says.
    #[error("it is part {found} of {count}, expected part {expected} of {expected_count}")]
    WrongPart {
        /// `split.no`, counted from 1.
        found: u64,
        /// `split.count`.
        count: u64,
        /// What the name says.
        expected: u64,
        /// What the first part says.
        expected_count: u64,
    },
    /// The name of a split file does not say which part it is.
    #[error("it is one of {count} parts, expected a name that ends in -00001-of-{count:05}.gguf")]
    PartName {
        /// `split.count`.
        count: u64,
    },
    /// All parts together have another number of tensors than they should.
    #[error("its parts hold {found} tensors, expected {expected}")]
    PartTensors {
        /// What was found.
        found: u64,
        /// `split.tensors.count`.
        expected: u64,
    },
}
