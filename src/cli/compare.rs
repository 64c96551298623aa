//! `compare`: grow a base deep and wide beside a dense control, train all at matched FLOPs, say which paid.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::progress::Watcher;
use super::run_info::{build, run_info};
use super::values::{DtypeArg, count, not_negative, positive_real, size};
use super::{console, finish, interrupt, output};
use crate::device::device;
use crate::growth::PlanError;
use crate::output::commit::Existing;
use crate::report::{FEWEST_UPDATES, RunInfo, Study, table, verdict};
use crate::study::{Budget, Comparison, NUM_EXPERTS_PER_TOK, NUM_LOCAL_EXPERTS, Request, StudyError, StudyFolder};

/// Grow a base deep and wide, train both at equal FLOPs, and compare
///
/// Grows one pretrained decoder deep (depth up-scaling) and wide (top-k mixture of experts), trains both and a dense control
/// at equal training FLOPs, and compares quality, compute, memory and speed.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Directory of a dense Llama or Mistral [default: built-in base]
    ///
    /// A Hugging Face directory; it needs --data, unless its tokens are the words of the built-in language.
    #[arg(long, value_name = "DIR", help_heading = "Base and data")]
    pub base: Option<PathBuf>,
    /// File of text to train on [default: built-in language]
    ///
    /// A .txt, .jsonl, .json or .csv file, also with .gz or .zst, a .parquet or an .arrow file. Each row has a "text". The last
    /// tenth is held out.
    #[arg(long, value_name = "FILE", help_heading = "Base and data")]
    pub data: Option<PathBuf>,
    /// Overlaps of further deep arms
    ///
    /// An overlap is the number of layers dropped from each of the two copies. One arm always has the overlap that matches the
    /// FLOPs of the wide arm.
    #[arg(long, value_name = "M", value_delimiter = ',', allow_negative_numbers = true, value_parser = not_negative, help_heading = "Arms")]
    pub m: Vec<usize>,
    /// Experts per layer of the wide arm
    #[arg(long, default_value_t = NUM_LOCAL_EXPERTS, help_heading = "Arms")]
    pub experts: usize,
    /// Experts per token of the wide arm
    #[arg(long, default_value_t = NUM_EXPERTS_PER_TOK, help_heading = "Arms")]
    pub top_k: usize,
    /// Training FLOPs of each arm, such as 3e12 [default: 6e11]
    ///
    /// With --quick, the default is 1.5e11.
    #[arg(long, value_parser = count, conflicts_with = "tokens", help_heading = "Training")]
    pub flops: Option<u64>,
    /// Training tokens of the control; other arms get equal FLOPs
    ///
    /// With --data, the default budget is 16384 tokens, or 512 with --quick.
    #[arg(long, value_parser = count, help_heading = "Training")]
    pub tokens: Option<u64>,
    /// Runs per arm; 2 or more give 95 % intervals [default: 3]
    ///
    /// The seeds are 1 to K. With --quick or --data, the default is 1.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1000), help_heading = "Training")]
    pub seeds: Option<u64>,
    /// Peak learning rate [default: 2e-3, 1e-4 with --data]
    #[arg(long, allow_hyphen_values = true, value_parser = positive_real, help_heading = "Training")]
    pub lr: Option<f64>,
    /// Windows per update [default: 8, 4 with --quick or --data, 1 with both]
    #[arg(long, value_parser = size, help_heading = "Training")]
    pub batch_size: Option<usize>,
    /// Maximum windows per pass [default: 8, 4 with --quick, 1 with --data]
    ///
    /// Larger values are faster on a GPU, and take more memory.
    #[arg(long, value_parser = size, hide_short_help = true, help_heading = "Training")]
    pub micro_batch_size: Option<usize>,
    /// Tokens per window [default: 128, 256 with --data]
    #[arg(long, value_parser = size, help_heading = "Training")]
    pub seq_length: Option<usize>,
    /// Device: flex; in builds with their features also cuda, cuda:1, vulkan, wgpu, ndarray, tch:cpu
    #[arg(long, default_value = "flex", help_heading = "Measuring")]
    pub device: String,
    /// float32, float16 or bfloat16, for timings and memory
    ///
    /// Training is in float32.
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = DtypeArg::Float32, help_heading = "Measuring")]
    pub dtype: DtypeArg,
    /// Folder for results.json, results.md and the figures
    ///
    /// An interrupted study in this folder is continued. A finished one is shown again, with a note if another build or
    /// machine made it; only --force trains it again. The default is out/compare_dus_moe, with a suffix for --quick, for
    /// --base and for any other option that changes results.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Run a finished study again; replace another one in the folder
    #[arg(long, short = 'y', help_heading = "Output")]
    pub force: bool,
    /// A short run: about twenty seconds; with --data, few updates
    ///
    /// A base of more than 10 million parameters is trained on windows of 64 tokens, one per update, and timed once.
    #[arg(long, help_heading = "Training")]
    pub quick: bool,
    /// Print results.json on stdout instead of the table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

