//! How far the predictions of a model are from those of its base.

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use super::Window;
use super::loss::{passes, scored_states};
use crate::eval::distribution::{kl_nats, log_softmax, same_top_1};
use crate::eval::error::EvalError;
use crate::model::CausalLm;

/// Positions whose distributions exist at once.
const CHUNK: usize = 128;

/// `KL(p ‖ q)` of the distributions of the next token over the scored positions of a text; `p` is that of the base.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Divergence {
    /// Positions.
    pub num_tokens: usize,
    /// Mean `Σ p ln(p / q)` in nats.
    pub mean_kl_nats: f64,
    /// Its standard error.
    pub stderr: f64,
    /// The largest.
    pub max_kl_nats: f64,
    /// The one that 99 % of the positions do not exceed.
    pub p99_kl_nats: f64,
    /// Share of positions at which both have the same most likely token.
    pub same_top_1: f64,
}

/// Compares a model with its base on windows, in passes of at most `max_tokens`. `watch` is called with the number of windows of
/// each pass.
///
/// # Errors
/// Those of `watch`.
///
/// # Panics
/// If there are no windows, an id is not below `vocab_size`, or the vocabularies differ.
pub fn divergence<M: CausalLm, B: CausalLm>(
    model: &M,
    base: &B,
    windows: &[Window],
    max_tokens: usize,
    device: &Device,
    watch: &mut dyn FnMut(usize) -> Result<(), EvalError>,
) -> Result<Divergence, EvalError> {
    let vocab_size = model.config().vocab_size;
    assert_eq!(vocab_size, base.config().vocab_size, "distributions over one vocabulary");
    let mut found: Vec<(f64, bool)> = Vec::new();
    for pass in passes(windows, max_tokens) {
        let (of_model, targets) = scored_states(model, pass, device);
        let (of_base, _) = scored_states(base, pass, device);
        for start in (0..targets.len()).step_by(CHUNK) {
            let end = (start + CHUNK).min(targets.len());
            let part = |states: &Tensor<3>| states.clone().narrow(1, start, end - start);
            let q = numbers(model.lm_head(part(&of_model)));
            let p = numbers(base.lm_head(part(&of_base)));
            let rows = p.par_chunks_exact(vocab_size).zip(q.par_chunks_exact(vocab_size));
            found.par_extend(rows.map(|(p, q)| (kl_nats(&log_softmax(p), &log_softmax(q)), same_top_1(p, q))));
        }
        watch(pass.len())?;
    }
    let same = found.iter().filter(|(_, same)| *same).count();
    let mut kl: Vec<f64> = found.into_iter().map(|(kl, _)| kl).collect();
    let count = kl.len() as f64;
    let mean = kl.iter().sum::<f64>() / count;
    let variance = kl.iter().map(|kl| (kl - mean).powi(2)).sum::<f64>() / (count - 1.0);
    kl.sort_by(f64::total_cmp);
    Ok(Divergence {
        num_tokens: kl.len(),
        mean_kl_nats: mean,
        stderr: (variance / count).sqrt(),
        max_kl_nats: *kl.last().expect("a scored token"),
        p99_kl_nats: kl[((0.99 * count) as usize).min(kl.len() - 1)],
        same_top_1: same as f64 / count,
    })
}

/// The numbers of a tensor, row-major.
fn numbers(logits: Tensor<3>) -> Vec<f32> {
    logits.into_data().convert::<f32>().try_into_vec().expect("converted to this type")
}
