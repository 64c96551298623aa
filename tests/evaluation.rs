//! Evaluation against what lm-eval computed with the same models, items and prompts.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use deepwide::eval::{
    Answer, AnswerLog, Chat, DataPlace, DataSet, EncodedRequest, Encoder, EvalError, GenerationDefaults, Limit, Limits,
    Plan, PromptStyle, RunProgress, Sample, Selection, Split, Suite, SuitePlan, answer_all, generate_all, results,
};
use deepwide::formats::Checkpoint;
use deepwide::hub::DataSetFiles;
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::output::disk::disk;
use deepwide::tokenizer::Tokenizer;
use deepwide::weights::WeightSource;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::grow::{run, tiny_base};
use crate::pico;

/// Log-likelihoods of up to 20 tokens of two float32 implementations.
const TOLERANCE: f64 = 2e-4;
const TASKS: [&str; 6] =
    ["arc_challenge", "hellaswag", "truthfulqa_mc2", "winogrande", "mmlu_anatomy", "mmlu_high_school_us_history"];

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A golden model with the tokenizer and the context of the golden evaluation.
pub fn checkpoint(model: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(golden(model).join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = json!(512);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(golden(model).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(golden("eval").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn suite(tasks: &[&str], num_fewshot: Option<usize>, style: &PromptStyle<'_>) -> Suite {
    read(Selection::new(&names(tasks), num_fewshot).unwrap(), style)
}

fn read(selection: Selection, style: &PromptStyle<'_>) -> Suite {
    Suite::read(&DataPlace::Directory(&golden("eval/data")), selection, None, style, 1234).unwrap()
}

/// A golden run: its model, its tasks and how its prompts are written.
fn check(key: &str, tasks: &[&str], num_fewshot: Option<usize>, multiturn: Option<bool>) {
    let expected: Value = serde_json::from_slice(&fs::read(golden("eval/scores.json")).unwrap()).unwrap();
    let expected = &expected[key];
    let folder = checkpoint(key.split(' ').next().unwrap());
    let opened = Checkpoint::open_on(disk(), folder.path()).unwrap();
    let template = opened.chat_template(None).unwrap();
    let chat = multiturn.map(|multiturn| Chat { template: &template, multiturn });
    let style = PromptStyle { system_instruction: multiturn.map(|_| "be brief."), chat };
    let is_grouped = key.ends_with("grouped");
    let of = if is_grouped { &["openllm"] } else { tasks };
    let mut selection = Selection::new(&names(of), num_fewshot).unwrap();
    selection.tasks.retain(|chosen| tasks.contains(&chosen.task.name.as_str()));
    let suite = read(selection, &style);
    let tokenizer = opened.tokenizer().unwrap();
    let encoder =
        Encoder::new(&tokenizer, opened.config().max_position_embeddings, opened.config().vocab_size).unwrap();
    let SuitePlan { plan, open, .. } = suite.plan(&encoder, &GenerationDefaults::default(), &|| ()).unwrap();
    let device = pico::device();
    let model = AnyDecoder::load(&opened, &device).unwrap();
    let (answers, _) = answer_all(&model, &plan, None, Limits::default(), &device, &mut |_| Ok(())).unwrap();
    let (texts, _) =
        generate_all(&model, &tokenizer, &open, None, Limits::default(), &device, &mut |_, _| Ok(())).unwrap();
    let scores = suite.scores(&plan, &answers, texts);
    for scores in &scores {
        let name = &scores.task.chosen.task.name;
        for (index, (sample, expected)) in
            Sample::all(scores).zip(expected["samples"][name].as_array().unwrap()).enumerate()
        {
            let found = sample.to_json();
            let at = format!("{key}, {name}, item {index}");
            let arguments = found["arguments"].as_object().unwrap().values();
            let hash = |pair: &Value| {
                let texts = [&pair["arg_0"], &pair["arg_1"]].into_iter().filter_map(Value::as_str);
                let hash = Sha256::digest(texts.collect::<Vec<_>>().join("\0"));
                hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
            };
            assert_eq!(json!(arguments.map(hash).collect::<Vec<_>>()), expected["requests"], "{at}: prompts");
            let hashes = json!([found["doc_hash"], found["prompt_hash"], found["target_hash"]]);
            assert_eq!(hashes, expected["hashes"], "{at}");
            let answers = found["filtered_resps"].as_array().unwrap().iter();
            for (answer, expected) in answers.zip(expected["answers"].as_array().unwrap()) {
                if answer.is_string() {
                    assert_eq!(json!([found["resps"][0][0], answer]), *expected, "{at}");
                    continue;
                }
                let found = answer;
                let number = |value: &Value| value.as_str().unwrap().parse::<f64>().unwrap();
                let difference = number(&found[0]) - expected[0].as_f64().unwrap();
                assert!(difference.abs() < TOLERANCE, "{at}: {found} {expected}");
                assert_eq!(found[1] == "True", expected[1] == true, "{at}: greedy");
            }
            for (metric, expected) in expected["metrics"].as_object().unwrap() {
                let difference = found[metric].as_f64().unwrap() - expected.as_f64().unwrap();
                assert!(difference.abs() < if name == "truthfulqa_mc2" { 1e-4 } else { 1e-12 }, "{at}: {metric}");
            }
        }
    }
    let found = results(&scores, &[]);
    for (task, expected) in expected["results"].as_object().unwrap() {
        for (metric, expected) in expected.as_object().unwrap().iter().filter(|(metric, _)| metric.contains(',')) {
            let difference = found["results"][task][metric].as_f64().unwrap() - expected.as_f64().unwrap();
            assert!(difference.abs() < 1e-4, "{key}: {task} {metric}");
        }
    }
    for section in ["n-shot", "n-samples", "higher_is_better"] {
        assert!(is_grouped || found[section] == expected[section], "{key}: {section}");
    }
}

#[test]
fn zero_shot_scores_of_a_dense_model_are_those_of_lm_eval() {
    check("llama_gqa_tied 0", &TASKS, None, None);
}

#[test]
fn scores_of_a_mixture_are_those_of_lm_eval_with_and_without_examples() {
    check("mixtral_4x2 0", &TASKS, None, None);
    check("mixtral_4x2 3", &TASKS, Some(3), None);
}

#[test]
fn examples_of_the_leaderboard_are_drawn_as_its_group_says() {
    check("mixtral_4x2 5 grouped", &["hellaswag", "winogrande"], Some(5), None);
}

#[test]
fn prompts_longer_than_the_context_lose_their_start() {
    check("mixtral_4x2 12", &["arc_challenge"], Some(12), None);
}

#[test]
fn generated_answers_are_those_of_lm_eval_under_both_filters() {
    check("mixtral_4x2 2 gsm8k", &["gsm8k"], Some(2), None);
}

#[test]
fn chats_are_those_of_lm_eval() {
    check("mixtral_4x2 2 multiturn", &TASKS, Some(2), Some(true));
    check("mixtral_4x2 2 singleturn", &TASKS, Some(2), Some(false));
}

#[test]
fn sharing_prefixes_changes_log_likelihoods_by_rounding_only() {
    let folder = checkpoint("mixtral_4x2");
    let opened = Checkpoint::open_on(disk(), folder.path()).unwrap();
    let device = pico::device();
    let model = AnyDecoder::load(&opened, &device).unwrap();
    let shared: Vec<u32> = (0..40).map(|i| 3 + i * 7 % 50).collect();
    let request =
        |middle: &[u32], end: &[u32], num_scored| EncodedRequest::new([&shared, middle, end].concat(), num_scored);
    let mut requests = Vec::new();
    for item in 0..5u32 {
        let middle: Vec<u32> = (0..20 + item).map(|i| 3 + (i * 11 + item) % 55).collect();
        for end in [&[7u32, 8, 9][..], &[7, 8], &[7, 9, 9, 9], &[10]] {
            requests.push(request(&middle, end, end.len()));
        }
    }
    // A request that scores its shared tokens too.
    requests.push(request(&[5, 6], &[7], 30));
    // Prefixes whose continuations have none: where the device can, they are computed in one pass.
    for item in 0..3u32 {
        let prefix: Vec<u32> = (0..30 + 9 * item).map(|i| 3 + (i * 13 + 5 * item) % 55).collect();
        let ends = [vec![7; 3], vec![8, 7], (9..30).collect(), vec![11]];
        requests.extend(ends.iter().map(|end| EncodedRequest::new([&prefix, end.as_slice()].concat(), end.len())));
    }
    let answer = |limits: Limits, requests: &[EncodedRequest]| -> Vec<Answer> {
        let plan = Plan::new(requests.to_vec());
        let (answers, _) = answer_all(&model, &plan, None, limits, &device, &mut |_| Ok(())).unwrap();
        plan.places().iter().map(|place| answers[*place]).collect()
    };
    let together = answer(Limits::default(), &requests);
    let few = answer(Limits { max_sequences: 2, max_tokens: 30, max_cache_bytes: 1 }, &requests);
    for (index, request) in requests.iter().enumerate() {
        let alone = answer(Limits::default(), std::slice::from_ref(request))[0];
        for found in [together[index], few[index]] {
            assert!((found.log_likelihood - alone.log_likelihood).abs() < 1e-4, "{index}");
            assert_eq!(found.is_greedy, alone.is_greedy, "{index}");
        }
        let logits = model.forward(crate::models::tokens(&[request.input()], &device)).logits;
        let vocab_size = model.config().vocab_size;
        let logits: Vec<f32> = logits.into_data().iter().collect();
        let rows: Vec<&[f32]> = logits.chunks_exact(vocab_size).collect();
        let sum: f64 = expected_sum(request, &rows);
        assert!((alone.log_likelihood - sum).abs() < 1e-4, "{index}: {} {sum}", alone.log_likelihood);
    }
}

#[test]
fn forks_that_fit_are_computed_in_one_pass_and_others_after_their_prefix() {
    let folder = checkpoint("llama_gqa_tied");
    let opened = Checkpoint::open_on(disk(), folder.path()).unwrap();
    let device = pico::device();
    let model = AnyDecoder::load(&opened, &device).unwrap();
    let request = |item: u32, end: u32| {
        let prefix = (0..40).map(|i| 3 + (i * 13 + 5 * item) % 55);
        EncodedRequest::new(prefix.chain([end, end]).collect(), 2)
    };
    let requests = (0..3).flat_map(|item| (7..10).map(move |end| request(item, end))).collect();
    let plan = Plan::new(requests);
    let passes = |limits: Limits| {
        let mut passes = Vec::new();
        let mut watch = |progress: RunProgress| {
            passes.push(progress.num_tokens);
            Ok(())
        };
        let (answers, _) = answer_all(&model, &plan, None, limits, &device, &mut watch).unwrap();
        (answers, passes)
    };
    // A prefix has 40 tokens; of an ending, one is read.
    let (together, in_one) = passes(Limits::default());
    assert_eq!(in_one, [3 * 43]);
    let (alone, in_three) = passes(Limits { max_sequences: 1, ..Limits::default() });
    assert_eq!(in_three, [43; 3]);
    let (apart, in_turn) = passes(Limits { max_tokens: 42, ..Limits::default() });
    assert_eq!(in_turn, [40, 3].repeat(3));
    for others in [alone, apart] {
        let pairs = together.iter().zip(&others);
        assert!(pairs.clone().all(|(a, b)| (a.log_likelihood - b.log_likelihood).abs() < 1e-4));
        assert!(pairs.clone().all(|(a, b)| a.is_greedy == b.is_greedy));
    }
}

/// `Σ ln p` of the scored ids, from the logits of all positions.
fn expected_sum(request: &EncodedRequest, rows: &[&[f32]]) -> f64 {
    let count = request.num_scored();
    let ids = request.ids();
    let of = |at: usize| {
        let row = rows[at - 1];
        let log_sum = row.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
        f64::from(row[ids[at] as usize]) - log_sum
    };
    (ids.len() - count..ids.len()).map(of).sum()
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let folder = checkpoint("llama_gqa_tied");
    let opened = Checkpoint::open_on(disk(), folder.path()).unwrap();
    let tokenizer = opened.tokenizer().unwrap();
    let encoder = Encoder::new(&tokenizer, 512, 61).unwrap();
    let suite = suite(&["mmlu_anatomy", "hellaswag", "arc_challenge"], Some(2), &PromptStyle::default());
    let plan = suite.plan(&encoder, &GenerationDefaults::default(), &|| ()).unwrap().plan;
    let device = pico::device();
    let model = AnyDecoder::load(&opened, &device).unwrap();
    // Endings are computed with their context where they fit a pass, else after it.
    for max_tokens in [150, 4096] {
        goes_on_to_the_same_bits(&model, &plan, Limits { max_sequences: 2, max_tokens, ..Limits::default() }, &folder);
    }
}

fn goes_on_to_the_same_bits(model: &AnyDecoder, plan: &Plan, limits: Limits, folder: &TempDir) {
    let device = pico::device();
    let (whole, cost) = answer_all(model, plan, None, limits, &device, &mut |_| Ok(())).unwrap();
    assert_eq!(cost.num_computed_tokens, plan.num_computed());
    let path = folder.path().join(format!("answers_{}.jsonl", limits.max_tokens));
    let mut num_runs = 0;
    let answers = loop {
        let mut log = open_when_free(&path);
        let mut num_passes = 0;
        let run = answer_all(model, plan, Some(&mut log), limits, &device, &mut |_| {
            num_passes += 1;
            if num_passes == 6 { Err(EvalError::Stopped) } else { Ok(()) }
        });
        num_runs += 1;
        assert!(num_runs < 100, "every run answers some requests");
        match run {
            Ok((answers, _)) => break answers,
            Err(error) => assert!(matches!(error, EvalError::Stopped)),
        }
    };
    assert!(num_runs > 2);
    assert_eq!(answers, whole);
    let mut log = open_when_free(&path);
    let (again, cost) = answer_all(model, plan, Some(&mut log), limits, &device, &mut |_| Ok(())).unwrap();
    assert_eq!((again, cost.num_computed_tokens, cost.flops), (whole, 0, 0));
}

/// Opens a log. A child process that another test has just started may still hold the lock of the log closed before.
fn open_when_free(path: &Path) -> AnswerLog {
    for _ in 0..1000 {
        match AnswerLog::open(path, "model") {
            Err(EvalError::LogInUse { .. }) => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
    panic!("the log stays locked");
}

#[test]
fn an_interrupted_generation_goes_on_with_the_same_texts_at_another_batch_size() {
    let folder = checkpoint("mixtral_4x2");
    let opened = Checkpoint::open_on(disk(), folder.path()).unwrap();
    let tokenizer = opened.tokenizer().unwrap();
    let encoder = Encoder::new(&tokenizer, 512, opened.config().vocab_size).unwrap();
    let suite = suite(&["gsm8k"], Some(2), &PromptStyle::default());
    let open = suite.plan(&encoder, &GenerationDefaults::default(), &|| ()).unwrap().open;
    let device = pico::device();
    let model = AnyDecoder::load(&opened, &device).unwrap();
    let limits = Limits { max_sequences: 2, ..Limits::default() };
    let (whole, cost) =
        generate_all(&model, &tokenizer, &open, None, Limits::default(), &device, &mut |_, _| Ok(())).unwrap();
    let path = folder.path().join("answers.jsonl");
    let mut log = open_when_free(&path);
    let mut stop = |_, _| Err(EvalError::Stopped);
    assert!(generate_all(&model, &tokenizer, &open, Some(&mut log), limits, &device, &mut stop).is_err());
    drop(log);
    let mut log = open_when_free(&path);
    let (texts, rest) =
        generate_all(&model, &tokenizer, &open, Some(&mut log), limits, &device, &mut |_, _| Ok(())).unwrap();
    assert_eq!(texts, whole);
    assert_eq!(rest.num_request_tokens, cost.num_request_tokens);
    assert!(rest.num_resumed > 0 && rest.num_computed_tokens < cost.num_computed_tokens);
}

#[test]
fn missing_data_is_named_with_the_place_where_it_was_looked_for() {
    let root = tempfile::tempdir().unwrap();
    let refusal = |task: &str, shots: usize, folder: &Path| {
        let selection = Selection::new(&names(&[task]), Some(shots)).unwrap();
        let (place, limit) = (DataPlace::Directory(folder), Some(Limit::Count(1)));
        Suite::read(&place, selection, limit, &PromptStyle::default(), 0).unwrap_err().to_string()
    };
    let message = refusal("mmlu_virology", 0, root.path());
    for words in ["mmlu_virology", "test split of cais/mmlu (virology)", "virology_test.*", "cais/mmlu"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let message = refusal("mmlu_other", 5, root.path());
    let first = "\"mmlu_business_ethics\", \"mmlu_clinical_knowledge\", \"mmlu_college_medicine\", …; mmlu_business_ethics needs the dev";
    assert!(message.starts_with(&format!("13 tasks lack data: {first}")), "{message}");
    let message = refusal("truthfulqa_mc2", 5, root.path());
    assert!(message.contains("multiple_choice/validation"), "no examples are looked for: {message}");
    let message = refusal("arc_challenge", 41, &golden("eval/data"));
    assert!(message.contains("41 examples") && message.contains("only 40"), "{message}");
}

#[test]
fn an_error_of_the_hub_names_its_cache_and_the_option_for_a_directory() {
    let (model, cache) = (checkpoint("llama_gqa_tied"), tempfile::tempdir().unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_deepwide"))
        .args(["eval", model.path().to_str().unwrap(), "-t", "hellaswag,mmlu_virology"])
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HUB_CACHE", cache.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    let cache = format!("{:?}", cache.path());
    for words in
        ["2 tasks lack data", "\"default/validation\" of the data set Rowan/hellaswag", "--data-dir DIR", &cache]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn data_sets_of_the_hub_are_those_of_a_directory() {
    let asked = RefCell::new(Vec::new());
    let on_hub = |data_set: &DataSet, split: Split| {
        asked.borrow_mut().push(format!("{} {}", data_set.path, data_set.hub_folder(split)));
        let file = if split == Split::Train { "train.jsonl" } else { "validation.jsonl" };
        // The golden rows, in a folder that is named as the commit.
        Ok(DataSetFiles { commit: "hellaswag".to_owned(), paths: vec![golden("eval/data/hellaswag").join(file)] })
    };
    let of = || Selection::new(&names(&["hellaswag"]), Some(2)).unwrap();
    let style = PromptStyle::default();
    let hub = Suite::read(&DataPlace::Hub(&on_hub), of(), None, &style, 1234).unwrap();
    let local = read(of(), &style);
    // All splits are downloaded before any is read.
    let splits = ["Rowan/hellaswag default/train", "Rowan/hellaswag default/validation"];
    assert_eq!(*asked.borrow(), [splits, splits].concat());
    let prompts = |suite: &Suite| suite.tasks[0].items.iter().map(|item| item.prompts.clone()).collect::<Vec<_>>();
    assert_eq!(prompts(&hub), prompts(&local));
    let files: Vec<&Path> = hub.tasks[0].files.iter().map(|file| file.path.as_path()).collect();
    assert_eq!(
        files,
        ["Rowan/hellaswag@hellaswag/train.jsonl", "Rowan/hellaswag@hellaswag/validation.jsonl"].map(Path::new)
    );
}

#[test]
fn distributions_over_other_tokens_are_not_compared() {
    let root = tempfile::tempdir().unwrap();
    let [model, same, other] = ["model", "same", "other"].map(|name| tiny_base(&root.path().join(name)));
    let words = ["<bos>", "<eos>", "<unk>"].into_iter().map(String::from).chain((0..61).rev().map(|i| format!("w{i}")));
    Tokenizer::word_level(&words.collect::<Vec<_>>()).save(&other).unwrap();
    let text = root.path().join("text");
    fs::write(&text, (0..40).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")).unwrap();
    let [model, same, other, text] = [&model, &same, &other, &text].map(|path| path.to_str().unwrap());
    let compared = |base: &str| run(&["perplexity", model, "-f", text, "-c", "8", "--json", "--kl", base]);
    let output = compared(same);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&record["divergence"]["max_kl_nats"], &record["divergence"]["same_top_1"]), (&json!(0.0), &json!(1.0)));
    let output = compared(other);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    let message = "--kl: the tokenizer of BASE gives id 63 for token 0 of the text, expected 3, as that of the model";
    assert!(said.contains(message), "{said}");
}

#[test]
fn divergence_shows_what_rounding_the_weights_changes() {
    let root = tempfile::tempdir().unwrap();
    let model = tiny_base(&root.path().join("model"));
    let text = root.path().join("text");
    fs::write(&text, (0..40).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")).unwrap();
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    let record = |option: &str, value: &str| -> Value {
        let words = ["perplexity", model, "-f", text, "-c", "8", "--json", "--kl", model, option, value];
        let output = run(&words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (same, rounded) = (record("--dtype", "fp32"), record("--quant", "q4_0"));
    assert_eq!((&same["dtype"], &same["divergence"]["max_kl_nats"]), (&json!("float32"), &json!(0.0)));
    assert_eq!((&rounded["quant"], &rounded["dtype"]), (&json!("q4_0"), &Value::Null));
    assert!(rounded["divergence"]["mean_kl_nats"].as_f64().unwrap() > 1e-6, "{}", rounded["divergence"]);
}

#[test]
fn results_and_logs_of_answers_are_of_one_precision() {
    let (model, root) = (checkpoint("llama_gqa_tied"), tempfile::tempdir().unwrap());
    let [data, log] = [golden("eval/data"), root.path().join("log")];
    let shown = |options: &[&str]| {
        let words = ["eval", model.path().to_str().unwrap(), "-t", "winogrande", "--data-dir", data.to_str().unwrap()];
        run(&[&words[..], &["-c", log.to_str().unwrap()], options].concat())
    };
    let evaluated = |options: &[&str]| shown(&[options, &["--json"]].concat());
    let output = evaluated(&["--dtype", "bf16"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["config"]["model_args"]["dtype"], "bfloat16");
    assert_eq!(record["deepwide"]["model"]["dtype"], "bfloat16");
    assert!(String::from_utf8_lossy(&output.stderr).contains(" tokens to compute, since prefixes are shared\n"));
    let rates = |record: &Value| ["flops_per_item", "tokens_per_second"].map(|key| record["deepwide"][key].clone());
    assert!(rates(&record).iter().all(|rate| rate.as_f64() > Some(0.0)), "{}", record["deepwide"]);
    let output = evaluated(&["--dtype", "bfloat16"]);
    let resumed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(resumed["deepwide"]["cost"]["num_computed_tokens"], 0, "all answers are in the log");
    assert_eq!(resumed["results"], record["results"]);
    assert_eq!(rates(&resumed), [Value::Null, Value::Null], "nothing was computed");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("all of them were answered before") && !said.contains("to compute"), "{said}");
    let table = String::from_utf8_lossy(&shown(&["--dtype", "bf16"]).stdout).into_owned();
    assert!(table.contains("seconds") && !table.contains("tokens/s") && !table.contains("FLOPs"), "{table}");
    let output = evaluated(&[]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("--use-cache: ") && said.contains("answers of another model, precision"), "{said}");
    let absent = root.path().join("no/log");
    let words = ["eval", model.path().to_str().unwrap(), "-t", "winogrande", "--data-dir", data.to_str().unwrap()];
    let output = run(&[&words[..], &["-c", absent.to_str().unwrap()]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: --use-cache: ") && said.contains("no/log"), "{said}");
}

#[test]
fn a_run_that_goes_on_has_the_scores_of_a_whole_one_and_no_flops_of_an_item() {
    let (model, root) = (checkpoint("llama_gqa_tied"), tempfile::tempdir().unwrap());
    let [data, log] = [golden("eval/data"), root.path().join("log")];
    let evaluated = || -> Value {
        let words = ["eval", model.path().to_str().unwrap(), "-t", "winogrande", "--data-dir", data.to_str().unwrap()];
        let output = run(&[&words[..], &["--json", "-c", log.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let whole = evaluated();
    let answers = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = answers.split_inclusive('\n').collect();
    fs::write(&log, lines[..1 + lines.len() / 2].concat()).unwrap();
    let resumed = evaluated();
    assert_eq!(resumed["results"], whole["results"]);
    let [whole, resumed] = [whole, resumed].map(|record| record["deepwide"].clone());
    assert!(resumed["cost"]["num_resumed"].as_u64() == Some(lines.len() as u64 / 2), "{resumed}");
    let flops = [&whole, &resumed].map(|record| record["cost"]["flops"].as_f64().unwrap());
    // A batch is computed as a whole.
    assert!(0.0 < flops[1] && flops[1] <= flops[0], "{flops:?}");
    // What a part of the requests cost is no cost of an item.
    assert!(whole["flops_per_item"].as_f64() > Some(0.0) && resumed["flops_per_item"].is_null(), "{resumed}");
    assert!(resumed["tokens_per_second"].as_f64() > Some(0.0), "{resumed}");
}

#[test]
fn the_default_precision_spelt_out_goes_on_with_the_same_log() {
    let (model, root) = (checkpoint("llama_gqa_tied"), tempfile::tempdir().unwrap());
    let [data, log] = [golden("eval/data"), root.path().join("log")];
    let evaluated = |options: &[&str]| -> Value {
        let words = ["eval", model.path().to_str().unwrap(), "-t", "winogrande", "--data-dir", data.to_str().unwrap()];
        let output = run(&[&words[..], &["--json", "-c", log.to_str().unwrap()], options].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let first = evaluated(&[]);
    let again = evaluated(&["--dtype", "float32"]);
    assert_eq!(again["deepwide"]["cost"]["num_computed_tokens"], 0, "all answers are in the log");
    assert_eq!(again["deepwide"]["model"], first["deepwide"]["model"]);
    assert_eq!(again["results"], first["results"]);
    assert_eq!(again["config"]["model_args"]["dtype"], "float32");
}
