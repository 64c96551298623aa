//! Why a model is not measured.

use crate::error::ErrorKind;
use crate::formats::CheckpointError;
use crate::train::TrainError;
use crate::weights::WeightError;

/// Why nothing is measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// No test has a token.
    #[error("nothing to measure: every test has 0 tokens")]
    NothingToMeasure,
    /// The cross product is too large to be meant.
    #[error("found {found} tests, expected at most {most}")]
    TooManyTests {
        /// Tests of the grid.
        found: u128,
        /// The limit.
        most: u128,
    },
    /// The device has no kernel for blocks.
    #[error("found device {device:?}, expected one with kernels for quantized weights: flex, cuda, vulkan or wgpu")]
    NoBlocksHere {
        /// The device.
        device: String,
    },
    /// No row of a matrix is a whole number of blocks.
    #[error(
        "{model:?} has hidden_size {hidden_size} and intermediate_size {intermediate_size}, expected a multiple of 32 to quantize"
    )]
    NothingFillsBlocks {
        /// The model.
        model: String,
        /// Width of the residual stream.
        hidden_size: usize,
        /// Width of its MLPs.
        intermediate_size: usize,
    },
    /// A test has more tokens than the model has positions.
    #[error(
        "{test} of {model:?} takes {num_positions} positions, expected at most max_position_embeddings {max_position_embeddings}"
    )]
    TooLong {
        /// The test.
        test: String,
        /// The model.
        model: String,
        /// Positions that it takes.
        num_positions: usize,
        /// Positions of the model.
        max_position_embeddings: usize,
    },
    /// A test needs more memory than the machine has.
    #[error(
        "{test} of {model:?} needs at least {} of memory ({}), this machine has {}",
        gib(.parts.iter().map(|(_, bytes)| bytes).sum()),
        .parts.map(|(name, bytes)| format!("{name} {}", gib(bytes))).join(", "),
        gib((*.available_bytes).into()),
    )]
    TooLarge {
        /// The test.
        test: String,
        /// The model.
        model: String,
        /// What it keeps in memory, and the bytes of each.
        parts: [(&'static str, u128); 2],
        /// Memory of the machine.
        available_bytes: u64,
    },
    /// The model's file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// Training cannot start.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The system starts no more threads.
    #[error("cannot start {num_threads} threads: {source}")]
    Threads {
        /// Threads asked for.
        num_threads: usize,
        /// The message of the thread pool.
        source: rayon::ThreadPoolBuildError,
    },
}

impl BenchError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Weights(error) => error.kind(),
            Self::Threads { .. } => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        }
    }
}

fn gib(bytes: u128) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
