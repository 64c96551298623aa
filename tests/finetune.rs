//! Runs of training: checkpoints continue them exactly, nothing that is not a setting changes them, and bad numbers stop them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use deepwide::config::DecoderConfig;
use deepwide::data::packing::Segment;
use deepwide::data::{Document, Example};
use deepwide::finetune::{
    Checkpoints, Control, DataSettings, Ended, Event, ExampleRows, FinetuneError, LanguageModeling, LoraSettings,
    Maker, Method, Pair, Preference, Progress, Row, RowKind, Rows, Run, Settings, Start, Task, TextRows, Warning,
};
use deepwide::formats::Sidecar;
use deepwide::formats::peft::PeftDirectory;
use deepwide::formats::{Checkpoint, HfDirectory};
use deepwide::growth::{Grown, GrowthPlan, UpcyclePlan};
use deepwide::kernel::blocks::BlockFormat;
use deepwide::load::Precision;
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::output::disk::disk;
use deepwide::train::{AdamW, AdamWConfig, Decay, Dpo, DpoLoss, RouterLoss, Schedule, first_nonfinite};
use deepwide::weights::{MemoryWeights, TensorId, WeightSource};
use safetensors::SafeTensors;

use crate::grow::faults::full_at;
use crate::models::all_bytes;
use crate::pico;

const NUM_STEPS: usize = 7;
const NUM_PAIRS: usize = 9;

const CONTROL: Control = Control {
    logging_steps: 3,
    eval_steps: Some(2),
    save_steps: Some(1),
    skip_nonfinite: false,
    early_stopping_patience: None,
    max_time_s: None,
    save_best: false,
};

fn dense() -> MemoryWeights {
    let sizes = DecoderConfig::pico().with(|f| {
        (f.vocab_size, f.hidden_size, f.intermediate_size, f.num_hidden_layers) = (40, 24, 32, 2);
        (f.num_attention_heads, f.num_key_value_heads, f.head_dim) = (4, 2, 8);
        f.max_position_embeddings = 32;
    });
    MemoryWeights::untrained(sizes.expect("a small Llama"), 0.05, 1)
}

fn sparse() -> impl WeightSource {
    Grown::new(dense(), GrowthPlan::Upcycle(UpcyclePlan::new(4, 2))).expect("an upcycle")
}

fn settings(dpo: Option<Dpo>) -> Settings {
    Settings {
        seed: 3,
        max_length: 12,
        batch_size: 4,
        micro_batch_size: 3,
        bf16: false,
        adamw: AdamWConfig::default(),
        schedule: Schedule {
            peak: 3e-3,
            warmup_steps: 2,
            num_steps: NUM_STEPS,
            final_fraction: 0.0,
            decay: Decay::Linear,
        },
        max_grad_norm: 1.0,
        router: RouterLoss { aux_loss_coef: Some(0.02), z_loss_coef: 1e-3 },
        router_bias_update_rate: 0.0,
        groups: Vec::new(),
        dpo,
        lora: None,
        base: String::new(),
        data: vec![DataSettings {
            num_rows: if dpo.is_some() { NUM_PAIRS as u64 } else { rows().len() },
            weight: 1.0,
            hash: String::new(),
        }],
        eval_data: None,
    }
}

fn dpo() -> Dpo {
    Dpo { loss: DpoLoss::Sigmoid, beta: 0.1, label_smoothing: 0.0, router: settings(None).router }
}

fn ids(len: usize, salt: usize) -> Vec<u32> {
    (0..len).map(|at| ((at * at * 7 + at * 3 + salt * 11) % 40) as u32).collect()
}

fn rows() -> TextRows {
    let documents = [30, 5, 44, 17, 61, 9].iter().enumerate();
    let ended = |(salt, len): (usize, &usize)| [ids(*len, salt), vec![0]].concat();
    let documents: Vec<Document> =
        documents.map(|text| Document { ids: ended(text), logprobs: None, topic: None }).collect();
    TextRows::new(&documents, 12)
}

fn pairs(count: usize) -> Vec<Pair> {
    let side = |prompt: usize, len: usize, salt: usize| {
        let trained = (0..prompt + len).map(|at| at >= prompt).collect();
        Example { ids: [ids(prompt, salt), ids(len, salt * 5 + len)].concat(), trained }
    };
    let pair = |salt: usize| Pair {
        chosen: side(3 + salt % 4, 4 + salt % 3, salt),
        rejected: side(3 + salt % 4, 2 + salt % 5, salt + 100),
        name: format!("pair {salt}"),
    };
    (0..count).map(pair).collect()
}

fn checkpoints_in(folder: &Path) -> Checkpoints {
    Checkpoints::new(disk(), folder, None, Maker::this("flex"))
}

