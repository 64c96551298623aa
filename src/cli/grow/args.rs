//! The arguments of `grow`.

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Arg, Args, ValueEnum};

use super::super::failure::Failure;
use super::super::values::{DtypeArg, byte_count, not_negative, positive_real};
use crate::config::ConfigError;
use crate::growth::{ExpertInit, GrowthPlan, PlanError, RouterInit, UpcyclePlan};
use crate::output::commit::Existing;
use crate::upscale::{GrowthRequest, UpscaleError};

/// Default experts per token, as in Mixtral.
const DEFAULT_TOP_K: usize = 2;

/// Write a grown checkpoint: deep, wide, or both
///
/// SOURCE is a base to grow (a Hugging Face directory, a .gguf file, or an id on the hub: org/name or org/name@revision), or a mergekit
/// or mergekit-moe file (.yml, .yaml). With options of depth and width, depth comes first. OUT is the directory to write; it
/// appears complete or not at all.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct GrowArgs {
    /// The base to grow, or a mergekit file
    pub source: String,
    /// The directory to write
    pub out: PathBuf,

    /// How to grow a base.
    #[command(flatten)]
    pub growth: GrowthArgs,

    /// Type of the weights: float32, float16, bfloat16 [default: as in SOURCE]
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, help_heading = "Output")]
    pub dtype: Option<DtypeArg>,
    /// hf, or gguf:f32 (f16, bf16, q8_0, q4_0, q4_k, q2_k)
    ///
    /// hf is a Hugging Face directory; with the others, OUT has a GGUF file with matrices of that type.
    #[arg(long, value_name = "TYPE", default_value = "hf", value_parser = OutType::parse, help_heading = "Output")]
    pub out_type: OutType,
    /// Largest file of weights: 5000000000, 5GB, 500MB
    ///
    /// GGUF is always one file.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = byte_count, help_heading = "Output")]
    pub out_shard_size: u64,
    /// Layout of the experts: v4, one tensor each, which all readers accept; v5, fused, as transformers 5 stores them
    #[arg(long, value_enum, default_value_t = LayoutArg::V4, help_heading = "Output")]
    pub moe_layout: LayoutArg,

    /// Print what would be written, and write nothing
    ///
    /// Only headers are read, and with noise the first weights.
    #[arg(long, help_heading = "Checks")]
    pub dry_run: bool,
    /// Run base and result on real text, and compare their logits
    ///
    /// The result is read back from the files. Growth that preserves the function must leave the logits equal up to rounding.
    #[arg(long, help_heading = "Checks")]
    pub check: bool,
    /// Text for --check [default: a built-in paragraph]
    #[arg(long, value_name = "FILE", requires = "check", help_heading = "Checks")]
    pub check_text: Option<PathBuf>,
    /// Replace OUT if it is as deepwide wrote it
    ///
    /// Its files must still have the hashes of its receipt.
    #[arg(long, short = 'y', help_heading = "Output")]
    pub force: bool,
    /// With --force, replace OUT even if its files were modified, as by training
    #[arg(long, requires = "force", help_heading = "Output")]
    pub discard_modified: bool,
    /// Write infinities and NaN instead of refusing them
    #[arg(long, help_heading = "Output")]
    pub allow_nonfinite: bool,
    /// Write the largest number of --dtype in place of a larger one instead of refusing it
    #[arg(long, help_heading = "Output")]
    pub saturate: bool,
    /// Treat warnings as errors
    #[arg(long, help_heading = "Checks")]
    pub strict: bool,
    /// Give the routers of a mergekit-moe file with gate_mode random a standard deviation of 1, as mergekit does
    #[arg(long, help_heading = "Output")]
    pub mergekit_compat: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// How a base is grown: deep, wide, or both, depth first.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("depth").multiple(false))]
pub struct GrowthArgs {
    /// Depth up-scaling with overlap M
    ///
    /// Two copies of the base, without the last M layers of the first and the first M of the second.
    #[arg(long, value_name = "M", group = "depth", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Depth")]
    pub dus: Option<usize>,
    /// Stack K copies of the base
    #[arg(long, value_name = "K", group = "depth", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Depth")]
    pub stack: Option<usize>,
    /// Insert K identity blocks (LLaMA-Pro)
    ///
    /// The blocks are evenly spaced, and identities until they are trained.
    #[arg(long, value_name = "K", group = "depth", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Depth")]
    pub identity_blocks: Option<usize>,

