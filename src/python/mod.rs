//! Behaviour of CPython that prompts and scores depend on: its random numbers, its string methods, its floats as text.

mod random;
mod text;

pub use random::Random;
pub use text::{capitalize, lstrip, repr, rstrip, strip};