/// Where a run starts: a model of `source`, or a checkpoint.
fn start(source: &impl WeightSource, checkpoint: Option<&Path>, settings: &Settings) -> Start {
    let device = pico::device().autodiff();
    let groups = settings.param_groups().unwrap();
    let Some(path) = checkpoint else {
        let mut model = AnyDecoder::load(source, &device).unwrap();
        if let Some(lora) = &settings.lora {
            model = model.with_lora(lora.config(), settings.seed).unwrap();
        }
        let model = groups.freeze(model);
        return Start { model, optimizer: AdamW::new(settings.adamw), progress: Progress::default(), checkpoint: None };
    };
    let checkpoints = checkpoints_in(path.parent().unwrap());
    let resumed = checkpoints.newest(&mut |path, why| panic!("{path:?}: {why}")).unwrap().expect("a checkpoint");
    assert_eq!(resumed.path, path);
    assert!(settings.changes_from(&resumed.settings).is_empty());
    let model = match &settings.lora {
        None => AnyDecoder::load(&Checkpoint::open_on(disk(), path).unwrap(), &device).unwrap(),
        Some(_) => {
            let adapter = PeftDirectory::open(path).unwrap().read(source.config()).unwrap();
            AnyDecoder::load(source, &device).unwrap().with_adapter(&adapter).unwrap()
        }
    };
    let model = groups.freeze(model);
    let optimizer = AdamW::read(settings.adamw, &model, &path.join("optimizer.safetensors")).unwrap();
    Start { model, optimizer, progress: resumed.progress, checkpoint: Some(path.to_owned()) }
}

fn finish<T: Task>(
    task: &T,
    settings: &Settings,
    control: Control,
    folder: &Path,
    start: Start,
) -> Result<(Progress, Ended), FinetuneError> {
    let (checkpoints, sidecar) = (checkpoints_in(folder), Sidecar::nothing());
    let run = Run::new(task, settings, control, &checkpoints, &sidecar, start)?;
    run.finish(&|| false, &mut |_| ()).map(|(_, progress, ended)| (progress, ended))
}

