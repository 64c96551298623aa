//! deepwide
#![warn(missing_docs)]
pub mod config;
pub mod kernel;
pub mod model;
pub mod weights;
