//! Log-likelihoods of continuations: each shared prefix of the requests is computed once.

mod encoder;
mod greedy;
mod plan;
mod request;
mod schedule;
mod scorer;

pub use encoder::{Encoded, Encoder};
pub use plan::Plan;
pub use request::{Answer, EncodedRequest, Request};
pub use schedule::{Limits, PASSES_VERSION};
pub use scorer::{Progress, Scorer};