/// All files of the last checkpoint, and the log.
fn end(folder: &Path) -> HashMap<String, Vec<u8>> {
    let last = folder.join(format!("checkpoint-{NUM_STEPS}"));
    let files = std::fs::read_dir(last).unwrap().map(|file| file.unwrap().path()).chain([folder.join("log.jsonl")]);
    files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Runs to the end, then again from every checkpoint, and compares all bytes.
fn resumes_exactly(source: &impl WeightSource, settings: &Settings, run: &dyn Fn(&Path, Start)) {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    run(&whole, start(source, None, settings));
    let expected = end(&whole);
    assert!(expected.len() >= 6, "{:?}", expected.keys());
    for step in 1..NUM_STEPS {
        let folder = root.path().join(format!("from-{step}"));
        let checkpoint = folder.join(format!("checkpoint-{step}"));
        copy(&whole.join(format!("checkpoint-{step}")), &checkpoint);
        run(&folder, start(source, Some(&checkpoint), settings));
        let found = end(&folder);
        for (name, bytes) in &expected {
            assert!(found[name] == *bytes, "{name} differs after resuming from step {step}");
        }
    }
}

/// Adapters of all matrices but the head.
fn lora(lora_dropout: f64) -> LoraSettings {
    LoraSettings {
        r: 2,
        lora_alpha: 4.0,
        use_rslora: false,
        lora_dropout,
        target_modules: vec!["all-linear".to_owned()],
    }
}

#[test]
fn the_method_is_that_of_the_settings_and_else_of_the_rows() {
    let of = |dpo, rows| Method::of(&settings(dpo), rows);
    assert_eq!(of(None, RowKind::Text), Method::Pretraining);
    assert_eq!(of(None, RowKind::Examples), Method::Sft);
    assert_eq!(of(Some(dpo()), RowKind::Examples), Method::Dpo);
}

#[test]
fn language_modeling_resumes_exactly_from_every_step() {
    let (rows, settings) = (rows(), settings(None));
    let heldout: Vec<Row> = vec![rows.row(0).unwrap(), rows.row(1).unwrap()];
    let device = pico::device().autodiff();
    let run = |folder: &Path, start| {
        let task = LanguageModeling::new(&rows, heldout.clone(), &settings, &device);
        assert_eq!(finish(&task, &settings, CONTROL, folder, start).unwrap().1, Ended::Complete);
    };
    resumes_exactly(&dense(), &settings, &run);
    resumes_exactly(&sparse(), &settings, &run);
}

#[test]
fn sources_with_weights_resume_exactly_from_every_step() {
    let (rows, mut settings) = (rows(), settings(None));
    let source = |num_rows, weight| DataSettings { num_rows, weight, hash: String::new() };
    settings.data = vec![source(5, 0.4), source(rows.len() - 5, 1.5)];
    let device = pico::device().autodiff();
    let run = |folder: &Path, start| {
        let task = LanguageModeling::new(&rows, vec![rows.row(0).unwrap()], &settings, &device);
        assert_eq!(finish(&task, &settings, CONTROL, folder, start).unwrap().1, Ended::Complete);
    };
    resumes_exactly(&dense(), &settings, &run);
}

#[test]
fn a_mixture_that_is_balanced_by_a_bias_resumes_exactly_and_gets_more_even() {
    let (rows, mut settings) = (rows(), settings(None));
    settings.router = RouterLoss { aux_loss_coef: Some(0.0), z_loss_coef: 0.0 };
    let device = pico::device().autodiff();
    let uneven = |settings: &Settings| {
        let task = LanguageModeling::new(&rows, vec![rows.row(0).unwrap()], settings, &device);
        let root = tempfile::tempdir().unwrap();
        let control = Control { logging_steps: NUM_STEPS, ..CONTROL };
        let start = start(&sparse(), None, settings);
        let (progress, _) = finish(&task, settings, control, root.path(), start).unwrap();
        let line = progress.history.iter().find(|line| line.contains_key("loss")).expect("a line");
        (line["moe/load_cv"].as_f64().unwrap(), line.get("moe/max_bias").and_then(serde_json::Value::as_f64))
    };
    let (without, none) = uneven(&settings);
    settings.router_bias_update_rate = 0.02;
    let (with, bias) = uneven(&settings);
    assert!(with < 0.8 * without, "{with} {without}");
    assert!(none.is_none() && bias.is_some_and(|bias| bias > 0.0), "{bias:?}");
    let run = |folder: &Path, start| {
        let task = LanguageModeling::new(&rows, vec![rows.row(0).unwrap()], &settings, &device);
        assert_eq!(finish(&task, &settings, CONTROL, folder, start).unwrap().1, Ended::Complete);
    };
    resumes_exactly(&sparse(), &settings, &run);
}

#[test]
fn an_adapter_resumes_exactly_from_every_step() {
    let lora = lora(0.3);
    let (rows, settings) = (rows(), Settings { lora: Some(lora), ..settings(None) });
    let device = pico::device().autodiff();
    let run = |folder: &Path, start| {
        let task = LanguageModeling::new(&rows, vec![rows.row(0).unwrap()], &settings, &device);
        assert_eq!(finish(&task, &settings, CONTROL, folder, start).unwrap().1, Ended::Complete);
    };
    resumes_exactly(&dense(), &settings, &run);
    resumes_exactly(&sparse(), &settings, &run);
}

#[test]
fn preference_learning_resumes_exactly_from_every_step() {
    let (train, heldout, settings) = (pairs(NUM_PAIRS), pairs(2), settings(Some(dpo())));
    let device = pico::device().autodiff();
    fn run_from(
        source: &impl WeightSource,
        (train, heldout, settings): (&[Pair], &[Pair], &Settings),
        device: &burn::tensor::Device,
    ) {
        let run = |folder: &Path, start: Start| {
            let mut task = Preference::new(train, heldout, start.progress.reference.clone(), settings, device);
            if start.progress.step == 0 {
                task.precompute(&start.model, &mut |_, _| ()).unwrap();
            }
            let mut start = start;
            start.progress.reference = task.reference().clone();
            assert_eq!(finish(&task, settings, CONTROL, folder, start).unwrap().1, Ended::Complete);
        };
        resumes_exactly(source, settings, &run);
    }
    run_from(&dense(), (&train, &heldout, &settings), &device);
    run_from(&sparse(), (&train, &heldout, &settings), &device);
}

#[test]
fn preferences_of_a_quantized_base_start_at_ln_2() {
    let device = pico::device().autodiff();
    let config = dense().config().clone().with(|f| (f.hidden_size, f.intermediate_size) = (64, 96)).unwrap();
    let weights = MemoryWeights::untrained(config, 0.2, 1);
    let lora = lora(0.0);
    let schedule = Schedule { num_steps: 2, ..settings(None).schedule };
    let settings = Settings { lora: Some(lora.clone()), schedule, ..settings(Some(dpo())) };
    let base = AnyDecoder::load_as(&weights, Precision::Blocks(Some(BlockFormat::Q8_0)), &device).unwrap();
    assert_eq!(base.footprint().main_format(), Some("Q8_0"));
    let model = base.with_lora(lora.config(), settings.seed).unwrap();
    let logits = |model: AnyDecoder, device: &Device| -> Vec<f32> {
        let tokens = Tensor::<2, Int>::from_ints([[1, 2, 3, 4, 5]], device);
        model.forward(tokens).logits.into_data().iter::<f32>().collect()
    };
    let rounded = logits(model.valid(), &pico::device());
    assert!(logits(model.clone().no_grad(), &device) != rounded, "activations are rounded without gradients only");
    let (train, heldout) = (pairs(NUM_PAIRS), pairs(2));
    let mut task = Preference::new(&train, &heldout, BTreeMap::new(), &settings, &device);
    task.precompute(&model, &mut |_, _| ()).unwrap();
    assert!(task.is_complete());
    let before = task.evaluate(&model.clone().no_grad()).unwrap().expect("held-out pairs");
    assert!((before - std::f64::consts::LN_2).abs() < 1e-6, "{before}");
    let root = tempfile::tempdir().unwrap();
    let optimizer = AdamW::new(settings.adamw);
    let start = Start { model, optimizer, progress: Progress::default(), checkpoint: None };
    let control = Control { logging_steps: 1, eval_steps: None, ..CONTROL };
    let (progress, ended) = finish(&task, &settings, control, root.path(), start).unwrap();
    assert_eq!((progress.step, ended), (2, Ended::Complete));
    let first = progress.history[0]["loss"].as_f64().unwrap();
    assert!((first - std::f64::consts::LN_2).abs() < 1e-6, "{first}");
}

#[test]
fn a_reference_does_not_depend_on_the_length_of_the_run() {
    let device = pico::device().autodiff();
    let (train, heldout, long) = (pairs(NUM_PAIRS), pairs(2), settings(Some(dpo())));
    let short = Settings { schedule: Schedule { num_steps: 1, ..long.schedule }, ..long.clone() };
    let model = AnyDecoder::load(&dense(), &device).unwrap();
    let computed = |settings: &Settings, known: BTreeMap<u64, [f32; 2]>| {
        let mut task = Preference::new(&train, &heldout, known, settings, &device);
        task.precompute(&model, &mut |_, _| ()).unwrap();
        task.reference().clone()
    };
    let (first, whole) = (computed(&short, BTreeMap::new()), computed(&long, BTreeMap::new()));
    assert_eq!((first.len(), whole.len()), (4 + 2, NUM_PAIRS + 2));
    assert_eq!(computed(&long, first), whole);
}

#[test]
fn logs_evaluations_and_checkpoints_do_not_change_the_weights() {
    let (rows, settings) = (rows(), settings(None));
    let heldout: Vec<Row> = vec![rows.row(0).unwrap()];
    let device = pico::device().autodiff();
    let weights = |control: Control| {
        let root = tempfile::tempdir().unwrap();
        let task = LanguageModeling::new(&rows, heldout.clone(), &settings, &device);
        finish(&task, &settings, control, root.path(), start(&sparse(), None, &settings)).unwrap();
        end(root.path())["model.safetensors"].clone()
    };
    let quiet = Control { logging_steps: 1000, eval_steps: None, save_steps: None, ..CONTROL };
    assert!(weights(quiet) == weights(CONTROL));
    assert!(weights(quiet) == weights(Control { eval_steps: Some(1), logging_steps: 1, ..CONTROL }));
}

#[test]
fn an_update_does_not_depend_on_how_it_is_cut() {
    let (rows, whole) =
        (rows(), Settings { router: RouterLoss { aux_loss_coef: Some(0.0), z_loss_coef: 0.0 }, ..settings(None) });
    let device = pico::device().autodiff();
    let losses = |settings: &Settings| -> Vec<f64> {
        let root = tempfile::tempdir().unwrap();
        let task = LanguageModeling::new(&rows, Vec::new(), settings, &device);
        let control = Control { logging_steps: 1, save_steps: None, ..CONTROL };
        let (progress, _) = finish(&task, settings, control, root.path(), start(&dense(), None, settings)).unwrap();
        progress.history.iter().map(|entry| entry["loss"].as_f64().unwrap()).collect()
    };
    let expected = losses(&Settings { micro_batch_size: 4, ..whole.clone() });
    for micro_batch_size in [1, 2, 3] {
        for (found, expected) in losses(&Settings { micro_batch_size, ..whole.clone() }).iter().zip(&expected) {
            assert!((found - expected).abs() <= 2e-5, "{found} {expected} with {micro_batch_size} rows a pass");
        }
    }
    let other = losses(&Settings { batch_size: 3, ..whole });
    assert!((other[0] - expected[0]).abs() > 1e-4, "a smaller batch goes unnoticed");
}

#[test]
fn frozen_parameters_keep_their_bytes_and_others_do_not() {
    let rows = rows();
    let settings = Settings { groups: vec![("mlp|embed".to_owned(), 0.0)], ..settings(None) };
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    finish(&task, &settings, CONTROL, root.path(), start(&dense(), None, &settings)).unwrap();
    let trained = HfDirectory::open(&root.path().join(format!("checkpoint-{NUM_STEPS}"))).unwrap();
    let source = dense();
    for id in TensorId::all(source.config()) {
        let name = id.to_string();
        let frozen = name.contains("mlp") || name.contains("embed");
        let same = trained.read(id).unwrap().bytes() == source.read(id).unwrap().bytes();
        assert_eq!(same, frozen, "{name}");
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_before_the_update() {
    let rows = rows();
    let device = pico::device().autodiff();
    let broken =
        Settings { schedule: Schedule { peak: 1e30, warmup_steps: 0, ..settings(None).schedule }, ..settings(None) };
    let task = LanguageModeling::new(&rows, Vec::new(), &broken, &device);
    let root = tempfile::tempdir().unwrap();
    let error = finish(&task, &broken, CONTROL, root.path(), start(&dense(), None, &broken)).unwrap_err();
    let FinetuneError::NotFinite { step, rows, last_checkpoint, .. } = &error else { panic!("{error}") };
    assert!(*step > 1 && rows.len() == broken.batch_size, "{error}");
    assert_eq!(last_checkpoint.as_deref(), Some(&*root.path().join(format!("checkpoint-{}", step - 1))));
    let skipping = Control { skip_nonfinite: true, ..CONTROL };
    let root = tempfile::tempdir().unwrap();
    let (progress, _) = finish(&task, &broken, skipping, root.path(), start(&dense(), None, &broken)).unwrap();
    assert!(progress.num_skipped > 0 && progress.step == NUM_STEPS);
}

#[test]
fn a_base_whose_loss_is_not_finite_is_not_told_as_divergence() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    let huge = MemoryWeights::untrained(dense().config().clone(), 1e30, 1);
    assert_eq!(first_nonfinite(&start(&huge, None, &settings).model), None, "its weights are finite");
    let root = tempfile::tempdir().unwrap();
    let error = finish(&task, &settings, CONTROL, root.path(), start(&huge, None, &settings)).unwrap_err();
    assert!(matches!(error, FinetuneError::BaseNotFinite { .. }), "{error}");
}

/// The warnings of a run on one row.
fn warnings(settings: &Settings, row: &Example, start: Start) -> Vec<Warning> {
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let segment = Segment { example: 0, tokens: 0..row.ids.len() };
    let rows = ExampleRows::new(vec![row.clone()], vec!["the row".to_owned()], vec![vec![segment]]);
    let task = LanguageModeling::new(&rows, Vec::new(), settings, &device);
    let (checkpoints, sidecar) = (checkpoints_in(root.path()), Sidecar::nothing());
    let control = Control { save_steps: None, eval_steps: None, ..CONTROL };
    let mut warnings = Vec::new();
    let run = Run::new(&task, settings, control, &checkpoints, &sidecar, start).unwrap();
    run.finish(&|| false, &mut |event| {
        if let Event::Warned(warning) = event {
            warnings.push(warning);
        }
    })
    .unwrap();
    let log = std::fs::read_to_string(root.path().join("log.jsonl")).unwrap();
    assert!(!log.contains("warning"), "a warning is no line of the log, which a resumed run repeats");
    warnings
}

/// Settings of a run of `num_steps` updates of one row, at a constant rate.
fn of_one_row(num_steps: usize, peak: f64) -> Settings {
    let schedule = Schedule { peak, warmup_steps: 0, num_steps, final_fraction: 1.0, decay: Decay::Constant };
    let data = vec![DataSettings { num_rows: 1, weight: 1.0, hash: String::new() }];
    Settings { batch_size: 1, micro_batch_size: 1, schedule, data, ..settings(None) }
}

/// Rows of which nothing is trained.
struct Untrained(TextRows);

impl Rows for Untrained {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn row(&self, index: u64) -> Result<Row, FinetuneError> {
        let untrained = |Example { ids, .. }: Example| Example { trained: vec![false; ids.len()], ids };
        Ok(self.0.row(index)?.into_iter().map(untrained).collect())
    }

    fn name(&self, index: u64) -> String {
        self.0.name(index)
    }
}

#[test]
fn updates_without_a_target_change_nothing_and_are_warned_of() {
    let (rows, settings) = (Untrained(rows()), settings(None));
    let settings = Settings { schedule: Schedule { num_steps: 21, ..settings.schedule }, ..settings };
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    let (checkpoints, sidecar) = (checkpoints_in(root.path()), Sidecar::nothing());
    let control = Control { save_steps: None, ..CONTROL };
    let run = Run::new(&task, &settings, control, &checkpoints, &sidecar, start(&dense(), None, &settings)).unwrap();
    let mut warnings = Vec::new();
    let (model, progress, ended) = run.finish(&|| false, &mut |event| warnings.push(format!("{event:?}"))).unwrap();
    assert!(progress.step == 21 && progress.history.is_empty() && ended == Ended::Complete, "{progress:?}");
    assert!(first_nonfinite(&model).is_none() && all_bytes(&model.to_weights()) == all_bytes(&dense()));
    warnings.retain(|event| !event.starts_with("Saved") && !event.starts_with("Looped"));
    assert_eq!(warnings, ["Warned(ConstantLoss { loss: 0.0, num_updates: 20 })"]);
}

#[test]
fn a_log_that_cannot_be_written_is_told_once_and_made_up_for() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    let sidecar = Sidecar::nothing();
    let control = Control { logging_steps: 1, ..CONTROL };
    let logged = |in_the_way: bool| {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log.jsonl");
        let checkpoints = checkpoints_in(root.path());
        let run = Run::new(&task, &settings, control, &checkpoints, &sidecar, start(&dense(), None, &settings));
        let (mut num_logged, mut failed) = (0, Vec::new());
        let (_, progress, ended) = run
            .unwrap()
            .finish(&|| false, &mut |event| match event {
                Event::Logged(_) if in_the_way => {
                    num_logged += 1;
                    match num_logged {
                        2 => {
                            std::fs::remove_file(&log).unwrap();
                            std::fs::create_dir(&log).unwrap();
                        }
                        5 => std::fs::remove_dir(&log).unwrap(),
                        _ => {}
                    }
                }
                Event::LogFailed(error) => failed.push(error.to_string()),
                _ => {}
            })
            .unwrap();
        assert!(progress.history.len() == NUM_STEPS && ended == Ended::Complete);
        (end(root.path()), failed)
    };
    let (expected, failed) = logged(false);
    assert_eq!(failed, [""; 0]);
    let (found, failed) = logged(true);
    assert!(failed.len() == 1 && failed[0].contains("log.jsonl"), "{failed:?}");
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name}");
    }
}