    /// Sparse upcycling: E experts per layer
    ///
    /// Each MLP becomes a mixture of E experts.
    #[arg(long, value_name = "E", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Width")]
    pub moe: Option<usize>,
    /// Experts per token [default: 2]
    #[arg(long, value_name = "K", requires = "moe", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Width")]
    pub top_k: Option<usize>,
    /// Router: normal (std 0.02), zero, orthogonal, hidden
    ///
    /// hidden makes it from the hidden states of --prompts. The default is normal.
    #[arg(long, value_enum, hide_possible_values = true, requires = "moe", help_heading = "Width")]
    pub router: Option<RouterArg>,
    /// Standard deviation of a normal router [default: 0.02]
    #[arg(long, value_name = "STD", requires = "moe", allow_hyphen_values = true, value_parser = positive_real, help_heading = "Width")]
    pub router_std: Option<f64>,
    /// Text file for --router hidden, with the prompts of one expert per line
    #[arg(long, value_name = "FILE", requires = "moe", help_heading = "Width")]
    pub prompts: Option<PathBuf>,
    /// Noise on the experts, σ times the std of each matrix
    #[arg(
        long,
        value_name = "σ",
        requires = "moe",
        conflicts_with = "drop",
        allow_hyphen_values = true,
        help_heading = "Width"
    )]
    pub noise: Option<f64>,
    /// Drop-upcycling: reinitialize a fraction R of each expert
    ///
    /// R is the fraction of the intermediate dimensions of each expert.
    #[arg(long, value_name = "R", requires = "moe", allow_hyphen_values = true, help_heading = "Width")]
    pub drop: Option<f64>,
    /// Split each expert into G finer ones; each token visits G times as many
    #[arg(long, value_name = "G", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Width")]
    pub granularity: Option<usize>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, help_heading = "Width")]
    pub seed: u64,
}

/// Leaves the rarer options to `--help`.
fn brief(arg: Arg) -> Arg {
    const RARE: [&str; 9] = [
        "router_std",
        "prompts",
        "granularity",
        "moe_layout",
        "allow_nonfinite",
        "saturate",
        "discard_modified",
        "mergekit_compat",
        "check_text",
    ];
    let is_rare = RARE.contains(&arg.get_id().as_str());
    if is_rare { arg.hide_short_help(true) } else { arg }
}

/// `--router`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RouterArg {
    /// Independent normal numbers.
    Normal,
    /// Zeros.
    Zero,
    /// Rows at right angles.
    Orthogonal,
    /// Mean router inputs of prompts.
    Hidden,
}

/// `--out-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutType {
    /// A Hugging Face directory.
    Hf,
    /// A GGUF file with matrices of this type.
    Gguf(GgufArg),
}

/// The type of the matrices of a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufArg {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Blocks of 32 numbers of 8 bits with a scale.
    Q8_0,
    /// Blocks of 32 numbers of 4 bits with a scale.
    Q4_0,
    /// Blocks of 256 numbers of 4 bits, mixed as llama.cpp's Q4_K_M.
    Q4K,
    /// Blocks of 256 numbers of 2 bits, mixed as llama.cpp's Q2_K_S.
    Q2K,
}

impl OutType {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "hf" => Ok(Self::Hf),
            "gguf:f32" => Ok(Self::Gguf(GgufArg::F32)),
            "gguf:f16" => Ok(Self::Gguf(GgufArg::F16)),
            "gguf:bf16" => Ok(Self::Gguf(GgufArg::Bf16)),
            "gguf:q8_0" => Ok(Self::Gguf(GgufArg::Q8_0)),
            "gguf:q4_0" => Ok(Self::Gguf(GgufArg::Q4_0)),
            "gguf:q4_k" => Ok(Self::Gguf(GgufArg::Q4K)),
            "gguf:q2_k" => Ok(Self::Gguf(GgufArg::Q2K)),
            _ => Err(format!(
                "{text:?} is not one of hf, gguf:f32, gguf:f16, gguf:bf16, gguf:q8_0, gguf:q4_0, gguf:q4_k, gguf:q2_k"
            )),
        }
    }
}

/// `--moe-layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutArg {
    /// `block_sparse_moe.experts.N.w1` and so on.
    V4,
    /// `mlp.experts.gate_up_proj` and `down_proj`.
    V5,
}

