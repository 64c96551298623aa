//! `compare`: grow a base deep and wide beside a dense control, train all at matched FLOPs, say which paid.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::progress::Watcher;
use super::run_info::run_info;
use super::values::{DtypeArg, count, not_negative, positive_real};
use crate::config::DecoderConfig;
use crate::data::language::{Language, Split};
use crate::data::text::TextFile;
use crate::data::{DataError, Windows, check_vocabulary};
use crate::device::device;
use crate::figure::draw_study;
use crate::formats::HfDirectory;
use crate::growth::PlanError;
use crate::output::commit::write_file_atomically;
use crate::profile::flops::train_flops;
use crate::report::{BaseInfo, DataInfo, Study, StudySettings, table, verdict};
use crate::study::{self, Budget, Outcome, PlanOptions, RunOptions, StudyData, StudyError, StudyPlan, Units};
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// Where the built-in base lies in the source.
const BUILTIN_BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/pico_base");

/// Tokens decoded per timing.
const DECODE_TOKENS: usize = 16;

/// Grow a base deep and wide, train both at equal FLOPs, and compare
///
/// Grows one pretrained decoder deep (depth up-scaling) and wide (top-k mixture of experts), trains both and a dense control
/// at equal training FLOPs, and compares quality, compute, memory and speed.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Directory of a dense Llama or Mistral [default: built-in base]
    ///
    /// A Hugging Face directory; it needs --data.
    #[arg(long, value_name = "DIR", help_heading = "Base and data")]
    pub base: Option<PathBuf>,
    /// Text to train on, .txt or .jsonl [default: built-in language]
    ///
    /// Each line of .jsonl has a "text". The last tenth is held out.
    #[arg(long, value_name = "FILE", help_heading = "Base and data")]
    pub data: Option<PathBuf>,
    /// Overlaps of further deep arms
    ///
    /// An overlap is the number of layers dropped from each of the two copies. One arm always has the overlap that matches the
    /// FLOPs of the wide arm.
    #[arg(long, value_name = "M", value_delimiter = ',', allow_negative_numbers = true, value_parser = not_negative, help_heading = "Arms")]
    pub m: Vec<usize>,
    /// Experts per layer of the wide arm
    #[arg(long, default_value_t = 8, help_heading = "Arms")]
    pub experts: usize,
    /// Experts per token of the wide arm
    #[arg(long, default_value_t = 2, help_heading = "Arms")]
    pub top_k: usize,
    /// Training FLOPs of each arm, such as 3e12 [default: 6e11]
    ///
    /// With --quick, the default is 1.5e11.
    #[arg(long, value_parser = count, conflicts_with = "tokens", help_heading = "Training")]
    pub flops: Option<u64>,
    /// Training tokens of the control; other arms get equal FLOPs
    ///
    /// With --base, the default budget is 16384 tokens, with --quick too 512.
    #[arg(long, value_parser = count, help_heading = "Training")]
    pub tokens: Option<u64>,
    /// Runs per arm; from 2 on with 95 % intervals [default: 3]
    ///
    /// The seeds are 1 to K. With --quick or --base, the default is 1.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1000), help_heading = "Training")]
    pub seeds: Option<u64>,
    /// Peak learning rate [default: 2e-3, 1e-4 with --base]
    #[arg(long, allow_hyphen_values = true, value_parser = positive_real, help_heading = "Training")]
    pub lr: Option<f64>,
    /// Windows per update [default: 8, 4 with --quick or --base, 1 with both]
    #[arg(long, help_heading = "Training")]
    pub batch_size: Option<usize>,
    /// Tokens per window [default: 128, 256 with --base]
    #[arg(long, help_heading = "Training")]
    pub seq_length: Option<usize>,
    /// flex; cuda, cuda:1, vulkan, ndarray, tch:cpu in other builds
    #[arg(long, default_value = "flex", help_heading = "Measuring")]
    pub device: String,
    /// float32, float16 or bfloat16, for timings and memory
    ///
    /// Training is in float32.
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = DtypeArg::Float32, help_heading = "Measuring")]
    pub dtype: DtypeArg,
    /// Folder for results.json, results.md and the figures
    ///
    /// Files of these names in it are replaced. The default is out/compare_dus_moe, with a suffix for --quick, for --base
    /// and for any other option that changes results.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// A short run: some twenty seconds; with --base 2 updates
    #[arg(long, help_heading = "Training")]
    pub quick: bool,
    /// Print results.json on stdout instead of the table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