#[test]
fn a_tied_head_is_one_parameter_that_is_saved_once() {
    let names = |source: &MemoryWeights| {
        let (rows, settings) = (rows(), settings(None));
        let device = pico::device().autodiff();
        let root = tempfile::tempdir().unwrap();
        let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
        finish(&task, &settings, CONTROL, root.path(), start(source, None, &settings)).unwrap();
        let embeddings = TensorId::EmbedTokens;
        let trained = HfDirectory::open(&root.path().join(format!("checkpoint-{NUM_STEPS}"))).unwrap();
        assert!(trained.read(embeddings).unwrap().bytes() != source.read(embeddings).unwrap().bytes(), "it is trained");
        let files = end(root.path());
        let names = |file: &str| -> Vec<String> {
            let tensors = SafeTensors::deserialize(&files[file]).unwrap();
            tensors.names().into_iter().map(|name| name.to_string()).collect()
        };
        let of = |part: &str, file: &str| names(file).iter().filter(|name| name.contains(part)).count();
        ["embed_tokens", "lm_head"].map(|part| (of(part, "model.safetensors"), of(part, "optimizer.safetensors")))
    };
    let model = |is_tied| {
        let config = dense().config().clone().with(|f| f.tie_word_embeddings = is_tied).unwrap();
        MemoryWeights::untrained(config, 0.05, 1)
    };
    // A weight has two moments.
    assert_eq!(names(&model(true)), [(1, 2), (0, 0)]);
    assert_eq!(names(&model(false)), [(1, 2), (1, 2)]);
}

