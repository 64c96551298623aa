//! Why a file is not a plain YAML document.

use crate::error::{cut, quoted};

/// Size of the largest file.
pub(super) const LIMIT_BYTES: usize = 1 << 20;
/// Cap on scalars, lists and mappings after expansion of aliases.
pub(super) const MAX_NODES: usize = 20_000;
/// Cap on the bytes of all scalars after expansion of aliases.
pub(super) const MAX_SCALAR_BYTES: usize = 4 << 20;
/// Cap on the nesting of lists and mappings.
pub(super) const MAX_DEPTH: usize = 32;

/// Why a file is not a plain YAML document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum YamlFault {
    /// Larger than any config written by hand.
    #[error("the file has {found_bytes} bytes, expected at most {LIMIT_BYTES}")]
    TooLarge {
        /// Its size.
        found_bytes: usize,
    },
    /// YAML is text.
    #[error("byte {byte:#04x} is not UTF-8, expected YAML text")]
    NotUtf8 {
        /// The first byte that is not.
        byte: u8,
    },
    /// Not YAML.
    #[error("{}, expected YAML", cut(.message))]
    Syntax {
        /// The parser's message.
        message: String,
    },
    /// YAML is indented by spaces.
    #[error("a tab indents the line, expected spaces")]
    Tab,
    /// `mergekit-multi` is another format.
    #[error("a second document begins, expected one: several (mergekit-multi) are not supported")]
    SeveralDocuments,
    /// Tags create objects of other programs.
    #[error("tag {} is not supported, expected plain YAML without tags", quoted(.tag))]
    CustomTag {
        /// The tag.
        tag: String,
    },
    /// An alias without an anchor.
    #[error("the alias names no anchor before it, expected one")]
    UnknownAnchor,
    /// An alias inside its own anchor.
    #[error("the alias is inside the anchor that it names, expected it outside")]
    RecursiveAlias,
    /// `<<` merges mappings.
    #[error("<< has another value, expected a mapping or a list of mappings")]
    BadMergeKey,
    /// Lists and mappings nested without end.
    #[error("lists and mappings are nested more than {MAX_DEPTH} deep, expected fewer levels")]
    TooDeep,
    /// Aliases of aliases: small to store and large to read.
    #[error(
        "with its aliases expanded the file has more than {MAX_NODES} values or {MAX_SCALAR_BYTES} bytes of text, \
         expected fewer: is it an alias bomb?"
    )]
    TooManyValues,
}