impl CompareArgs {
    /// Whether no option that changes results was given, `--quick` aside.
    fn is_as_it_comes(&self) -> bool {
        self.data.is_none()
            && self.m.is_empty()
            && (self.experts, self.top_k) == (8, 2)
            && (self.flops, self.tokens, self.lr, self.seeds) == (None, None, None, None)
            && (self.batch_size, self.seq_length) == (None, None)
            && self.device == "flex"
            && self.dtype == DtypeArg::Float32
    }

    /// The failure of a plan under the option that asked for it.
    fn blame(&self, error: StudyError) -> Failure {
        let StudyError::Plan(source) = error else { return error.into() };
        let option = match &source {
            PlanError::OverlapTooLarge { overlap, .. } => format!("--m {overlap}"),
            PlanError::Config(_) => format!("--experts {} --top-k {}", self.experts, self.top_k),
            _ => return source.into(),
        };
        Failure::from(source).for_option(option)
    }
}

/// Numbers that the arguments leave open, by what is asked: built-in or real base, quick or not.
struct Defaults {
    budget: Budget,
    seeds: u64,
    learning_rate: f64,
    batch_size: usize,
    seq_length: usize,
    micro_batch_size: usize,
    heldout_windows: usize,
    num_evals: usize,
    num_rounds: usize,
}

impl Defaults {
    fn of(args: &CompareArgs) -> Self {
        let builtin = Self {
            budget: Budget::Flops(600_000_000_000),
            seeds: 3,
            learning_rate: 2e-3,
            batch_size: 8,
            seq_length: 128,
            micro_batch_size: 8,
            heldout_windows: 64,
            num_evals: 10,
            num_rounds: 9,
        };
        match (&args.base, args.quick) {
            (None, false) => builtin,
            (None, true) => Self {
                budget: Budget::Flops(150_000_000_000),
                seeds: 1,
                batch_size: 4,
                micro_batch_size: 4,
                heldout_windows: 24,
                num_evals: 4,
                ..builtin
            },
            (Some(_), quick) => Self {
                budget: Budget::ControlTokens(if quick { 512 } else { 16_384 }),
                seeds: 1,
                learning_rate: 1e-4,
                batch_size: if quick { 1 } else { 4 },
                seq_length: 256,
                micro_batch_size: 1,
                heldout_windows: if quick { 2 } else { 16 },
                num_evals: if quick { 1 } else { 4 },
                num_rounds: 3,
            },
        }
    }
}

