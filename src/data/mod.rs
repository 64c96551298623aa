//! Text as documents of token ids, and documents as windows of a fixed length.

mod document;
mod error;
pub mod language;
pub mod text;
mod window_order;
mod windows;

pub use document::{Document, check_vocabulary};
pub use error::{DataError, LineFault, TextFault};
pub use window_order::WindowOrder;
pub use windows::Windows;