#[test]
fn a_loss_that_stands_still_is_warned_of() {
    let row = Example::trained_whole(ids(9, 1));
    let warned = |settings: &Settings| warnings(settings, &row, start(&dense(), None, settings));
    let [Warning::ConstantLoss { loss, num_updates: 20 }] = warned(&of_one_row(45, 0.0))[..] else {
        panic!("one warning of a loss that stands still")
    };
    assert!(loss > 3.0, "{loss}");
    assert_eq!(warned(&of_one_row(45, 3e-3)), []);
    assert_eq!(warned(&of_one_row(19, 0.0)), []);
}

#[test]
fn a_router_that_collapses_is_warned_of() {
    let row = Example::trained_whole(ids(9, 1));
    let source = sparse();
    // A bias of the choice sends every token to the expert 3 of the second layer.
    let warned = |num_steps: usize, is_collapsed: bool| {
        let settings = of_one_row(num_steps, 1e-3);
        let mut start = start(&source, None, &settings);
        if is_collapsed {
            start.progress.router_bias = serde_json::from_str(r#"{"layers": [[0, 0, 0, 0], [0, 0, 0, 9]]}"#).unwrap();
        }
        warnings(&settings, &row, start)
    };
    let [Warning::CollapsedRouter { layer: 1, expert: 3, share: 1.0, num_updates: 100 }] = warned(102, true)[..] else {
        panic!("one warning of a router that collapsed")
    };
    assert_eq!(warned(99, true), []);
    assert_eq!(warned(102, false), []);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_named() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    finish(&task, &settings, CONTROL, root.path(), start(&dense(), None, &settings)).unwrap();
    let file = root.path().join(format!("checkpoint-{NUM_STEPS}/optimizer.safetensors"));
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut refused = Vec::new();
    let checkpoints = checkpoints_in(root.path());
    let resumed = checkpoints.newest(&mut |path, why| refused.push((path.to_owned(), why))).unwrap().unwrap();
    assert_eq!(resumed.progress.step, NUM_STEPS - 1);
    assert!(refused.len() == 1 && refused[0].1.contains("optimizer.safetensors"), "{refused:?}");
    // With no other left, the run does not begin anew.
    let alone = tempfile::tempdir().unwrap();
    let only = alone.path().join("checkpoint-3");
    copy(&root.path().join("checkpoint-3"), &only);
    std::fs::write(only.join("model.safetensors"), "cut off").unwrap();
    let error = checkpoints_in(alone.path()).newest(&mut |path, why| panic!("{path:?}: {why}")).unwrap_err();
    assert!(error.to_string().contains("no checkpoint here can be used"), "{error}");
    // It makes way for the same checkpoint, written again.
    let start = start(&dense(), Some(&resumed.path), &settings);
    assert_eq!(finish(&task, &settings, CONTROL, root.path(), start).unwrap().1, Ended::Complete);
    assert!(root.path().join(format!("checkpoint-{NUM_STEPS}.damaged")).is_dir());
}

#[test]
fn a_complete_run_makes_no_further_update_and_a_folder_has_one_run() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    finish(&task, &settings, CONTROL, root.path(), start(&dense(), None, &settings)).unwrap();
    let expected = end(root.path());
    let last = root.path().join(format!("checkpoint-{NUM_STEPS}"));
    let again = || start(&dense(), Some(&last), &settings);
    let (progress, ended) = finish(&task, &settings, CONTROL, root.path(), again()).unwrap();
    assert!(progress.step == NUM_STEPS && ended == Ended::Complete);
    assert!(end(root.path())["model.safetensors"] == expected["model.safetensors"]);
    let held = checkpoints_in(root.path()).lock().unwrap();
    let error = finish(&task, &settings, CONTROL, root.path(), again()).unwrap_err();
    assert!(error.to_string().contains("another run writes to it"), "{error}");
    drop(held);
    finish(&task, &settings, CONTROL, root.path(), again()).unwrap();
}

