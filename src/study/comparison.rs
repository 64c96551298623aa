//! The main job: compare growing a base deep with growing it wide.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::data::StudyData;
use super::defaults::{DECODE_TOKENS, Defaults, WARMUP_FRACTION, WEIGHT_DECAY};
use super::error::StudyError;
use super::folder::StudyFolder;
use super::plan::{ArmSpec, Budget, PlanOptions, StudyPlan};
use super::run::{Outcome, Progress, RunOptions, run, unit_ids};
use crate::config::DecoderConfig;
use crate::data::language::Language;
use crate::error::InFile;
use crate::formats::HfDirectory;
use crate::profile::flops::train_flops;
use crate::report::{Arm, BaseInfo, RunInfo, Study, StudySettings};
use crate::tokenizer::Tokenizer;
use crate::weights::{Dtype, WeightSource};

/// Limit on the token ids of the built-in language; with their probabilities and topics they take 5 GiB.
const MOST_IDS: u128 = 1 << 28;

/// The comparison to make. [`Defaults`] replace `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Hugging Face directory of a dense decoder; `None` for the built-in base.
    pub base: Option<PathBuf>,
    /// Text to train and score on, `.txt` or `.jsonl`; `None` for the built-in language, for bases that have its words.
    pub data: Option<PathBuf>,
    /// Overlaps of further deep arms.
    pub overlaps: Vec<usize>,
    /// Experts per layer of the wide arm.
    pub num_local_experts: usize,
    /// Experts per token of the wide arm.
    pub num_experts_per_tok: usize,
    /// Training compute of each arm.
    pub budget: Option<Budget>,
    /// Runs per arm.
    pub num_seeds: Option<u64>,
    /// Peak learning rate.
    pub learning_rate: Option<f64>,
    /// Windows per update.
    pub batch_size: Option<usize>,
    /// Most windows per forward and backward pass.
    pub micro_batch_size: Option<usize>,
    /// Tokens per window.
    pub seq_length: Option<usize>,
    /// Type of the weights in timings and memory; training is in float32.
    pub dtype: Dtype,
    /// Whether the defaults are those of a quick study.
    pub quick: bool,
}

/// A study whose inputs are read and checked. Nothing is trained yet.
#[derive(Debug)]
pub struct Comparison {
    base: HfDirectory,
    base_name: String,
    plan: StudyPlan,
    data: StudyData,
    data_name: String,
    options: RunOptions,
}

impl Comparison {
    /// Opens the base, plans the arms and reads the text.
    ///
    /// # Errors
    /// [`StudyError`].
    pub fn new(request: &Request) -> Result<Self, StudyError> {
        let base = request.base.as_deref().map_or_else(HfDirectory::builtin, HfDirectory::open)?;
        let config = base.config();
        let defaults = Defaults::new(config, request.data.as_deref(), request.quick);
        if request.data.is_none() && !has_builtin_words(&base) {
            return Err(StudyError::NoData { base: base.path().to_owned() });
        }
        config.computable().map_err(|error| StudyError::NotComputable(InFile::new(base.path(), error)))?;
        let seq_length = request.seq_length.unwrap_or(defaults.seq_length);
        let batch_size = request.batch_size.unwrap_or(defaults.batch_size);
        let max_position_embeddings = config.max_position_embeddings;
        if seq_length.saturating_add(DECODE_TOKENS) > max_position_embeddings {
            let decode_tokens = DECODE_TOKENS;
            return Err(StudyError::WindowTooLong { seq_length, decode_tokens, max_position_embeddings });
        }
        let plan_options = PlanOptions {
            overlaps: request.overlaps.clone(),
            num_local_experts: request.num_local_experts,
            num_experts_per_tok: request.num_experts_per_tok,
            budget: request.budget.unwrap_or(defaults.budget),
            batch_size,
            seq_length,
        };
        let plan = StudyPlan::new(config, &plan_options)?;
        let data = match &request.data {
            Some(file) => StudyData::from_file(file, &base, seq_length, defaults.heldout_windows)?,
            None => {
                let num_windows = windows_needed(config, plan.budget_flops, batch_size, seq_length)?;
                StudyData::builtin(seq_length, num_windows, defaults.heldout_windows)?
            }
        };
        let most = request.micro_batch_size.unwrap_or(defaults.micro_batch_size);
        let divides = |size: &usize| batch_size.is_multiple_of(*size);
        let micro_batch_size = (1..=most).rev().find(divides).unwrap_or(1);
        let settings = StudySettings {
            train_flops_budget_flops: plan.budget_flops,
            batch_size,
            micro_batch_size: None,
            seq_length,
            learning_rate: request.learning_rate.unwrap_or(defaults.learning_rate),
            warmup_fraction: WARMUP_FRACTION,
            weight_decay: WEIGHT_DECAY,
            seeds: (1..=request.num_seeds.unwrap_or(defaults.num_seeds)).collect(),
            match_rule: plan.match_rule.clone(),
        };
        let options = RunOptions {
            settings,
            micro_batch_size,
            num_evals: defaults.num_evals,
            dtype: request.dtype,
            decode_tokens: DECODE_TOKENS,
            num_rounds: defaults.num_rounds,
            identity: base.weights_sha256(&mut |_| ())?,
        };
        let (base_name, data_name) = (
            file_name(request.base.as_deref(), "pico (built-in)"),
            file_name(request.data.as_deref(), "built-in language"),
        );
        Ok(Self { base, base_name, plan, data, data_name, options })
    }

