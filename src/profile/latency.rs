//! How long prefill and decoding take, run by run.

use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::model::{CausalLm, KvCache};

/// Times one forward pass over `num_tokens` tokens with an empty cache, to the logits of the last, once for warm-up
/// and then `repetitions` times. The device is synced inside the timed region. Seconds of each run.
pub fn time_prefill<M: CausalLm>(model: &M, num_tokens: usize, repetitions: usize, device: &Device) -> Vec<f64> {
    let run = |salt: usize| {
        let tokens = tokens(model, 1, num_tokens, salt, device);
        let mut cache = KvCache::new(model.config(), 1, num_tokens, device);
        sync(device);
        let start = Instant::now();
        let hidden = model.hidden_states(tokens, Some(&mut cache)).last;
        let last = hidden.narrow(1, num_tokens - 1, 1);
        finish(model.lm_head(last), device);
        start.elapsed().as_secs_f64()
    };
    run(0);
    (1..=repetitions).map(run).collect()
}

/// Times `num_tokens` decoding steps of `batch_size` sequences that continue a context of `context` tokens, once for
/// warm-up and then `repetitions` times. The context is not timed. Seconds of each run, all steps together.
pub fn time_decode<M: CausalLm>(
    model: &M,
    batch_size: usize,
    context: usize,
    num_tokens: usize,
    repetitions: usize,
    device: &Device,
) -> Vec<f64> {
    let mut cache = KvCache::new(model.config(), batch_size, context + num_tokens, device);
    if context > 0 {
        model.hidden_states(tokens(model, batch_size, context, 0, device), Some(&mut cache));
    }
    let mut run = |salt: usize| {
        cache.truncate(context);
        let token = |step| tokens(model, batch_size, 1, salt * num_tokens + step, device);
        let steps: Vec<_> = (0..num_tokens).map(token).collect();
        sync(device);
        let start = Instant::now();
        for token in steps {
            let hidden = model.hidden_states(token, Some(&mut cache)).last;
            finish(model.lm_head(hidden), device);
        }
        start.elapsed().as_secs_f64()
    };
    run(0);
    (1..=repetitions).map(run).collect()
}

/// Token ids spread over the vocabulary, other ones for every `salt`.
pub(super) fn tokens<M: CausalLm>(
    model: &M,
    batch_size: usize,
    len: usize,
    salt: usize,
    device: &Device,
) -> Tensor<2, Int> {
    let vocab_size = model.config().vocab_size;
    let ids = (0..batch_size * len).map(|i| ((i + 1) * 7919 + salt * 104_729) % vocab_size);
    Tensor::from_data(TensorData::new(ids.map(|id| id as i32).collect(), [batch_size, len]), device)
}

/// Waits until the output exists.
pub(super) fn finish(output: Tensor<3>, device: &Device) {
    std::hint::black_box(&output);
    sync(device);
}

pub(super) fn sync(device: &Device) {
    device.sync().expect("the device finishes what was asked of it");
}
