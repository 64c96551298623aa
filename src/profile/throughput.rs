//! Repetitions of a speed test, each with different tokens.
//!
//! Only computation is timed: the prompt is on the device before the clock starts, and nothing is sampled. The cache is allocated in
//! the first pass: the one that fills the depth, the capture of a decoding step, or otherwise the first repetition, which should be a
//! warm-up.

use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::flops::{forward_flops_cached, product};
use crate::config::DecoderConfig;
use crate::data::{Document, WindowOrder, Windows};
use crate::model::{CausalLm, Decoding, DecodingMode, KvCache};
use crate::trace::{self, span};
use crate::train::{
    AdamW, AdamWConfig, BatchSize, Decay, NextToken, NextTokenBatch, Schedule, TrainConfig, TrainError, Trainer,
    WindowBatches,
};

/// `n_prompt` tokens in one pass, then `n_gen` tokens one at a time, of `batch_size` sequences after `n_depth` tokens each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InferenceTest {
    /// Tokens of the prompt; may be 0.
    pub n_prompt: usize,
    /// Tokens decoded; may be 0.
    pub n_gen: usize,
    /// Tokens in the cache when the clock starts.
    pub n_depth: usize,
    /// Sequences at once.
    pub batch_size: usize,
}

impl InferenceTest {
    /// Positions of a sequence.
    pub fn num_positions(&self) -> usize {
        self.n_depth + self.n_prompt + self.n_gen
    }

    /// Floating-point operations of one repetition. The head is computed for the last position of a prompt only.
    ///
    /// # Panics
    /// If the count reaches `2^128`.
    pub fn flops(&self, config: &DecoderConfig) -> u128 {
        let [depth, prompt, gen_] = [self.n_depth, self.n_prompt, self.n_gen].map(|len| len as u64);
        let all = forward_flops_cached(config, depth, prompt + gen_);
        let [vocab_size, hidden_size] = [config.vocab_size, config.hidden_size].map(|size| size as u128);
        let heads_left_out = product([u128::from(prompt.saturating_sub(1)), 2, vocab_size, hidden_size]);
        product([self.batch_size as u128, all - heads_left_out])
    }
}

/// The time of one repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTime {
    /// Nanoseconds until the first logits; `None` for training.
    pub first_ns: Option<u64>,
    /// Nanoseconds of the whole repetition.
    pub total_ns: u64,
}

/// A model with its cache, ready for repetitions of a test.
#[derive(Debug)]
pub struct InferenceRuns<'a, M> {
    model: &'a M,
    test: InferenceTest,
    device: &'a Device,
    cache: KvCache,
    decoding: Decoding<'a, M>,
    num_runs: usize,
}

impl<'a, M: CausalLm> InferenceRuns<'a, M> {
    /// Fills the cache to the depth of the test.
    ///
    /// # Panics
    /// If the test has more positions than the model, or no token or no sequence.
    pub fn new(model: &'a M, test: InferenceTest, device: &'a Device) -> Self {
        assert!(test.n_prompt + test.n_gen > 0 && test.batch_size > 0, "{test:?} computes nothing");
        let mut cache = KvCache::new(model.config(), test.batch_size, test.num_positions(), device);
        if test.n_depth > 0 {
            let context = tokens(model, test.batch_size, test.n_depth, 0, device);
            finish(model.hidden_states(context, Some(&mut cache)).last, device);
        }
        Self { model, test, device, cache, decoding: Decoding::new(model, device), num_runs: 0 }
    }

    /// How the tokens so far were decoded; `None` if the test decodes none.
    pub fn decoding(&self) -> Option<&DecodingMode> {
        (self.test.n_gen > 0).then(|| self.decoding.mode())
    }

    /// One repetition, with different tokens than those before it. A pass that is replayed is captured before the clock starts.
    pub fn run(&mut self) -> RunTime {
        let InferenceTest { n_prompt, n_gen, n_depth, batch_size } = self.test;
        self.num_runs += 1;
        let salt = self.num_runs * (n_gen + 1);
        let prompt = (n_prompt > 0).then(|| tokens(self.model, batch_size, n_prompt, salt, self.device));
        let steps = (1..=n_gen).map(|step| ids(self.model, batch_size, salt + step).into_iter().map(Some).collect());
        let steps: Vec<Vec<Option<u32>>> = steps.collect();
        self.cache.truncate(n_depth);
        if trace::is_recording() {
            // It is not used, and holds memory.
            self.decoding.release();
        } else if n_gen > 0 {
            self.decoding.prepare(&mut self.cache);
        }
        sync(self.device);
        let mut first_ns = None;
        let _repetition = span("repetition");
        let start = Instant::now();
        if let Some(prompt) = prompt {
            let hidden = self.model.hidden_states(prompt, Some(&mut self.cache)).last;
            let last = if n_prompt == 1 { hidden } else { hidden.narrow(1, n_prompt - 1, 1) };
            finish(self.model.lm_head(last), self.device);
            first_ns = Some(elapsed_ns(start));
        }
        for ids in steps {
            finish(self.decoding.pass(&ids, &mut self.cache).logits, self.device);
            first_ns.get_or_insert_with(|| elapsed_ns(start));
        }
        RunTime { first_ns, total_ns: elapsed_ns(start) }
    }
}