impl GrowthArgs {
    /// The growths asked for.
    ///
    /// # Errors
    /// If options do not make sense together.
    pub(in crate::cli) fn request(&self) -> Result<GrowthRequest, Failure> {
        let is_hidden = self.router == Some(RouterArg::Hidden);
        if self.router_std.is_some() && !matches!(self.router, None | Some(RouterArg::Normal)) {
            return Err(Failure::usage("--router-std is for --router normal"));
        }
        if is_hidden && self.prompts.is_none() {
            let message = "--router hidden needs --prompts, a file with the prompt of one expert a line";
            return Err(Failure::usage(message));
        }
        if self.prompts.is_some() && !is_hidden {
            return Err(Failure::usage("--prompts is for --router hidden"));
        }
        let plans = [
            self.dus.map(|overlap| GrowthPlan::DepthUpScaling { overlap }),
            self.stack.map(|copies| GrowthPlan::Stack { copies }),
            self.identity_blocks.map(|num_blocks| GrowthPlan::IdentityBlocks { num_blocks }),
            self.moe.map(|experts| GrowthPlan::Upcycle(self.upcycle(experts))),
            self.granularity.map(|num_parts| GrowthPlan::Granularity { num_parts }),
        ];
        Ok(GrowthRequest { plans: plans.into_iter().flatten().collect(), prompts: self.prompts.clone() })
    }

    fn upcycle(&self, experts: usize) -> UpcyclePlan {
        let init = match (self.noise, self.drop) {
            (Some(relative_std), _) => ExpertInit::Noise { relative_std },
            (None, Some(ratio)) => ExpertInit::Drop { ratio },
            (None, None) => ExpertInit::Copy,
        };
        let router = match self.router {
            Some(RouterArg::Zero) => RouterInit::Zero,
            Some(RouterArg::Orthogonal) => RouterInit::Orthogonal,
            _ => self.router_std.map_or_else(RouterInit::default, |std| RouterInit::Normal { std }),
        };
        let top_k = self.top_k.unwrap_or(DEFAULT_TOP_K);
        UpcyclePlan { init, router, seed: self.seed, ..UpcyclePlan::new(experts, top_k) }
    }

    /// The failure of a growth, under the option that asked for it.
    pub(in crate::cli) fn blame(&self, error: UpscaleError) -> Failure {
        match error {
            UpscaleError::Plan(error) => self.blame_plan(error),
            error => error.into(),
        }
    }

    fn blame_plan(&self, source: PlanError) -> Failure {
        let given = |name: &str, value: &dyn Display| Some(format!("--{name} {value}"));
        let (moe, granularity) = (self.moe.unwrap_or_default(), self.granularity.unwrap_or_default());
        let option = match &source {
            PlanError::OutOfRange { field: "relative_std", found, .. } => given("noise", found),
            PlanError::OutOfRange { field: "drop ratio", found, .. } => given("drop", found),
            PlanError::OutOfRange { field: "router std", found, .. } => given("router-std", found),
            PlanError::TooManyOrthogonalRows { .. } => given("router", &"orthogonal"),
            PlanError::AlreadySparse { .. } => given("moe", &moe),
            PlanError::Dense | PlanError::UnevenParts { .. } => given("granularity", &granularity),
            // Not --top-k, which has another name beside options of sampling; the message says the number.
            PlanError::Config(
                ConfigError::Zero { field: "num_local_experts" | "num_experts_per_tok" }
                | ConfigError::TooFewExperts { .. },
            ) => given("moe", &moe),
            PlanError::Config(_) => None,
            _ => {
                let depth = [("dus", self.dus), ("stack", self.stack), ("identity-blocks", self.identity_blocks)];
                depth.iter().find_map(|(name, value)| Some(format!("--{name} {}", (*value)?)))
            }
        };
        match option {
            Some(option) => Failure::from(source).for_option(option),
            None => source.into(),
        }
    }

    /// Options that say how to grow a base, which a mergekit file says itself.
    pub(in crate::cli) fn options(&self) -> Vec<&'static str> {
        let given = [
            ("--dus", self.dus.is_some()),
            ("--stack", self.stack.is_some()),
            ("--identity-blocks", self.identity_blocks.is_some()),
            ("--moe", self.moe.is_some()),
            ("--granularity", self.granularity.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

impl GrowArgs {
    /// What may happen to an output that is already at OUT.
    pub(super) fn existing(&self) -> Existing {
        Existing::of(self.force, self.discard_modified)
    }

    /// Whether the base is to be written in another form, so that not growing it makes sense.
    pub(super) fn converts(&self) -> bool {
        self.dtype.is_some() || self.out_type != OutType::Hf || self.moe_layout != LayoutArg::V4
    }

    /// Options of Hugging Face's format, which GGUF has no place for.
    pub(super) fn hf_options(&self) -> Option<&'static str> {
        let given = [
            ("--dtype", self.dtype.is_some()),
            ("--moe-layout", self.moe_layout != LayoutArg::V4),
            ("--saturate", self.saturate),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_write_has_one_spelling() {
        assert_eq!(OutType::parse("gguf:q8_0"), Ok(OutType::Gguf(GgufArg::Q8_0)));
        assert!(OutType::parse("gguf").unwrap_err().contains("gguf:f16"));
    }
}
