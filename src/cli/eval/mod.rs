//! `eval`: benchmarks, as lm-evaluation-harness runs them.

mod args;
mod saved;

use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

pub use args::{BatchSize, EvalArgs};

use self::saved::Saved;
use super::counters::{Count, Tokens};
use super::failure::Failure;
use super::opened::OpenedModel;
use super::{console, hub, interrupt, output, run_info};
use crate::device::device;
use crate::error::{ErrorKind, FileError, FileFault, cut};
use crate::eval::{
    AnswerLog, Chat, Column, Cost, DataPlace, Encoder, EvalError, GenerationDefaults, PASSES_VERSION, PromptStyle,
    RunMetadata, Selection, Suite, SuitePlan, TaskScores, answer_all, generate_all, leaderboard_mean, results, table,
    task_names,
};
use crate::formats::{CheckpointError, DEFAULT_TEMPLATE};
use crate::model::AnyDecoder;
use crate::profile::flops::count_parameters;
use crate::tokenizer::{ChatTemplate, Tokenizer};
use crate::upscale::{Growth, fingerprint};
use crate::weights::WeightSource;

/// A line for each task and group, or an array of objects.
fn list_of_tasks(as_json: bool) -> String {
    let names = task_names();
    if as_json {
        let objects: Vec<Value> =
            names.iter().map(|(name, what)| json!({ "name": name, "description": what })).collect();
        return format!("{:#}\n", json!(objects));
    }
    let width = names.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    names.iter().map(|(name, what)| format!("{name:width$}  {what}\n")).collect()
}

/// Evaluates a model.
///
/// # Errors
/// Any invalid input, before the model is loaded; then errors of computation and I/O.
pub fn run(args: &EvalArgs) -> Result<(), Failure> {
    args.threads.run(|| evaluate(args))
}

