//! Whether two models differ: paired tests on the scores of the same items.

mod bootstrap;
mod mcnemar;
mod pairing;
mod samples;

pub use bootstrap::{Interval, bootstrap};
pub use mcnemar::McNemar;
pub use pairing::{Comparison, compare, num_other_prompts};
pub use samples::{ItemScores, SampleFault, SamplesError, read_samples};
