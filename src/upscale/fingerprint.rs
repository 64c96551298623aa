//! The identity of a grown model, for records and for logs that hold answers of one model.

use serde_json::{Value, json};

use super::growth::Growth;
use crate::weights::WeightSource;

/// All that the function of a model grown from one base depends on: hashes of the base's files of weights, the growths, the
/// config. `parents` are those of [`parents`](super::parents).
pub fn model_record(parents: &[Value], growth: &Growth<'_>) -> Value {
    json!({
        "weights": parents[0]["weights"],
        "growth": growth.record(),
        "config": growth.source.config(),
    })
}

/// A hash of a [`model_record`], the device and the version of this crate: all that the bits of the model's logits depend
/// on, but for the batches that they are computed in.
pub fn fingerprint(model_record: &Value, device: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    blake3::hash(format!("{version} {device} {model_record}").as_bytes()).to_hex().to_string()
}