/// Calls `work` with a training step to repeat: forward, loss, backward, clipping and AdamW on `batch_size` sequences of
/// `seq_length` tokens, which differ in each of the first `num_steps` calls, with dropout if the model has an adapter with one.
/// Returns the result of `work`, and the model.
///
/// # Errors
/// [`TrainError`].
///
/// # Panics
/// If `device` does not record gradients, or a size is 0.
pub fn train_runs<M: CausalLm, R>(
    model: M,
    batch_size: usize,
    seq_length: usize,
    num_steps: usize,
    device: &Device,
    work: impl FnOnce(&mut dyn FnMut() -> RunTime) -> R,
) -> Result<(R, M), TrainError> {
    let windows = windows(model.config().vocab_size, seq_length, num_steps * batch_size);
    let size = BatchSize { batch_size, micro_batch_size: batch_size };
    let batches = WindowBatches::new(&windows, WindowOrder::new(windows.len(), 0), size, model.config(), device)?;
    let schedule = Schedule { peak: 1e-5, warmup_steps: 0, num_steps, final_fraction: 1.0, decay: Decay::Constant };
    let optimizer = AdamW::new(AdamWConfig::default());
    let mut trainer =
        Trainer::new(model, NextToken::default(), optimizer, TrainConfig { schedule, max_grad_norm: 1.0 });
    let result = work(&mut || {
        let step = trainer.optimizer().num_steps();
        let streams: Vec<u64> = (0..batch_size).map(|row| (step * batch_size + row) as u64).collect();
        let batch = batches.of_step(step).into_iter();
        let dropped = |batch: NextTokenBatch| NextTokenBatch { inputs: batch.inputs.with_dropout(&streams), ..batch };
        let batch: Vec<NextTokenBatch> = batch.map(dropped).collect();
        sync(device);
        let _repetition = span("repetition");
        let start = Instant::now();
        trainer.step(&batch);
        sync(device);
        RunTime { first_ns: None, total_ns: elapsed_ns(start) }
    });
    Ok((result, trainer.into_model()))
}

/// Windows of ids spread over the vocabulary.
fn windows(vocab_size: usize, seq_length: usize, num_windows: usize) -> Windows {
    let id = |i: usize| ((i + 1) * 7919 + i / seq_length * 104_729) % vocab_size;
    let ids = (0..=num_windows * seq_length).map(|i| id(i) as u32).collect();
    let document = Document { ids, logprobs: None, topic: None };
    Windows::contiguous(&[document], seq_length).expect("enough ids")
}

/// Token ids spread over the vocabulary, different for every `salt`.
fn ids<M: CausalLm>(model: &M, num_tokens: usize, salt: usize) -> Vec<u32> {
    let vocab_size = model.config().vocab_size;
    (0..num_tokens).map(|i| (((i + 1) * 7919 + salt * 104_729) % vocab_size) as u32).collect()
}

fn tokens<M: CausalLm>(model: &M, batch_size: usize, len: usize, salt: usize, device: &Device) -> Tensor<2, Int> {
    let ids = ids(model, batch_size * len, salt).into_iter().map(|id| id as i32);
    Tensor::from_data(TensorData::new(ids.collect(), [batch_size, len]), device)
}

/// Waits until the output exists.
fn finish(output: Tensor<3>, device: &Device) {
    std::hint::black_box(&output);
    sync(device);
}

fn sync(device: &Device) {
    device.sync().expect("the device finishes its queue");
}

fn elapsed_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::model::DenseDecoder;
    use crate::profile::flops::{forward_flops, forward_flops_breakdown};
    use crate::weights::{MemoryWeights, TensorId, WeightSource};

    fn model(device: &Device) -> DenseDecoder {
        DenseDecoder::load(&MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 1), device).expect("in memory")
    }

    #[test]
    fn repetitions_start_at_the_depth_of_the_test() {
        let device = Device::flex();
        let model = model(&device);
        let test = InferenceTest { n_prompt: 5, n_gen: 3, n_depth: 4, batch_size: 2 };
        let mut runs = InferenceRuns::new(&model, test, &device);
        assert_eq!(runs.cache.lens(), [4, 4]);
        for _ in 0..2 {
            let time = runs.run();
            assert!(time.first_ns.expect("there were logits") <= time.total_ns);
            assert_eq!(runs.cache.lens(), [12, 12]);
        }
        assert_eq!(runs.decoding(), Some(&DecodingMode::Direct));
    }

    #[test]
    fn a_training_step_changes_the_model_and_has_no_first_logits() {
        let device = Device::flex().autodiff();
        let before = model(&device);
        let (times, after) =
            train_runs(before.clone(), 2, 16, 3, &device, |step| [step(), step()]).expect("fits the model");
        assert!(times.iter().all(|time| time.first_ns.is_none() && time.total_ns > 0));
        let table = |model: &DenseDecoder| model.to_weights().read(TensorId::EmbedTokens).expect("in memory");
        assert_ne!(table(&before), table(&after));
    }

    #[test]
    fn training_windows_differ() {
        let windows = windows(500, 8, 4);
        assert_eq!((windows.len(), windows.seq_length()), (4, 8));
        assert_ne!(windows.inputs(0), windows.inputs(1));
    }

    #[test]
    fn the_head_is_counted_once_per_prompt_and_per_decoded_token() {
        let config = DecoderConfig::pico();
        let flops = |n_prompt, n_gen| InferenceTest { n_prompt, n_gen, n_depth: 0, batch_size: 1 }.flops(&config);
        assert_eq!(flops(1, 9), forward_flops(&config, 1, 10));
        assert_eq!(flops(10, 0), forward_flops(&config, 1, 10) - forward_flops_breakdown(&config, 1, 9).lm_head);
        let behind = InferenceTest { n_prompt: 0, n_gen: 1, n_depth: 9, batch_size: 3 }.flops(&config);
        assert_eq!(behind, 3 * (forward_flops(&config, 1, 10) - forward_flops(&config, 1, 9)));
    }
}