fn evaluate(args: &EvalArgs) -> Result<(), Failure> {
    let start = (SystemTime::now(), Instant::now());
    let names: Vec<String> = args.tasks.iter().map(|name| name.trim().to_owned()).collect();
    if names == ["list"] {
        return output::print(&list_of_tasks(args.json));
    }
    let model = args.model.as_deref();
    let model = model.ok_or_else(|| Failure::usage("there is no MODEL: only --tasks list needs none"))?;
    let selection = Selection::new(&names, args.num_fewshot)?;
    if let Some(directory) = args.data_dir.as_deref().filter(|directory| !directory.is_dir()) {
        let fault = if directory.exists() { FileFault::NotADirectory } else { FileFault::NotFound };
        return Err(Failure::from(FileError::new(directory, fault)).for_option("--data-dir"));
    }
    let opened = OpenedModel::new(model, Some(&args.growth))?.with_adapter(&args.adapter)?;
    let growth = opened.growth()?;
    let device = device(&args.weights.device)?;
    args.weights.check(&device)?;
    let config = growth.source.config().clone();
    let tokenizer = opened.checkpoint().tokenizer()?;
    let template = chat_template(args, &opened)?;
    let chat = template.as_ref().map(|template| Chat { template, multiturn: args.fewshot_as_multiturn });
    let style = PromptStyle { system_instruction: args.system_instruction.as_deref(), chat };
    let saved = args
        .output_path
        .as_ref()
        .map(|path| Saved::new(path, &opened.full_name(&growth), args.force, start.0))
        .transpose()?;
    let place = args.data_dir.as_deref().map_or(DataPlace::Hub(&hub::data_set_files), DataPlace::Directory);
    let suite = Suite::read(&place, selection, args.limit, &style, args.seeds.fewshot);
    let suite = suite.map_err(|error| if args.data_dir.is_none() { not_on_hub(error) } else { error.into() })?;
    if style.drops_system() && suite.has_system_text(&style) {
        console::tell("warning: the chat template has no system role, so prompts lack the text of the system");
    }
    let encoder = Encoder::new(&tokenizer, config.max_position_embeddings, config.vocab_size)?;
    let items = Count::new("tokenizing", "items", suite.num_items());
    let defaults = GenerationDefaults::new(&opened.checkpoint().generation_config()?)?;
    let planned = suite.plan(&encoder, &defaults, &|| items.add(1, ""))?;
    drop(items);
    tell_ignored(&planned, &defaults);
    let mut model_record = opened.record(&growth)?;
    // The same model has the same answers, whether its precision is spelt out or not.
    if let Some((option, value)) = args.weights.changes(&growth.source, &device)? {
        model_record[option] = json!(value);
    }
    let mut log = answer_log(args, saved.as_ref(), &planned, &model_record)?;
    tell_plan(&suite, &planned, log.as_ref());
    let precision = args.weights.inference_precision();
    let model = console::timed("loaded", || AnyDecoder::load_as(&growth.source, precision, &device))?;
    interrupt::catch();
    let go_on = || interrupt::caught().map_or(Ok(()), |_| Err(EvalError::Stopped));
    let bar = Tokens::new("evaluating");
    let limits = args.batch_size.limits();
    let answered = answer_all(&model, &planned.plan, log.as_mut(), limits, &device, &mut |progress| {
        bar.show(progress);
        go_on()
    });
    drop(bar);
    let (answers, cost) = answered.map_err(|error| stopped(error, log.is_some()))?;
    let bar = Count::new("generating", "texts", planned.open.len());
    let mut num_done = 0;
    let generated = generate_all(&model, &tokenizer, &planned.open, log.as_mut(), limits, &device, &mut |count, _| {
        bar.add(count - num_done, "");
        num_done = count;
        go_on()
    });
    drop(bar);
    let (texts, generation_cost) = generated.map_err(|error| stopped(error, log.is_some()))?;
    let cost = cost + generation_cost;
    let scores = suite.scores(&planned.plan, &answers, texts);
    scores.iter().for_each(tell_nonfinite);
    let mut record = results(&scores, &suite.groups);
    let metadata = metadata(args, &opened, &growth, &tokenizer, template.as_ref(), start);
    metadata.add_to(&mut record);
    let mut extras = extras(&suite, &planned, &scores, &growth, &cost, model_record, &record);
    if let Some(saved) = saved.as_ref().filter(|_| args.log_samples) {
        extras["samples_date"] = json!(saved.date);
    }
    record.insert("deepwide".to_owned(), extras);
    if let Some(saved) = &saved {
        saved.write(&record, args.log_samples.then_some(scores.as_slice()))?;
    }
    if let Some(log) = log.filter(|_| args.use_cache.is_none()) {
        log.remove()?;
    }
    output::print(&if args.json { format!("{:#}\n", Value::Object(record)) } else { as_text(args, &record) })
}

/// The message names the option for data in a directory.
fn not_on_hub(error: EvalError) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::not_found(format_args!("{error}; --data-dir DIR takes data from a directory")),
        _ => error.into(),
    }
}

/// The chat template that was asked for.
fn chat_template(args: &EvalArgs, opened: &OpenedModel) -> Result<Option<ChatTemplate>, Failure> {
    let Some(name) = &args.apply_chat_template else { return Ok(None) };
    match opened.checkpoint().chat_template(Some(name.as_str()).filter(|name| !name.is_empty())) {
        Err(CheckpointError::NoChatTemplate { found, .. }) if !name.is_empty() && found == [DEFAULT_TEMPLATE] => {
            console::tell(format_args!(
                "warning: the model has one chat template, which is used; it has none named {name:?}"
            ));
            Ok(Some(opened.checkpoint().chat_template(None)?))
        }
        Err(error @ CheckpointError::NoChatTemplate { .. }) => {
            Err(Failure::from(error).for_option("--apply-chat-template"))
        }
        template => Ok(Some(template?)),
    }
}

