//! The perplexity of windows.

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;

use super::Window;
use crate::eval::error::EvalError;
use crate::eval::states::selected;
use crate::model::{CausalLm, TokenBatch};

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Perplexity {
    /// Tokens that were scored.
    pub num_tokens: usize,
    /// Mean `−ln p` of a token, in nats.
    pub nats_per_token: f64,
    /// `exp(nats_per_token)`.
    pub perplexity: f64,
    /// Standard error of the perplexity: `perplexity · s / √n` with the standard deviation `s` of the losses, as llama.cpp
    /// computes it. Tokens are taken to be independent, which they are not quite.
    pub stderr: f64,
}

/// The perplexity of windows, computed in passes of at most `max_tokens`. Each window counts for its weight. `watch` is called with
/// the number of windows of each pass and the perplexity so far.
///
/// # Errors
/// Those of `watch`.
///
/// # Panics
/// If there are no windows, or an id is not below `vocab_size`.
pub fn perplexity<M: CausalLm>(
    model: &M,
    windows: &[Window],
    max_tokens: usize,
    device: &Device,
    watch: &mut dyn FnMut(usize, f64) -> Result<(), EvalError>,
) -> Result<Perplexity, EvalError> {
    let mut sums = Sums::default();
    for pass in passes(windows, max_tokens) {
        for (window, losses) in pass.iter().zip(losses(model, pass, device)) {
            sums.add(&losses, window.weight);
        }
        watch(pass.len(), sums.finish().perplexity)?;
    }
    Ok(sums.finish())
}

/// Windows of one length each, the last apart if it is shorter.
pub(super) fn passes(windows: &[Window], max_tokens: usize) -> impl Iterator<Item = &[Window]> {
    let count = (max_tokens / windows[0].ids.len()).max(1);
    windows.chunk_by(|a, b| a.ids.len() == b.ids.len()).flat_map(move |alike| alike.chunks(count))
}

/// The states of a pass that predict its scored tokens, `[1, num_scored, hidden_size]`, and those tokens.
pub(super) fn scored_states<M: CausalLm>(model: &M, pass: &[Window], device: &Device) -> (Tensor<3>, Vec<u32>) {
    let ids: Vec<&[u32]> = pass.iter().map(|window| window.ids.as_slice()).collect();
    let hidden = model.hidden_states(TokenBatch::padded(&ids, device), None).last;
    let [num_windows, seq_length, hidden_size] = hidden.dims();
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (index, window) in pass.iter().enumerate() {
        for at in window.ids.len() - window.num_scored..window.ids.len() {
            rows.push(index * seq_length + at - 1);
            targets.push(window.ids[at]);
        }
    }
    let hidden = hidden.reshape([num_windows * seq_length, hidden_size]);
    (selected(&hidden, rows.into_iter(), device), targets)
}

fn losses<M: CausalLm>(model: &M, pass: &[Window], device: &Device) -> Vec<Vec<f64>> {
    let (states, targets) = scored_states(model, pass, device);
    let targets: Vec<i32> = targets.into_iter().map(|id| id as i32).collect();
    let shape = [1, targets.len()];
    let losses = match targets.is_empty() {
        true => Vec::new(),
        false => {
            let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, shape), device);
            model.token_losses(states, targets).into_data().iter::<f32>().map(f64::from).collect()
        }
    };
    let mut rest = losses.as_slice();
    let split = |window: &Window| {
        let (own, others) = rest.split_at(window.num_scored);
        rest = others;
        own.to_vec()
    };
    pass.iter().map(split).collect()
}

#[derive(Default)]
struct Sums {
    weighted: f64,
    weight: usize,
    loss: f64,
    squares: f64,
    count: usize,
}

impl Sums {
    fn add(&mut self, losses: &[f64], weight: usize) {
        if losses.is_empty() {
            return;
        }
        let sum: f64 = losses.iter().sum();
        self.weighted += sum / losses.len() as f64 * weight as f64;
        self.weight += weight;
        self.loss += sum;
        self.squares += losses.iter().map(|loss| loss * loss).sum::<f64>();
        self.count += losses.len();
    }

    fn finish(&self) -> Perplexity {
        let count = self.count as f64;
        let variance = (self.squares / count - (self.loss / count).powi(2)).max(0.0);
        let nats_per_token = self.weighted / self.weight as f64;
        let perplexity = nats_per_token.exp();
        let stderr = perplexity * (variance / (count - 1.0)).sqrt();
        Perplexity { num_tokens: self.count, nats_per_token, perplexity, stderr }
    }
}