/// Runs the comparison: checks every input, trains, prints the table and the verdict, writes the files.
///
/// # Errors
/// Every fault of the input, before any work and before anything is written; then what training or the disk meets.
pub fn run(args: &CompareArgs) -> Result<(), Failure> {
    let defaults = Defaults::of(args);
    let seq_length = positive("seq-length", args.seq_length.unwrap_or(defaults.seq_length))?;
    let batch_size = positive("batch-size", args.batch_size.unwrap_or(defaults.batch_size))?;
    let num_seeds = args.seeds.unwrap_or(defaults.seeds);
    let budget = match (args.flops, args.tokens) {
        (Some(flops), _) => Budget::Flops(flops),
        (None, Some(tokens)) => Budget::ControlTokens(tokens),
        (None, None) => defaults.budget,
    };
    let out = out_folder(args)?;
    if let (Some(base), None) = (&args.base, &args.data) {
        return Err(Failure::usage(format_args!(
            "--base {base:?} needs --data: the built-in language is written in the vocabulary of the built-in base"
        )));
    }
    args.base.as_deref().map_or(Ok(()), is_local_directory)?;
    let base = HfDirectory::open(args.base.as_deref().unwrap_or(Path::new(BUILTIN_BASE)))?;
    base.config().computable().map_err(|error| Failure::invalid(format_args!("{:?}: {error}", base.path())))?;
    let plan_options = PlanOptions {
        overlaps: args.m.clone(),
        num_local_experts: args.experts,
        num_experts_per_tok: args.top_k,
        budget,
        batch_size,
        seq_length,
    };
    fits(base.config(), seq_length)?;
    let plan = StudyPlan::new(base.config(), &plan_options).map_err(|error| args.blame(error))?;
    let data = match &args.data {
        None => {
            let num_windows = windows_needed(base.config(), &plan, batch_size, seq_length)?;
            builtin_data(seq_length, num_windows, defaults.heldout_windows)?
        }
        Some(file) => text_data(file, &base, seq_length, defaults.heldout_windows)?,
    };
    let device = device(&args.device)?;

    let settings = StudySettings {
        train_flops_budget_flops: plan.budget_flops,
        batch_size,
        seq_length,
        learning_rate: args.lr.unwrap_or(defaults.learning_rate),
        warmup_fraction: 0.1,
        weight_decay: 0.1,
        seeds: (1..=num_seeds).collect(),
        match_rule: plan.match_rule.clone(),
    };
    let sha256 = base.weights_sha256(&mut |_| ())?;
    let options = RunOptions {
        settings: settings.clone(),
        micro_batch_size: (1..=defaults.micro_batch_size).rev().find(|n| batch_size.is_multiple_of(*n)).unwrap_or(1),
        num_evals: defaults.num_evals,
        dtype: args.dtype.dtype(),
        decode_tokens: DECODE_TOKENS,
        num_rounds: defaults.num_rounds,
        identity: format!("{} {sha256}", build_hash()?),
    };
    let info = run_info(&args.device, &args.dtype.dtype().to_string());
    let mut watcher = Watcher::new();
    let units = Units::in_folder(out.join("units"));
    let Outcome { arms, rounds, base_loss_nats } =
        study::run(&base, &plan, &data, &options, &units, &device, |progress| watcher.show(progress))?;
    drop(watcher);
    let study = Study {
        run: info,
        base: BaseInfo {
            name: file_name(args.base.as_deref(), "pico (built-in)"),
            sha256: Some(sha256),
            config: base.config().clone(),
            heldout_loss_nats: base_loss_nats,
        },
        data: DataInfo {
            name: file_name(args.data.as_deref(), "built-in language"),
            train_tokens: (data.train.len() * seq_length) as u64,
            heldout_tokens: (data.heldout.len() * seq_length) as u64,
            floor_nats: data.heldout.floor_nats(),
            topics: data.topics,
        },
        settings,
        arms,
        rounds,
    };
    let json = study.to_json()?;
    write(&study, &json, &out)?;
    if args.json {
        super::output::print(&format!("{json}\n"))?;
    } else {
        super::output::print(&format!("{}\n{}\n", table::to_text(&study), verdict(&study)))?;
        super::console::tell(format_args!("written to {}", out.display()));
    }
    Ok(())
}

/// Hash of this program: finished runs of another build are not reused.
fn build_hash() -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(Failure::reading(Path::new("the program")))?;
    let file = std::fs::File::open(&program).map_err(Failure::reading(&program))?;
    let mut hash = blake3::Hasher::new();
    Ok(hash.update_reader(file).map_err(Failure::reading(&program))?.finalize().to_hex().to_string())
}

fn positive(option: &'static str, number: usize) -> Result<usize, Failure> {
    match number {
        0 => Err(Failure::usage(format_args!("--{option} is 0, expected at least 1"))),
        _ => Ok(number),
    }
}

/// Names the other forms in which a base may be given elsewhere.
fn is_local_directory(base: &Path) -> Result<(), Failure> {
    if base.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        return Err(Failure::invalid(format_args!(
            "--base {base:?} is a GGUF file, expected a Hugging Face directory; to make one: deepwide grow --dtype float32 {base:?} DIR"
        )));
    }
    let is_like_an_id = base.is_relative() && base.iter().count() == 2 && !base.starts_with("..");
    if is_like_an_id && !base.exists() {
        return Err(Failure::not_found(format_args!(
            "--base {base:?} does not exist: compare takes a local directory, not an id on the hub"
        )));
    }
    Ok(())
}