/// The log of answers: a named one, or one beside the results, of these requests and batches alone.
fn answer_log(
    args: &EvalArgs,
    saved: Option<&Saved>,
    planned: &SuitePlan,
    model: &Value,
) -> Result<Option<AnswerLog>, Failure> {
    let fingerprint = fingerprint(model, &args.weights.device);
    let name = || {
        let parts = format!("{fingerprint} {} {} {PASSES_VERSION}", planned.key(), args.batch_size);
        blake3::hash(parts.as_bytes()).to_hex()[..16].to_owned()
    };
    let path = args.use_cache.clone().or_else(|| Some(saved?.log(&name())));
    path.map(|path| AnswerLog::open(&path, &fingerprint)).transpose().map_err(|error| {
        let failure = match error {
            // A file that cannot be made is no missing input.
            EvalError::File(error) => Failure::runtime(error),
            error => error.into(),
        };
        if args.use_cache.is_some() { failure.for_option("--use-cache") } else { failure }
    })
}

fn tell_plan(suite: &Suite, planned: &SuitePlan, log: Option<&AnswerLog>) {
    for (task, num_cut) in suite.tasks.iter().zip(&planned.num_cut).filter(|(_, num_cut)| **num_cut > 0) {
        let name = &task.chosen.task.name;
        console::tell(format_args!(
            "warning: {name}: {num_cut} prompts are longer than the context of the model and lose their start"
        ));
    }
    let num_left = planned.num_distinct() - log.map_or(0, |log| planned.num_answered(log));
    let computed = planned.plan.num_computed();
    let work = if num_left == 0 {
        "all of them were answered before".to_owned()
    } else if num_left == planned.num_distinct() {
        format!("{computed} tokens to compute, since prefixes are shared")
    } else {
        format!(
            "at most {computed} tokens to compute, since prefixes are shared and some requests were answered before"
        )
    };
    console::tell(format_args!(
        "{} items, {} requests of {} tokens; {work}",
        suite.num_items(),
        planned.plan.places().len(),
        planned.plan.num_tokens(),
    ));
}

/// Warns of settings of the model that lm-eval obeys.
fn tell_ignored(planned: &SuitePlan, defaults: &GenerationDefaults) {
    if !planned.open.is_empty() && !defaults.ignored.is_empty() {
        let names = defaults.ignored.join(", ");
        console::tell(format_args!("warning: generation_config.json sets {names}, which eval does not compute"));
    }
}

/// Warns of log-likelihoods that are infinite or no number: a score made of them means nothing.
fn tell_nonfinite(scores: &TaskScores<'_>) {
    match scores.num_nonfinite() {
        0 => {}
        count => console::tell(format_args!(
            "warning: {}: {count} log-likelihoods are not finite, its scores mean nothing",
            scores.task.chosen.task.name
        )),
    }
}

fn stopped(error: EvalError, has_log: bool) -> Failure {
    let (EvalError::Stopped, Some(signal)) = (&error, interrupt::caught()) else { return error.into() };
    let next = if has_log { "the same command goes on from the answers so far" } else { "nothing is kept" };
    Failure::runtime(format_args!("stopped by signal {signal}: {next}"))
}

fn metadata(
    args: &EvalArgs,
    opened: &OpenedModel,
    growth: &Growth<'_>,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    start: (SystemTime, Instant),
) -> RunMetadata {
    let mut model_args = Map::new();
    model_args.insert("pretrained".to_owned(), json!(opened.name()));
    if growth.source.plans().next().is_some() {
        model_args.insert("growth".to_owned(), json!(growth.title()));
    }
    if let Some((option, value)) = args.weights.given() {
        model_args.insert(option.to_owned(), json!(value));
    }
    RunMetadata {
        model_args,
        model_name: opened.name(),
        num_parameters: count_parameters(growth.source.config()).total,
        batch_size: args.batch_size.to_string(),
        device: args.weights.device.clone(),
        use_cache: args.use_cache.clone(),
        limit: args.limit,
        seeds: args.seeds,
        max_length: growth.source.config().max_position_embeddings,
        bos: special(tokenizer, tokenizer.bos()),
        eos: special(tokenizer, tokenizer.eos().first().copied()),
        system_instruction: args.system_instruction.clone(),
        chat_template: template.map(|template| template.source().to_owned()),
        fewshot_as_multiturn: template.map(|_| args.fewshot_as_multiturn),
        run: run_info::run_info(&args.weights.device, ""),
        start: start.0,
        evaluation_s: start.1.elapsed().as_secs_f64(),
    }
}

