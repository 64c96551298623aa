//! Quantized weight matrices, interleaved for sixteen lanes, and their product with activations rounded to 8 bits.

mod matrix;
mod panel;
mod product;
mod tiles;

pub(in crate::kernel) use matrix::QuantizedMatrix;
pub(in crate::kernel) use product::{QuantizedRows, multiply};
