//! The cost of an arm from its config, and the timing of its workloads.

use burn::tensor::Device;

use crate::config::DecoderConfig;
use crate::model::CausalLm;
use crate::profile::throughput::{InferenceRuns, InferenceTest};
use crate::profile::{flops, memory};
use crate::report::{Cost, Timing, Workload};
use crate::weights::Dtype;

/// Batch sizes of decoding.
pub(super) const DECODE_BATCHES: [usize; 3] = [1, 4, 16];

/// The cost of a config, averaged over the positions of a sequence; weights of `dtype`, keys and values of `cached` bytes each.
pub(super) fn cost(config: &DecoderConfig, seq_length: usize, dtype: Dtype, cached: u64) -> Cost {
    let parameters = flops::count_parameters(config);
    let per_token = |flops: u128| (flops / seq_length as u128) as u64;
    let forward = flops::forward_flops(config, 1, seq_length as u64);
    let bytes = dtype.size_bytes() as u64;
    let weights = |batch: usize| memory::decode_weight_bytes(config, batch as u64, bytes).round() as u64;
    Cost {
        total_parameters: parameters.total,
        active_parameters: parameters.active,
        forward_flops_per_token: per_token(forward),
        train_flops_per_token: per_token(3 * forward),
        kv_bytes_per_token: memory::kv_cache_bytes_per_token(config, cached) as u64,
        decode_weight_bytes: DECODE_BATCHES.map(|batch| (batch, weights(batch))).to_vec(),
    }
}

/// Times each workload of [`timings`] once, after a warm-up: prefill of `seq_length` tokens, then decoding of `decode_tokens` after
/// a context of as many, batch by batch.
pub(super) fn time_once<M: CausalLm>(model: &M, timings: &mut [Timing], device: &Device) {
    for Timing { workload, samples_s, .. } in timings {
        let test = match *workload {
            Workload::Prefill { tokens } => InferenceTest { n_prompt: tokens, n_gen: 0, n_depth: 0, batch_size: 1 },
            Workload::Decode { batch, tokens, context } => {
                InferenceTest { n_prompt: 0, n_gen: tokens, n_depth: context, batch_size: batch }
            }
        };
        let mut runs = InferenceRuns::new(model, test, device);
        runs.run();
        samples_s.push(runs.run().total_ns as f64 / 1e9);
    }
}

/// The workloads that an arm is timed on, without samples.
pub(super) fn timings(config: &DecoderConfig, seq_length: usize, decode_tokens: usize) -> Vec<Timing> {
    let context = seq_length.min(config.max_position_embeddings - decode_tokens);
    let timing = |workload, num_tokens| Timing { workload, num_tokens, samples_s: Vec::new() };
    let prefill = timing(Workload::Prefill { tokens: seq_length }, seq_length);
    let decode = DECODE_BATCHES
        .map(|batch| timing(Workload::Decode { batch, tokens: decode_tokens, context }, batch * decode_tokens));
    std::iter::once(prefill).chain(decode).collect()
}