#[test]
fn a_checkpoint_with_the_optimizer_of_another_step_is_not_used() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    finish(&task, &settings, CONTROL, root.path(), start(&dense(), None, &settings)).unwrap();
    let state = |step: usize| root.path().join(format!("checkpoint-{step}/optimizer.safetensors"));
    std::fs::copy(state(2), state(NUM_STEPS)).unwrap();
    let checkpoints = checkpoints_in(root.path());
    let error = checkpoints.at(&checkpoints.path(NUM_STEPS)).unwrap_err();
    assert!(error.to_string().contains("optimizer.safetensors"), "{error}");
    let error = checkpoints.at(&checkpoints.path(2)).unwrap_err();
    assert!(error.to_string().contains("checkpoint-3\": is newer than"), "{error}");
}

#[test]
fn a_checkpoint_of_a_later_format_is_refused() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    finish(&task, &settings, CONTROL, root.path(), start(&dense(), None, &settings)).unwrap();
    let path = root.path().join(format!("checkpoint-{NUM_STEPS}"));
    let change = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::from_slice(&std::fs::read(path.join(name)).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(path.join(name), json.to_string()).unwrap();
    };
    change("run_state.json", &|state| state["format"] = 1000.into());
    // Whole, as a later version would have written it.
    let state = std::fs::read(path.join("run_state.json")).unwrap();
    change("deepwide.json", &|receipt| {
        let files = receipt["files"].as_array_mut().unwrap();
        let file = files.iter_mut().find(|file| file["name"] == "run_state.json").unwrap();
        file["size_bytes"] = state.len().into();
        file["blake3"] = blake3::hash(&state).to_hex().as_str().into();
    });
    let checkpoints = checkpoints_in(root.path());
    // It is not damaged, so it keeps its name, and no older one is taken in its place.
    for error in [checkpoints.at(&path), checkpoints.newest(&mut |path, _| panic!("{path:?}")).map(Option::unwrap)] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("found format 1000, expected"), "{error}");
    }
    assert_eq!(checkpoints.steps().unwrap().last(), Some(&NUM_STEPS));
}