    /// Name and number of updates of each arm.
    pub fn updates(&self) -> impl Iterator<Item = (&str, usize)> {
        self.plan.arms.iter().map(|arm| (arm.name.as_str(), arm.num_steps))
    }

    /// The complete results of this study in a directory, unless they are to be replaced. Another build or machine than
    /// that of `info` may have made them; see [`RunInfo::differences_from`].
    ///
    /// # Errors
    /// [`StudyError::OtherStudy`] and [`StudyError::NotAStudy`]; errors of reading.
    pub fn finished(&self, folder: &StudyFolder, info: &RunInfo) -> Result<Option<Study>, StudyError> {
        let found = folder.results_of(&self.without_results(info.clone()), &self.plan)?;
        let found = found.filter(|found| self.is_complete(found));
        if let Some(found) = &found {
            let _in_a_read_only_directory_they_stay = folder.units().remove_recorded(found);
        }
        Ok(found)
    }

    /// Whether a record of this study has every run, scored and timed as often as asked.
    fn is_complete(&self, found: &Study) -> bool {
        let RunOptions { num_evals, num_rounds, settings, .. } = &self.options;
        let is_scored = |(arm, spec): (&Arm, &ArmSpec)| {
            arm.runs.iter().map(|run| run.seed).eq(settings.seeds.iter().copied())
                && arm.runs.iter().all(|run| run.evals.len() >= (*num_evals).min(spec.num_steps))
        };
        found.check().is_ok()
            && found.rounds.len() >= *num_rounds
            && found.arms.iter().zip(&self.plan.arms).all(is_scored)
    }

    /// Takes a directory for this study: from here on, the runs that are kept there are its own.
    ///
    /// # Errors
    /// [`StudyError::OtherStudy`], [`StudyError::OtherRuns`], [`StudyError::NotAStudy`] and [`StudyError::NotWritable`];
    /// errors of the file system.
    pub fn claim(&self, folder: &StudyFolder, info: &RunInfo, device: &Device) -> Result<(), StudyError> {
        folder.results_of(&self.without_results(info.clone()), &self.plan)?;
        folder.check_writable()?;
        let units = folder.units();
        if let Some(found) = folder.results()? {
            units.remove_recorded(&found)?;
        }
        let ids = unit_ids(&self.plan, &self.data, &self.options_of(info), device);
        units.claim(ids.iter().map(|(_, id)| id))
    }

