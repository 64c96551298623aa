//! Which experts the tokens of each topic visit, layer by layer (Jiang et al., 2024, arXiv:2401.04088, §5).

use burn::tensor::Device;

use super::batch::{batch, batches};
use crate::data::Windows;
use crate::model::CausalLm;

/// Share of a topic's visits that each expert gets, `[layer][topic][expert]`. Shares sum to 1 over experts, or are all 0 if
/// the topic does not occur. Empty for a dense model. An input has the topic of its target; text without topics has topic 0.
///
/// # Panics
/// If a topic is not below `num_topics`, or `batch_size` is 0.
pub fn expert_load<M: CausalLm>(
    model: &M,
    windows: &Windows,
    num_topics: usize,
    batch_size: usize,
    device: &Device,
) -> Vec<Vec<Vec<f64>>> {
    let Some(moe) = model.config().moe else { return Vec::new() };
    let mut visits = vec![vec![vec![0.0; moe.num_local_experts]; num_topics]; model.config().num_hidden_layers];
    for which in batches(windows, batch_size) {
        let [inputs, _] = batch(windows, which.clone(), device);
        for (visits, routing) in visits.iter_mut().zip(model.hidden_states(inputs, None).routing) {
            let experts = routing.experts.into_data();
            for (visit, expert) in experts.iter::<i64>().enumerate() {
                let token = visit / moe.num_experts_per_tok;
                let (window, position) = (which.start + token / windows.seq_length(), token % windows.seq_length());
                let topic = windows.topic(window, position).unwrap_or(0);
                visits[topic][expert as usize] += 1.0;
            }
        }
    }
    for shares in visits.iter_mut().flatten() {
        let total: f64 = shares.iter().sum();
        shares.iter_mut().filter(|_| total > 0.0).for_each(|share| *share /= total);
    }
    visits
}
