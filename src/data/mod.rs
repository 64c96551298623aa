//! Text as documents of token ids, documents as windows of a fixed length, rows of files as training examples.

mod assistant;
mod document;
mod encoder;
mod encoder_fault;
mod error;
mod example;
mod heldout;
pub mod language;
mod mixture;
pub mod packing;
mod permutation;
mod record;
mod row_split;
pub mod shards;
pub mod source;
pub mod text;
mod window_order;
mod windows;

pub use document::{Document, check_vocabulary};
pub use encoder::RecordEncoder;
pub use encoder_fault::EncoderFault;
pub use error::DataError;
pub use example::{Example, PreferencePair, Truncation};
pub use heldout::HeldOut;
pub use mixture::Mixture;
pub use permutation::Permutation;
pub use record::{MessageFault, Passage, Record, RecordFormat, RowFault, UnknownFormat};
pub use row_split::RowSplit;
pub use window_order::WindowOrder;
pub use windows::Windows;
