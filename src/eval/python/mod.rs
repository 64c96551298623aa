//! Behaviour of CPython that scores depend on: its random numbers and its string methods.

mod random;
mod text;

pub use random::Random;
pub(super) use text::{capitalize, float, strip, trailing_spaces};