impl CompareArgs {
    fn request(&self) -> Request {
        let tokens = self.tokens.map(Budget::ControlTokens);
        Request {
            base: self.base.clone(),
            data: self.data.clone(),
            overlaps: self.m.clone(),
            num_local_experts: self.experts,
            num_experts_per_tok: self.top_k,
            budget: self.flops.map(Budget::Flops).or(tokens),
            num_seeds: self.seeds,
            learning_rate: self.lr,
            batch_size: self.batch_size,
            micro_batch_size: self.micro_batch_size,
            seq_length: self.seq_length,
            dtype: self.dtype.dtype(),
            quick: self.quick,
        }
    }

    /// The directory asked for, or one by what else was asked for.
    fn out(&self) -> PathBuf {
        let default = || {
            let base =
                self.base.as_deref().and_then(Path::file_name).map(|name| format!("_{}", name.to_string_lossy()));
            let custom = if self.base.is_none() && !self.is_as_it_comes() { "_custom" } else { "" };
            let quick = if self.quick { "_quick" } else { "" };
            Path::new("out").join(format!("compare_dus_moe{}{custom}{quick}", base.unwrap_or_default()))
        };
        self.out.clone().unwrap_or_else(default)
    }

    /// Whether no option that changes results was given, `--quick` aside.
    fn is_as_it_comes(&self) -> bool {
        self.data.is_none()
            && self.m.is_empty()
            && (self.experts, self.top_k) == (NUM_LOCAL_EXPERTS, NUM_EXPERTS_PER_TOK)
            && (self.flops, self.tokens, self.lr, self.seeds) == (None, None, None, None)
            && (self.batch_size, self.micro_batch_size, self.seq_length) == (None, None, None)
            && self.device == "flex"
            && self.dtype == DtypeArg::Float32
    }

    /// The failure under the option that caused it.
    fn blame(&self, error: StudyError) -> Failure {
        let option = match &error {
            StudyError::Plan(PlanError::OverlapTooLarge { overlap, .. }) => format!("--m {overlap}"),
            StudyError::Plan(PlanError::Config(_)) => format!("--experts {} --top-k {}", self.experts, self.top_k),
            StudyError::WindowTooLong { seq_length, .. } => format!("--seq-length {seq_length}"),
            StudyError::NoData { .. } => return Failure::usage(error).for_option("--data"),
            StudyError::TooLittleText { .. } => "--data".to_owned(),
            StudyError::NotWritable { .. } => return Failure::usage(error).for_option("--out"),
            _ => return error.into(),
        };
        Failure::from(error).for_option(option)
    }
}

/// Runs the comparison: checks every input, trains, writes the files, prints the table and the verdict. Of a study that was
/// finished before, prints them again.
///
/// # Errors
/// Any invalid input, before any work and before anything is written; then errors of training and I/O.
pub fn run(args: &CompareArgs) -> Result<(), Failure> {
    args.base.as_deref().map_or(Ok(()), is_local_directory)?;
    let existing = Existing::of(args.force, false);
    let folder = StudyFolder::new(args.out(), existing).map_err(|error| args.blame(error))?;
    let comparison = Comparison::new(&args.request()).map_err(|error| args.blame(error))?;
    let device = device(&args.device)?;
    let info = RunInfo { build: Some(build()?), ..run_info(&args.device, &args.dtype.dtype().to_string()) };
    if let Some(study) = comparison.finished(&folder, &info)? {
        let (date, path) = (&study.run.date, folder.path().display());
        console::tell(format_args!("finished before ({date}), not run again (--force runs it again)"));
        let differences = study.run.differences_from(&info);
        if !differences.is_empty() {
            console::tell(format_args!("note: it was made with {}", differences.join(", ")));
        }
        print(&study, args.json)?;
        console::tell(format_args!("record and figures are in {path}"));
        return Ok(());
    }
    if folder.has_results() {
        console::tell(format_args!(
            "the results in {} will be replaced; use --out to keep them",
            folder.path().display()
        ));
    }
    if let Some(warning) = few_updates(comparison.updates()) {
        console::tell(format_args!("warning: {warning}"));
    }
    comparison.claim(&folder, &info, &device).map_err(|error| args.blame(error))?;
    interrupt::catch();
    let study = interrupt::at_once(tell_stop(&folder, args.json), || {
        let mut watcher = Watcher::new();
        comparison.run(&folder, info, &device, |progress| watcher.show(progress))
    })?;
    // The record is complete within seconds, so a first signal no longer ends the process.
    folder.write(&study)?;
    print(&study, args.json)?;
    console::tell(format_args!("written to {}", folder.path().display()));
    Ok(())
}

