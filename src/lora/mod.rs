//! Low-rank adapters of a decoder (Hu et al., 2021, arXiv:2106.09685), without tensors.
//!
//! A [`LoraConfig`] says which matrices get an update `ΔW = scale · B·A`, and of what rank; a [`LoraAdapter`] is these
//! updates. Names and meaning are those of PEFT.

mod adapter;
mod config;
mod error;
mod modules;

pub use adapter::LoraAdapter;
pub use config::{LoraConfig, LoraTarget};
pub use error::LoraError;
pub use modules::{Modules, linear_names, module_name};