/// Where results go: what was asked for, or a folder by what was asked. The plain one is for the study as it comes.
fn out_folder(args: &CompareArgs) -> Result<PathBuf, Failure> {
    let default = || {
        let base = args.base.as_deref().map(|base| format!("_{}", file_name(Some(base), "base")));
        let quick = if args.quick { "_quick" } else { "" };
        let custom = if args.base.is_none() && !args.is_as_it_comes() { "_custom" } else { "" };
        Path::new("out").join(format!("compare_dus_moe{}{custom}{quick}", base.unwrap_or_default()))
    };
    let path = args.out.clone().unwrap_or_else(default);
    let existing = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("."));
    match tempfile::tempfile_in(existing) {
        Ok(_) => Ok(path),
        Err(_) => {
            Err(Failure::usage(format_args!("--out {path:?}: {existing:?} is not a folder that can be written to")))
        }
    }
}

fn fits(base: &DecoderConfig, seq_length: usize) -> Result<(), Failure> {
    let max_position_embeddings = base.max_position_embeddings;
    if seq_length.saturating_add(DECODE_TOKENS) <= max_position_embeddings {
        return Ok(());
    }
    Err(Failure::invalid(format_args!(
        "--seq-length {seq_length} exceeds max_position_embeddings {max_position_embeddings} of the base less {DECODE_TOKENS} tokens to decode"
    )))
}

/// Windows that the longest-running arm, the control, sees in one epoch of fresh text.
fn windows_needed(
    base: &DecoderConfig,
    plan: &StudyPlan,
    batch_size: usize,
    seq_length: usize,
) -> Result<usize, Failure> {
    /// Four gigabytes of windows.
    const MOST_IDS: u128 = 1 << 28;
    let update = train_flops(base, batch_size as u64, seq_length as u64).max(1);
    let num_windows = u128::from(plan.budget_flops).div_ceil(update) * batch_size as u128;
    let most = MOST_IDS / (seq_length as u128 + 1);
    if num_windows > most {
        return Err(Failure::invalid(format_args!(
            "the budget takes {num_windows} windows of fresh text, expected at most {most}"
        )));
    }
    Ok(num_windows as usize)
}

/// Fresh documents of the built-in language: training never repeats one.
fn builtin_data(seq_length: usize, num_windows: usize, heldout_windows: usize) -> Result<StudyData, DataError> {
    /// Documents before this one pretrained the built-in base.
    const FIRST_FRESH: u64 = 1 << 32;
    let language = &Language::builtin();
    let documents = |split, first: u64| (first..).map(move |index| language.document(split, index));
    Ok(StudyData {
        train: Windows::aligned(documents(Split::Train, FIRST_FRESH), seq_length, num_windows)?,
        heldout: Windows::aligned(documents(Split::HeldOut, 0), seq_length, heldout_windows)?,
        topics: language.topics().iter().map(|topic| (*topic).to_owned()).collect(),
    })
}

/// A file's text by the base's tokenizer: the last tenth held out, of which at most `heldout_windows` are scored.
fn text_data(file: &Path, base: &HfDirectory, seq_length: usize, heldout_windows: usize) -> Result<StudyData, Failure> {
    let text = TextFile::read(file)?;
    let tokenizer = Tokenizer::from_directory(base.path())?;
    let documents = text.tokenize(&tokenizer, |_| ())?;
    check_vocabulary(&documents, base.config().vocab_size)?;
    let windows = Windows::contiguous(&documents, tokenizer.eos().first().copied(), seq_length)?;
    let (train, heldout) = windows.split_heldout(0.1)?;
    Ok(StudyData { train, heldout: heldout.first(heldout_windows), topics: vec!["all text".to_owned()] })
}

fn file_name(path: Option<&Path>, otherwise: &str) -> String {
    let name = path.and_then(Path::file_name);
    name.map_or_else(|| otherwise.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Draws every figure first, then writes the files, the record last.
fn write(study: &Study, json: &str, out: &Path) -> Result<(), Failure> {
    let figures = draw_study(study)?;
    std::fs::create_dir_all(out).map_err(Failure::writing(out))?;
    for figure in figures {
        write_file_atomically(&out.join(format!("{}.svg", figure.name)), figure.svg.as_bytes())?;
        write_file_atomically(&out.join(format!("{}.png", figure.name)), &figure.png)?;
    }
    let markdown = format!("{}\n{}\n", table::to_markdown(study), verdict(study));
    write_file_atomically(&out.join("results.md"), markdown.as_bytes())?;
    Ok(write_file_atomically(&out.join("results.json"), json.as_bytes())?)
}