/// Prints the record, or its table and verdict.
fn print(study: &Study, json: bool) -> Result<(), Failure> {
    output::print(&match json {
        true => format!("{}\n", study.to_json().map_err(StudyError::from)?),
        false => format!("{}\n{}\n", table::to_text(study), verdict(study)),
    })
}

/// Says what is kept after a signal. Files are renamed into place when they are complete, so the process may end at any time.
fn tell_stop(folder: &StudyFolder, json: bool) -> impl FnOnce(i32) + Send + 'static {
    let folder = folder.clone();
    move |signal| {
        let path = folder.path();
        let kept = match folder.num_kept_runs() {
            0 => format!("no finished run is in {path:?}, so the same command begins anew"),
            1 => format!("{path:?} keeps the finished run, and the same command goes on from there"),
            count => format!("{path:?} keeps the {count} finished runs, and the same command goes on from there"),
        };
        if console::shows_bars() {
            // Ends the line of the progress bar.
            console::fail("");
        }
        finish(Err(Failure::runtime(format_args!("stopped by signal {signal}: {kept}"))), json);
    }
}

/// Names the arms that get too few updates for losses to be compared.
fn few_updates<'a>(updates: impl Iterator<Item = (&'a str, usize)>) -> Option<String> {
    let few = updates.filter(|(_, num_steps)| *num_steps < FEWEST_UPDATES);
    let each: Vec<String> = few.map(|(arm, num_steps)| format!("{arm} {num_steps}")).collect();
    (!each.is_empty()).then(|| {
        format!(
            "some arms get fewer than {FEWEST_UPDATES} updates ({}), so no losses will be compared; raise --tokens or --flops",
            each.join(", ")
        )
    })
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

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::study::{Defaults, LARGE_BASE};

    #[test]
    fn the_help_states_the_defaults() {
        let command = CompareArgs::augment_args(Command::new("compare"));
        let help = |id: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
            format!("{} {}", arg.get_help().unwrap(), arg.get_long_help().unwrap_or_default())
        };
        let given = Some(Path::new("text.txt"));
        let base = DecoderConfig::pico();
        let [plain, quick, data, both] = [(None, false), (None, true), (given, false), (given, true)]
            .map(|(data, quick)| Defaults::new(&base, data, quick));
        let says = |id: &str, text: String| assert!(help(id).contains(&text), "--{id}: {} has no {text:?}", help(id));
        let flops = |defaults: Defaults| match defaults.budget {
            Budget::Flops(flops) => flops as f64,
            Budget::ControlTokens(_) => panic!("tokens"),
        };
        let tokens = |defaults: Defaults| match defaults.budget {
            Budget::ControlTokens(tokens) => tokens,
            Budget::Flops(_) => panic!("FLOPs"),
        };
        says("flops", format!("[default: {:e}]", flops(plain)));
        says("flops", format!("With --quick, the default is {:e}.", flops(quick)));
        says("tokens", format!("the default budget is {} tokens, or {} with --quick.", tokens(data), tokens(both)));
        says("seeds", format!("[default: {}]", plain.num_seeds));
        assert_eq!([quick, data, both].map(|defaults| defaults.num_seeds), [1; 3]);
        says("seeds", "With --quick or --data, the default is 1.".into());
        says("lr", format!("[default: {:e}, {:e} with --data]", plain.learning_rate, data.learning_rate));
        assert_eq!((quick.learning_rate, both.learning_rate), (plain.learning_rate, data.learning_rate));
        let [full, some, other, least] = [plain, quick, data, both].map(|defaults| defaults.batch_size);
        assert_eq!(some, other);
        says("batch_size", format!("[default: {full}, {some} with --quick or --data, {least} with both]"));
        says("seq_length", format!("[default: {}, {} with --data]", plain.seq_length, data.seq_length));
        assert_eq!((quick.seq_length, both.seq_length), (plain.seq_length, data.seq_length));
        let [full, some, one, same] = [plain, quick, data, both].map(|defaults| defaults.micro_batch_size);
        assert_eq!(one, same);
        says("micro_batch_size", format!("[default: {full}, {some} with --quick, {one} with --data]"));
        let large = Defaults::new(&DecoderConfig::smollm2_135m(), None, true);
        says("quick", format!("more than {} million parameters", LARGE_BASE / 1_000_000));
        says("quick", format!("windows of {} tokens, one per update, and timed once", large.seq_length));
        assert_eq!((large.batch_size, large.num_rounds), (1, 1));
    }

    #[test]
    fn few_updates_are_told_before_the_work() {
        assert_eq!(few_updates([("dense control", FEWEST_UPDATES), ("wide", 99)].into_iter()), None);
        let expected = "some arms get fewer than 20 updates (wide 19), so no losses will be compared; \
                        raise --tokens or --flops";
        assert_eq!(few_updates([("dense control", 33), ("wide", 19)].into_iter()).unwrap(), expected);
    }
}
