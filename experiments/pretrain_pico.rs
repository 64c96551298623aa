//! Makes a base that knows the built-in language: the built-in one, or a larger one for a GPU.
//!
//! Question: what does everything else grow from?
//! Method: a Llama drawn from N(0, 0.02²), trained on fresh documents of `Language::builtin()` with AdamW at a constant
//! learning rate after warm-up, not annealed, so that it can be trained further (Hu et al., 2024, arXiv:2404.06395, §4);
//! weights rounded to bfloat16 and written as a Hugging Face directory.
//! Result: `experiments/pico_base`, whose README.md records the loss and the SHA-256 of the weights. The same bits
//! come out again on the same kind of CPU, whatever the number of threads.
//!
//! `cargo run --example pretrain_pico -- OUT [--large --max-seconds 200 --device tch:cuda]`

use clap::Parser;
use deepwide::data::language::{Language, Split};
use deepwide::data::{WindowOrder, Windows};
use deepwide::eval::mean_loss_nats;
use deepwide::formats::{HfDirectory, write_hf_directory};
use deepwide::model::DenseDecoder;
use deepwide::study::PretrainingRecipe;
use deepwide::tokenizer::Tokenizer;
use deepwide::train::{AdamW, AdamWConfig, BatchSize, Decay, NextToken, Schedule, TrainConfig, Trainer, WindowBatches};
use deepwide::weights::{Dtype, MemoryWeights};

const SEED: u64 = 20_231_223;

/// Pretrain a base on the built-in language
#[derive(Debug, Parser)]
#[command(name = "pretrain_pico", version)]
struct Cli {
    /// The directory to write, new or empty
    out: std::path::PathBuf,
    /// A base of 24 million parameters, for a GPU, instead of the built-in one
    #[arg(long)]
    large: bool,
    /// Updates [default: 800 of 2,048 tokens, 3000 of 16,384 with --large]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Seconds of training after which no update begins
    #[arg(long)]
    max_seconds: Option<f64>,
    /// Device: flex; in builds with their features also cuda, cuda:1, vulkan, wgpu, ndarray, tch:cpu
    #[arg(long, default_value = "flex")]
    device: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Cli { out, large, steps, max_seconds, device } = Cli::parse();
    let recipe = if large { PretrainingRecipe::large() } else { PretrainingRecipe::builtin() };
    let PretrainingRecipe { config, seq_length, batch_size, warmup_steps, learning_rate: peak, num_steps } = recipe;
    let num_steps = steps.map_or(num_steps, |steps| steps as usize);
    if std::fs::read_dir(&out).is_ok_and(|mut files| files.next().is_some()) {
        return Err(format!("{out:?} is not empty, expected a new or empty directory").into());
    }
    let plain = deepwide::device::device(&device)?;
    let (device, language) = (plain.clone().autodiff(), Language::builtin());
    let documents = |split| (0..).map(move |index| Language::builtin().document(split, index));
    let train = Windows::aligned(documents(Split::Train), seq_length, num_steps * batch_size)?;
    let heldout = Windows::aligned(documents(Split::HeldOut), seq_length, 256)?;
    let size = BatchSize { batch_size, micro_batch_size: batch_size };
    let batches = WindowBatches::new(&train, WindowOrder::new(train.len(), SEED), size, &config, &device)?;
    let model = DenseDecoder::load(&MemoryWeights::untrained(config, 0.02, SEED), &device)?;
    let schedule = Schedule { peak, warmup_steps, num_steps, final_fraction: 1.0, decay: Decay::Constant };
    let train = TrainConfig { schedule, max_grad_norm: 1.0 };
    let mut trainer = Trainer::new(model, NextToken::default(), AdamW::new(AdamWConfig::default()), train);
    let (mut step, mut training_s) = (0, 0.0);
    while step < num_steps && max_seconds.is_none_or(|most| training_s < most) {
        let log = trainer.step(&batches.of_step(step));
        (step, training_s) = (step + 1, training_s + log.wall_s);
        if log.step % 100 == 0 {
            println!("step {} loss {:.4} grad_norm {:.3} {:.2} s", log.step, log.loss, log.grad_norm, log.wall_s);
        }
    }
    println!("{step} updates, {:.0} tokens/s", (step * batch_size * seq_length) as f64 / training_s);
    write_hf_directory(&trainer.into_model().to_weights(), None, Some(Dtype::Bfloat16), &out)?;
    Tokenizer::word_level(language.vocab()).save(&out)?;
    let written = HfDirectory::open(&out)?;
    let loss = mean_loss_nats(&DenseDecoder::load(&written, &plain)?, &heldout, 32, &plain);
    println!("held-out loss {loss:.4} nats, floor {:.4}", heldout.floor_nats().unwrap_or(f64::NAN));
    println!("sha256 of the weights {}", written.weights_sha256(&mut |_| ())?);
    Ok(())
}
