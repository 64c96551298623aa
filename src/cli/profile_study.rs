//! Profiles of a base, its deep partner and its mixture side by side: records and figures.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::run_info::run_info;
use super::values::DtypeArg;
use super::{console, output};
use crate::config::{DecoderConfig, MoeConfig};
use crate::device::device;
use crate::study::{ProfilePlan, write_profile};

/// Profile a dense model, its deep partner of equal FLOPs and its mixture side by side
///
/// Models have random weights. Measures time, FLOPs and bytes by module; prefill and decoding against context and batch; and
/// memory over time, on all devices but tch.
#[derive(Debug, Clone, Args)]
pub struct ProfileStudyArgs {
    /// Device: cuda, cuda:1, tch:cuda or flex, if compiled in
    #[arg(long, default_value = "cuda")]
    pub device: String,
    /// Shape of the base: small (47M parameters), or a published one: smollm2-135m, llama2-7b, mistral-7b, pico
    #[arg(long, default_value = "small")]
    pub shape: String,
    /// Experts of the mixture
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub experts: u16,
    /// Experts per token
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub top_k: u16,
    /// Type of the matrices: float32, float16, bfloat16; training is in float32
    #[arg(long, value_enum, default_value_t = DtypeArg::Float32, hide_possible_values = true)]
    pub dtype: DtypeArg,
    /// Timed repetitions, in turns
    #[arg(short = 'r', long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repetitions: u16,
    /// Leave the memory of training out
    #[arg(long)]
    pub no_training: bool,
    /// Folder for results.json and the figures [default: out/profile_DEVICE]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Measures and writes.
///
/// # Errors
/// If the device is not there, the shape is unknown, or a file cannot be written.
pub fn run(args: &ProfileStudyArgs) -> Result<(), Failure> {
    let small = ProfilePlan::small();
    let base = match args.shape.as_str() {
        "small" => small.base.clone(),
        name => DecoderConfig::preset(name)
            .ok_or_else(|| Failure::usage(format_args!("{name:?} is no published shape")).for_option("--shape"))?,
    };
    let device = device(&args.device)?;
    let [num_local_experts, num_experts_per_tok] = [args.experts, args.top_k].map(usize::from);
    let moe = MoeConfig { num_local_experts, num_experts_per_tok, ..small.moe };
    let longest = base.max_position_embeddings - small.n_gen;
    let fitting = |lengths: &[usize]| lengths.iter().copied().filter(|length| *length <= longest).collect();
    let plan = ProfilePlan {
        moe,
        dtype: args.dtype.dtype(),
        prompts: fitting(&small.prompts),
        contexts: fitting(&small.contexts),
        training: small.training.filter(|_| !args.no_training),
        rounds: args.repetitions.into(),
        base,
        ..small
    };
    let folder =
        args.out.clone().unwrap_or_else(|| Path::new("out").join(format!("profile_{}", args.device.replace(':', "_"))));
    let info = run_info(&args.device, &plan.dtype.to_string());
    let study = plan.run(info, &device, &|what| console::detail(what))?;
    write_profile(&study, &folder)?;
    let lines = study.models.iter().flat_map(|model| {
        let rate = |is_prefill: bool| {
            let point = model.speeds.iter().rfind(|point| point.is_prefill == is_prefill);
            point.map_or(f64::NAN, |point| point.tokens_per_s())
        };
        [format!("{}: prefill {:.1} tok/s, largest batch {:.1} tok/s\n", model.name, rate(true), rate(false))]
    });
    output::print(&lines.collect::<String>())?;
    console::tell(format_args!("written to {}", folder.display()));
    Ok(())
}