fn special(tokenizer: &Tokenizer, id: Option<u32>) -> Option<(String, u32)> {
    let id = id?;
    Some((tokenizer.decode(&[id]).ok()?, id))
}

/// The results beyond lm-eval's: cost, data with checksums, the files of weights.
fn extras(
    suite: &Suite,
    planned: &SuitePlan,
    scores: &[TaskScores<'_>],
    growth: &Growth<'_>,
    cost: &Cost,
    model: Value,
    record: &Map<String, Value>,
) -> Value {
    let tasks = || suite.tasks.iter().map(|task| task.chosen.task.name.clone());
    let data: Map<String, Value> = tasks().zip(suite.tasks.iter().map(|task| json!(task.files))).collect();
    let num_cut: Map<String, Value> = tasks().zip(planned.num_cut.iter().map(|count| json!(count))).collect();
    // A run that only reads a log has no rates, and one that goes on computes a part of each item.
    let rate = |amount: f64, unit: f64| (cost.num_computed_tokens > 0).then(|| amount / unit);
    let flops_per_item = rate(cost.flops as f64, suite.num_items() as f64).filter(|_| cost.num_resumed == 0);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "harness": format!("lm-eval {}", crate::eval::LM_EVAL_VERSION),
        "model": model,
        "parameters": count_parameters(growth.source.config()),
        "cost": cost,
        "flops_per_item": flops_per_item,
        "tokens_per_second": rate(cost.num_computed_tokens as f64, cost.wall_s),
        "h6": leaderboard_mean(record),
        "data": data,
        "requests_cut": num_cut,
        "nonfinite": scores.iter().map(TaskScores::num_nonfinite).sum::<usize>(),
    })
}

/// The line and the tables of lm-eval, then the cost.
fn as_text(args: &EvalArgs, record: &Map<String, Value>) -> String {
    let given = |value: Option<String>| value.unwrap_or_else(|| "None".to_owned());
    let limit = given(args.limit.map(|limit| limit.to_string()));
    let shots = given(args.num_fewshot.map(|shots| shots.to_string()));
    let named = |(name, value): (&String, &Value)| format!("{name}={}", cut(&value.as_str().unwrap_or_default()));
    let model_args = record["config"]["model_args"].as_object().into_iter().flatten().map(named);
    let mut text = format!(
        "deepwide ({}), gen_kwargs: (None), limit: {limit}, num_fewshot: {shots}, batch_size: {}\n",
        model_args.collect::<Vec<_>>().join(","),
        args.batch_size
    );
    let tables = [Column::Results, Column::Groups].into_iter().filter_map(|column| table(record, column));
    text += &tables.collect::<Vec<_>>().join("\n");
    for (task, count) in record["n-samples"].as_object().into_iter().flatten() {
        if count["original"] != count["effective"] {
            text += &format!("{task}: the first {} of {} items\n", count["effective"], count["original"]);
        }
    }
    let extras = &record["deepwide"];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    if let Some(mean) = extras["h6"].as_f64() {
        text += &format!("\nH6 {:.2}\n", 100.0 * mean);
    }
    let count = |value: &Value| output::short_count(u128::from(value.as_u64().unwrap_or_default()));
    let rate = |key: &str, show: fn(f64) -> String| extras[key].as_f64().map(show);
    let rows = [
        ("total parameters", Some(count(&extras["parameters"]["total"]))),
        ("active parameters", Some(count(&extras["parameters"]["active"]))),
        ("FLOPs per item", rate("flops_per_item", |flops| output::operations(flops as u128))),
        ("seconds", Some(format!("{:.1}", number(&extras["cost"]["wall_s"])))),
        ("tokens/s", rate("tokens_per_second", |speed| format!("{speed:.0}"))),
    ];
    let row = |(name, shown): (&str, Option<String>)| Some(vec![name.to_owned(), shown?]);
    text + "\n" + &output::aligned(&rows.into_iter().filter_map(row).collect::<Vec<_>>())
}