    /// Runs the study in a directory, which it [claims](Self::claim). Runs that the same program has finished there are not
    /// repeated. [`StudyFolder::write`] then writes the results.
    ///
    /// # Errors
    /// Those of [`claim`](Self::claim) before any work; those of [`run`](fn@run).
    pub fn run(
        &self,
        folder: &StudyFolder,
        info: RunInfo,
        device: &Device,
        watch: impl FnMut(Progress<'_>),
    ) -> Result<Study, StudyError> {
        self.claim(folder, &info, device)?;
        let (options, units) = (self.options_of(&info), folder.units());
        let Outcome { arms, rounds, base_loss_nats } =
            run(&self.base, &self.plan, &self.data, &options, &units, device, watch)?;
        let mut study = self.without_results(info);
        (study.arms, study.rounds, study.base.heldout_loss_nats) = (arms, rounds, base_loss_nats);
        Ok(study)
    }

    /// The options of the runs, which are known by the build too.
    fn options_of(&self, info: &RunInfo) -> RunOptions {
        let build = info.build.as_deref().unwrap_or_default();
        RunOptions { identity: format!("{build} {}", self.options.identity), ..self.options.clone() }
    }

    /// The record before the work.
    fn without_results(&self, info: RunInfo) -> Study {
        let RunOptions { settings, micro_batch_size, identity: sha256, .. } = &self.options;
        Study {
            run: info,
            base: BaseInfo {
                name: self.base_name.clone(),
                sha256: Some(sha256.clone()),
                config: self.base.config().clone(),
                heldout_loss_nats: f64::NAN,
            },
            data: self.data.info(self.data_name.clone()),
            settings: StudySettings { micro_batch_size: Some(*micro_batch_size), ..settings.clone() },
            arms: Vec::new(),
            rounds: Vec::new(),
        }
    }
}

/// Whether the tokens of a base are the words of the built-in language.
fn has_builtin_words(base: &HfDirectory) -> bool {
    let Ok(tokenizer) = Tokenizer::from_directory_on(&**base.disk(), base.path()) else { return false };
    let language = Language::builtin();
    let num_words = language.vocab().len();
    base.config().vocab_size >= num_words
        && tokenizer.vocab_size() == num_words
        && (0..).zip(language.vocab()).all(|(id, word)| tokenizer.token_to_id(word) == Some(id))
}

/// Windows that the longest-running arm, the control, sees in one epoch of fresh text.
fn windows_needed(
    base: &DecoderConfig,
    budget_flops: u64,
    batch_size: usize,
    seq_length: usize,
) -> Result<usize, StudyError> {
    let update = train_flops(base, batch_size as u64, seq_length as u64).max(1);
    let found = u128::from(budget_flops).div_ceil(update) * batch_size as u128;
    let limit = MOST_IDS / (seq_length as u128 + 1);
    if found > limit { Err(StudyError::BudgetTooLarge { found, limit }) } else { Ok(found as usize) }
}

fn file_name(path: Option<&Path>, otherwise: &str) -> String {
    let name = path.and_then(Path::file_name);
    name.map_or_else(|| otherwise.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::unit::UnitRecord;
    use super::*;
    use crate::device::device;
    use crate::output::commit::Existing;
    use crate::report::{TimingRound, fixture};

    /// The built-in base in the sources.
    const PICO_BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/pico_base");

    fn request() -> Request {
        Request {
            base: None,
            data: None,
            overlaps: Vec::new(),
            num_local_experts: 8,
            num_experts_per_tok: 2,
            budget: None,
            num_seeds: None,
            learning_rate: None,
            batch_size: None,
            micro_batch_size: None,
            seq_length: None,
            dtype: Dtype::Float32,
            quick: true,
        }
    }

    #[test]
    fn defaults_fill_in_what_is_not_asked_for() {
        let defaults = Defaults::new(&DecoderConfig::pico(), None, true);
        let plain = Comparison::new(&request()).unwrap();
        let settings = &plain.options.settings;
        assert_eq!(Budget::Flops(settings.train_flops_budget_flops), defaults.budget);
        assert_eq!((settings.batch_size, settings.seq_length), (defaults.batch_size, defaults.seq_length));
        assert_eq!((settings.learning_rate, &settings.seeds), (defaults.learning_rate, &vec![1]));
        assert_eq!(plain.data.heldout.len(), defaults.heldout_windows);
        let asked = Request {
            budget: Some(Budget::Flops(100_000_000_000)),
            num_seeds: Some(2),
            learning_rate: Some(0.5),
            batch_size: Some(6),
            seq_length: Some(32),
            ..request()
        };
        let Comparison { options, data, .. } = Comparison::new(&asked).unwrap();
        assert_eq!(options.settings.train_flops_budget_flops, 100_000_000_000);
        assert_eq!((options.settings.batch_size, data.train.seq_length()), (6, 32));
        assert_eq!((options.settings.learning_rate, options.settings.seeds), (0.5, vec![1, 2]));
        assert_eq!(options.micro_batch_size, 3, "the largest divisor of 6 up to the default 4");
        let large = Comparison::new(&Request { micro_batch_size: Some(100), ..asked }).unwrap();
        assert_eq!(large.options.micro_batch_size, 6);
    }

    #[test]
    fn the_control_sees_no_window_twice() {
        let Comparison { plan, data, options, .. } = Comparison::new(&request()).unwrap();
        let seen = plan.arms[0].num_steps * options.settings.batch_size;
        assert!(seen <= data.train.len(), "{seen} of {}", data.train.len());
    }

    fn info() -> RunInfo {
        RunInfo { build: Some("cafe".to_owned()), ..RunInfo::now(Vec::new(), "flex", "float32") }
    }

    /// A record of a comparison, with invented results.
    fn record(comparison: &Comparison) -> Study {
        let mut study = fixture::study(comparison.plan.arms.len(), 1);
        let num_evals = comparison.options.num_evals;
        for (arm, spec) in study.arms.iter_mut().zip(&comparison.plan.arms) {
            (arm.name, arm.config) = (spec.name.clone(), spec.config.clone());
            (arm.runs[0].seed, arm.expert_load) = (1, None);
            let last = arm.runs[0].evals.last().unwrap().clone();
            arm.runs[0].evals = vec![last; num_evals.min(spec.num_steps)];
        }
        let base = BaseInfo { heldout_loss_nats: 2.0, ..comparison.without_results(info()).base };
        let rounds = vec![TimingRound { other_load_cpus: None }; comparison.options.num_rounds];
        Study { arms: study.arms, base, rounds, ..comparison.without_results(info()) }
    }

    #[test]
    fn a_complete_record_is_finished_whatever_build_and_machine_made_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = |existing| StudyFolder::new(root.path(), existing).unwrap();
        let comparison = Comparison::new(&request()).unwrap();
        let whole = record(&comparison);
        let finished = |study: &Study| {
            std::fs::write(root.path().join("results.json"), study.to_json().unwrap()).unwrap();
            comparison.finished(&folder(Existing::Keep), &info()).unwrap()
        };
        assert_eq!(finished(&whole), Some(whole.clone()));
        type Change = fn(&mut Study);
        let elsewhere: [Change; 5] = [
            |study| study.run.build = Some("beef".to_owned()),
            |study| study.run.build = None,
            |study| study.run.cpu = "Imaginary CPU".to_owned(),
            |study| study.run.num_threads += 1,
            |study| study.rounds.push(TimingRound { other_load_cpus: None }),
        ];
        for change in elsewhere {
            let mut study = whole.clone();
            change(&mut study);
            assert_eq!(finished(&study), Some(study));
        }
        let incomplete: [Change; 4] = [
            |study| study.rounds.truncate(study.rounds.len() - 1),
            |study| study.arms[1].runs[0].evals.truncate(1),
            |study| study.arms[2].runs.clear(),
            |study| study.arms[0].runs[0].seed = 9,
        ];
        for change in incomplete {
            let mut study = whole.clone();
            change(&mut study);
            assert_eq!(finished(&study), None);
        }
        assert_eq!(finished(&whole), Some(whole));
        assert_eq!(comparison.finished(&folder(Existing::Replace), &info()).unwrap(), None, "with --force");
    }

    #[test]
    fn runs_left_beside_the_results_are_not_used_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = |existing| StudyFolder::new(root.path(), existing).unwrap();
        let (comparison, device) = (Comparison::new(&request()).unwrap(), device("flex").unwrap());
        let whole = record(&comparison);
        std::fs::write(root.path().join("results.json"), whole.to_json().unwrap()).unwrap();
        let options = comparison.options_of(&info());
        // As if the study was killed after its results were written.
        let leave = || {
            let units = folder(Existing::Keep).units();
            for (arm, (_, id)) in whole.arms.iter().zip(unit_ids(&comparison.plan, &comparison.data, &options, &device))
            {
                let run = arm.runs[0].clone();
                units
                    .save(&UnitRecord { key: id.key, arm: id.arm, run, train_peak_bytes: None, expert_load: None })
                    .unwrap();
            }
            assert_eq!(units.count(), whole.arms.len());
        };
        leave();
        assert!(comparison.finished(&folder(Existing::Keep), &info()).unwrap().is_some());
        assert!(!root.path().join("units").exists());
        leave();
        comparison.claim(&folder(Existing::Replace), &info(), &device).unwrap();
        assert_eq!(folder(Existing::Replace).num_kept_runs(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_finished_study_is_shown_from_a_directory_that_cannot_be_written_to() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let folder = |existing| StudyFolder::new(root.path(), existing);
        let (comparison, device) = (Comparison::new(&request()).unwrap(), device("flex").unwrap());
        std::fs::write(root.path().join("results.json"), record(&comparison).to_json().unwrap()).unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        // Root may write everywhere.
        if tempfile::tempfile_in(root.path()).is_ok() {
            return;
        }
        let kept = folder(Existing::Keep).unwrap();
        assert!(comparison.finished(&kept, &info()).unwrap().is_some());
        let refused = comparison.claim(&kept, &info(), &device).unwrap_err();
        assert!(matches!(refused, StudyError::NotWritable { .. }), "{refused}");
        assert!(matches!(folder(Existing::Replace).unwrap_err(), StudyError::NotWritable { .. }));
    }

    #[test]
    fn a_base_of_ones_own_needs_text_of_its_own_unless_it_has_the_words_of_the_builtin_language() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(Path::new(PICO_BASE).join(file), folder.path().join(file)).unwrap();
        }
        let own = Request { base: Some(folder.path().to_owned()), ..request() };
        let words = Language::builtin().vocab().to_vec();
        let reversed: Vec<String> = words.iter().rev().cloned().collect();
        for words in [&words[..words.len() - 1], &reversed] {
            Tokenizer::word_level(words).save(folder.path()).unwrap();
            let refused = Comparison::new(&own).unwrap_err();
            assert!(matches!(refused, StudyError::NoData { .. }), "{refused}");
        }
        Tokenizer::word_level(&words).save(folder.path()).unwrap();
        let Comparison { data, data_name, .. } = Comparison::new(&own).unwrap();
        assert!(data.heldout.floor_nats().is_some() && data_name == "built-in language");
        assert_eq!(data.heldout.len(), Defaults::new(&DecoderConfig::pico(), None, true).heldout_windows);

        let file = tempfile::Builder::new().suffix(".txt").tempfile().unwrap();
        std::fs::write(file.path(), "the capital of ".repeat(2000)).unwrap();
        let base = Some(PICO_BASE.into());
        let given = Request { base, data: Some(file.path().to_owned()), ..request() };
        let Comparison { data, base_name, options, .. } = Comparison::new(&given).unwrap();
        let builtin = Comparison::new(&Request { base: None, ..given }).unwrap();
        assert_eq!((builtin.base_name.as_str(), builtin.options), ("pico (built-in)", options.clone()));
        assert_eq!(builtin.data.blake3(), data.blake3());
        assert_eq!((base_name.as_str(), options.settings.seq_length), ("pico_base", 256));
        assert_eq!((data.train.len(), data.heldout.len(), data.heldout.floor_nats()), (21, 2, None));
    }
}
