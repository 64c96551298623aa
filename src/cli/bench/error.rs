//! What `bench` refuses.

use crate::train::TrainError;

/// Why nothing is measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// All tests have no tokens.
    #[error("nothing to measure: expected -p, -n, --pg or --train above 0")]
    NothingToMeasure,
    /// Training has one form of weights.
    #[error("{option} beside --train: expected it without, for training is in float32")]
    BesideTrain {
        /// The option.
        option: &'static str,
    },
    /// Blocks need a kernel.
    #[error("--quant on --device {device}: expected a device with kernels for blocks, flex")]
    NoBlocksHere {
        /// The device.
        device: String,
    },
    /// No matrix is made of whole blocks.
    #[error(
        "--quant for {model:?}: hidden_size {hidden_size} and intermediate_size {intermediate_size}, expected a multiple of 32"
    )]
    NothingFillsBlocks {
        /// The model.
        model: String,
        /// Its width.
        hidden_size: usize,
        /// The width of its MLPs.
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
    /// A test that no machine of this size can hold.
    #[error("{test} of {model:?} needs at least {needs}, this machine has {most}")]
    TooLarge {
        /// The test.
        test: String,
        /// The model.
        model: String,
        /// What it keeps besides what it computes, and what that is made of.
        needs: String,
        /// Memory of the machine.
        most: String,
    },
    /// Training cannot start.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The system gives no threads.
    #[error("cannot start {num_threads} threads: {source}")]
    Threads {
        /// Threads asked for.
        num_threads: usize,
        /// What was said.
        source: rayon::ThreadPoolBuildError,
    },
    /// A record could not be printed.
    #[error("cannot print a record: {source}")]
    Record {
        /// What was said.
        source: serde_json::Error,
    },
}

impl BenchError {
    /// The exit code.
    pub(in crate::cli) fn code(&self) -> u8 {
        match self {
            Self::NothingToMeasure | Self::BesideTrain { .. } | Self::NoBlocksHere { .. } => 2,
            Self::NothingFillsBlocks { .. } | Self::TooLong { .. } | Self::Train(_) => 3,
            Self::TooLarge { .. } => 6,
            Self::Threads { .. } | Self::Record { .. } => 1,
        }
    }
}