#[test]
fn a_full_disk_loses_no_earlier_checkpoint() {
    let (rows, settings, sidecar) = (rows(), settings(None), Sidecar::nothing());
    let device = pico::device().autodiff();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    let mut num_failed = 0;
    for call in (0..).step_by(11) {
        let root = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(full_at(call), root.path(), Some(1), Maker::this("flex"));
        let run =
            Run::new(&task, &settings, CONTROL, &checkpoints, &sidecar, start(&dense(), None, &settings)).unwrap();
        let mut num_saved = 0;
        let result = run.finish(&|| false, &mut |event| num_saved += usize::from(matches!(event, Event::Saved(_))));
        let newest = checkpoints_in(root.path()).newest(&mut |path, why| panic!("{path:?}: {why}"));
        let newest = newest.unwrap().map_or(0, |resumed| resumed.progress.step);
        if result.is_ok() {
            assert_eq!((newest, num_saved), (NUM_STEPS, NUM_STEPS));
            break;
        }
        // One may be complete and not yet told.
        assert!((num_saved..=num_saved + 1).contains(&newest), "call {call}: {newest} after {num_saved}");
        num_failed += 1;
    }
    assert!(num_failed > 5, "{num_failed} calls failed");
}

#[test]
fn checkpoints_of_others_are_never_removed() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let foreign = root.path().join("checkpoint-100");
    std::fs::create_dir(&foreign).unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    let (checkpoints, sidecar) =
        (Checkpoints::new(disk(), root.path(), Some(1), Maker::this("flex")), Sidecar::nothing());
    let start = start(&dense(), None, &settings);
    Run::new(&task, &settings, CONTROL, &checkpoints, &sidecar, start).unwrap().finish(&|| false, &mut |_| ()).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [NUM_STEPS, 100]);
}

#[test]
fn a_resumed_run_removes_the_checkpoints_that_it_had_before() {
    let (rows, settings, sidecar) = (rows(), settings(None), Sidecar::nothing());
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    let checkpoints = Checkpoints::new(disk(), root.path(), Some(2), Maker::this("flex"));
    let run = |start: Start, stop: &dyn Fn() -> bool| {
        let run = Run::new(&task, &settings, CONTROL, &checkpoints, &sidecar, start).unwrap();
        run.finish(stop, &mut |_| ()).unwrap();
    };
    let num_updates = std::cell::Cell::new(0);
    run(start(&dense(), None, &settings), &|| num_updates.replace(num_updates.get() + 1) == 1);
    assert_eq!(checkpoints.steps().unwrap(), [1, 2]);
    run(start(&dense(), Some(&checkpoints.path(2)), &settings), &|| false);
    assert_eq!(checkpoints.steps().unwrap(), [NUM_STEPS - 1, NUM_STEPS]);
}

