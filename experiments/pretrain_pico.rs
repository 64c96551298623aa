//! Makes the built-in base: a small Llama pretrained on the built-in language.
//!
//! Question: what does everything else grow from?
//! Method: `DecoderConfig::pico()`, drawn from N(0, 0.02²), trained on fresh documents of `Language::builtin()` with
//! AdamW at a constant learning rate after warm-up, not annealed, so that it can be trained further (Hu et al., 2024,
//! arXiv:2404.06395, §4); weights rounded to bfloat16 and written as a Hugging Face directory.
//! Result: `experiments/pico_base`, whose README.md records the loss and the SHA-256 of the weights. The same bits
//! come out again on the same kind of CPU, whatever the number of threads.
//!
//! `cargo run --example pretrain_pico -- OUT`

use burn::tensor::Device;
use deepwide::config::DecoderConfig;
use deepwide::data::language::{Language, Split};
use deepwide::data::{WindowOrder, Windows};
use deepwide::eval::mean_loss_nats;
use deepwide::formats::{HfDirectory, write_hf_directory};
use deepwide::model::DenseDecoder;
use deepwide::tokenizer::Tokenizer;
use deepwide::train::{AdamW, AdamWConfig, BatchSize, Decay, NextToken, Schedule, TrainConfig, Trainer, WindowBatches};
use deepwide::weights::{Dtype, MemoryWeights};

const SEED: u64 = 20_231_223;
const SEQ_LENGTH: usize = 128;
const BATCH_SIZE: usize = 16;
const NUM_STEPS: usize = 800;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args().nth(1).ok_or("usage: pretrain_pico OUT")?;
    let out = std::path::Path::new(&out);
    let (device, language) = (Device::flex().autodiff(), Language::builtin());
    let documents = |split| (0..).map(move |index| Language::builtin().document(split, index));
    let train = Windows::aligned(documents(Split::Train), SEQ_LENGTH, NUM_STEPS * BATCH_SIZE)?;
    let heldout = Windows::aligned(documents(Split::HeldOut), SEQ_LENGTH, 256)?;
    let config = DecoderConfig::pico();
    let size = BatchSize { batch_size: BATCH_SIZE, micro_batch_size: BATCH_SIZE };
    let batches = WindowBatches::new(&train, WindowOrder::new(train.len(), SEED), size, &config, &device)?;
    let model = DenseDecoder::load(&MemoryWeights::untrained(config, 0.02, SEED), &device)?;
    let schedule =
        Schedule { peak: 3e-3, warmup_steps: 100, num_steps: NUM_STEPS, final_fraction: 1.0, decay: Decay::Constant };
    let config = TrainConfig { schedule, max_grad_norm: 1.0 };
    let mut trainer = Trainer::new(model, NextToken::default(), AdamW::new(AdamWConfig::default()), config);
    for step in 0..NUM_STEPS {
        let log = trainer.step(&batches.of_step(step));
        if log.step % 100 == 0 {
            println!("step {} loss {:.4} grad_norm {:.3} {:.2} s", log.step, log.loss, log.grad_norm, log.wall_s);
        }
    }
    write_hf_directory(&trainer.into_model().to_weights(), None, Some(Dtype::Bfloat16), out)?;
    Tokenizer::word_level(language.vocab()).save(out)?;
    let written = HfDirectory::open(out)?;
    let plain = Device::flex();
    let loss = mean_loss_nats(&DenseDecoder::load(&written, &plain)?, &heldout, 32, &plain);
    println!("held-out loss {loss:.4} nats, floor {:.4}", heldout.floor_nats().unwrap_or(f64::NAN));
    println!("sha256 of the weights {}", written.weights_sha256(&mut |_| ())?);
    Ok(())
}