#[test]
fn an_early_end_logs_its_last_updates_and_again_when_resumed() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    // The base is at its best before training on ids that are held out from it.
    let heldout: Vec<_> = pairs(2).into_iter().map(|pair| vec![pair.chosen]).collect();
    let settings = Settings { schedule: Schedule { peak: 1.0, ..settings.schedule }, ..settings };
    let task = LanguageModeling::new(&rows, heldout, &settings, &device);
    let control = Control { logging_steps: 1000, eval_steps: Some(1), early_stopping_patience: Some(1), ..CONTROL };
    let (progress, ended) = finish(&task, &settings, control, root.path(), start(&dense(), None, &settings)).unwrap();
    assert!(ended == Ended::Early && progress.step < NUM_STEPS, "{progress:?}");
    let log = std::fs::read_to_string(root.path().join("log.jsonl")).unwrap();
    assert!(log.lines().last().unwrap().contains("\"loss\""), "{log}");
    let last = root.path().join(format!("checkpoint-{}", progress.step));
    let again = finish(&task, &settings, control, root.path(), start(&dense(), Some(&last), &settings)).unwrap();
    assert_eq!(again, (progress, Ended::Early));
    assert_eq!(std::fs::read_to_string(root.path().join("log.jsonl")).unwrap(), log);
}

#[test]
fn a_reference_without_a_finite_log_probability_is_refused() {
    let (train, settings) = (pairs(NUM_PAIRS), settings(Some(dpo())));
    let device = pico::device().autodiff();
    let mut task = Preference::new(&train, &[], BTreeMap::new(), &settings, &device);
    let huge = MemoryWeights::untrained(dense().config().clone(), 1e38, 1);
    let error = task.precompute(&AnyDecoder::load(&huge, &device).unwrap(), &mut |_, _| ()).unwrap_err();
    // The first of the first pass: passes are those of the updates, in their order.
    let expected = "the log-probability of pair 6 under the reference is NaN, expected a finite number";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn only_an_adapter_leaves_a_quantized_base_in_its_blocks() {
    let lora = lora(0.0);
    let full = settings(None);
    let adapted = Settings { lora: Some(lora), ..full.clone() };
    assert_eq!((full.precision(), adapted.precision()), (Precision::FLOAT32, Precision::Blocks(None)));
}

/// The fields of `TrainerState` of transformers 5, which takes no other key.
const TRAINER_STATE: [&str; 20] = [
    "best_global_step",
    "best_metric",
    "best_model_checkpoint",
    "epoch",
    "eval_steps",
    "global_step",
    "is_hyper_param_search",
    "is_local_process_zero",
    "is_world_process_zero",
    "log_history",
    "logging_steps",
    "max_steps",
    "num_input_tokens_seen",
    "num_train_epochs",
    "save_steps",
    "stateful_callbacks",
    "total_flos",
    "train_batch_size",
    "trial_name",
    "trial_params",
];

#[test]
fn the_state_of_a_checkpoint_is_one_that_transformers_loads() {
    let (rows, settings) = (rows(), settings(None));
    let device = pico::device().autodiff();
    let root = tempfile::tempdir().unwrap();
    let task = LanguageModeling::new(&rows, Vec::new(), &settings, &device);
    finish(&task, &settings, CONTROL, root.path(), start(&dense(), None, &settings)).unwrap();
    let state = std::fs::read(root.path().join(format!("checkpoint-{NUM_STEPS}/trainer_state.json"))).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let unknown: Vec<_> =
        state.as_object().unwrap().keys().filter(|key| !TRAINER_STATE.contains(&key.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let visits = (NUM_STEPS * settings.batch_size) as f64;
    assert_eq!(
        (state["global_step"].as_u64(), state["epoch"].as_f64()),
        (Some(NUM_STEPS as u64), Some(visits / rows.len() as f64))
    );
    assert_eq!(state["best_model_checkpoint"], serde_json::Value::Null);
}

#[test]
fn other_settings_are_named() {
    let saved = settings(None);
    let mut now = saved.clone();
    assert!(now.changes_from(&saved).is_empty());
    now.batch_size = 8;
    now.schedule.peak = 1.0;
    let names: Vec<String> = now.changes_from(&saved).into_iter().map(|change| change.name).collect();
    assert_eq!(names, ["batch_size", "schedule.peak"]);
    let mut now = saved.clone();
    now.data[0].weight = 2.0;
    let [change] = &now.changes_from(&saved)[..] else { panic!("one change") };
    assert_eq!((change.name.as_str(), change.now.as_f64()), ("data[0].weight", Some(2.0)));
}

#[test]
fn a_reference_that_is_another_model_is_refused_at_the_first_step() {
    let (train, settings) = (pairs(NUM_PAIRS), settings(Some(dpo())));
    let device = pico::device().autodiff();
    let mut task = Preference::new(&train, &[], BTreeMap::new(), &settings, &device);
    let other = MemoryWeights::untrained(dense().config().clone(), 0.05, 2);
    task.precompute(&AnyDecoder::load(&other, &device).unwrap(), &mut |_, _| ()).unwrap();
    let root = tempfile::tempdir().unwrap();
    let error = finish(&task, &settings, CONTROL, root.path(), start(&dense(), None, &settings)).unwrap_err();
    assert!(matches!(error, FinetuneError::InitialLoss { .. }), "{error}");
}
