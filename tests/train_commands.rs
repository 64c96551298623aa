//! `train`, `sft` and `dpo` as commands: from files to a directory that opens again, and what they refuse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deepwide::formats::HfDirectory;
use deepwide::formats::peft::PeftDirectory;
use deepwide::output::disk::disk;
use deepwide::output::receipt::verify;
use deepwide::weights::WeightSource;

pub const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/pico_base");

/// Options of a short run.
const SHORT: [&str; 9] = [
    "--max-length",
    "24",
    "--max_steps=3",
    "--per_device_train_batch_size=1",
    "--gradient_accumulation_steps",
    "2",
    "--logging-steps",
    "1",
    "--json",
];

fn run(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deepwide")).args(words).current_dir(folder).output().expect("the command runs")
}

/// Runs a command that has to succeed; its JSON object.
fn done(folder: &Path, words: &[&str]) -> serde_json::Value {
    let Output { status, stdout, stderr } = run(folder, &[words, &SHORT].concat());
    assert!(status.success(), "{} {}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
    serde_json::from_slice(&stdout).expect("a JSON object")
}

fn refused(folder: &Path, words: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = run(folder, words);
    let said = [stderr, stdout].concat();
    (status.code().expect("an exit code"), String::from_utf8_lossy(&said).into_owned())
}

/// Words of the vocabulary of the built-in base.
fn words() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(BASE).join("tokenizer.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap().keys();
    vocab.filter(|word| word.chars().all(|c| c.is_ascii_lowercase())).take(60).cloned().collect()
}

/// A file with a row for each of 24 numbers.
pub fn file(
    folder: &Path,
    name: &str,
    row: impl Fn(&dyn Fn(usize, usize) -> String, usize) -> serde_json::Value,
) -> PathBuf {
    let words = words();
    let text = |start: usize, len: usize| {
        (0..len).map(|at| words[(start * 7 + at * 3) % words.len()].as_str()).collect::<Vec<_>>().join(" ")
    };
    let rows: String = (0..24).map(|number| format!("{}\n", row(&text, number))).collect();
    let path = folder.join(name);
    std::fs::write(&path, rows).unwrap();
    path
}

fn card(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("README.md")).unwrap()
}

fn is_whole(folder: &Path) {
    let found = verify(&disk(), folder, &mut |_| ()).unwrap();
    assert!(found.mismatches.is_empty(), "{:?}", found.mismatches);
}

#[test]
fn training_from_a_growth_writes_a_model_with_its_receipt() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 5 + n)}));
    let summary = done(root.path(), &["train", BASE, "--data", "text.jsonl", "--moe", "4", "-o", "out"]);
    assert_eq!(summary["steps"], 3);
    assert!(summary["train_loss"].as_f64().unwrap() > 0.0 && summary["eval_loss"].is_number(), "{summary}");
    let out = root.path().join("out");
    is_whole(&out);
    assert_eq!(HfDirectory::open(&out).unwrap().config().moe.unwrap().num_local_experts, 4);
    let receipt: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("deepwide.json")).unwrap()).unwrap();
    assert_eq!(receipt["training"]["steps"], 3);
    assert!(receipt["growth"][0].is_object(), "{receipt}");
    let how = "from `pico_base`. Trained by next-token prediction for 3 updates on ";
    assert!(card(&out).contains("# Trained by deepwide\n\n4×top-2 mixture, ") && card(&out).contains(how));
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    assert!(log.lines().count() == 4 && log.contains("moe/load/L0") && log.contains("eval_loss"), "{log}");
    let drawn = std::fs::read_to_string(root.path().join("out-checkpoints/loss.svg")).unwrap();
    assert!(drawn.contains("</svg>"));
    // The folder of its checkpoints is not overwritten without being told so.
    let again = refused(root.path(), &["train", BASE, "--data", "text.jsonl", "-o", "out", "--force"]);
    assert!(again.0 == 3 && again.1.contains("--resume"), "{again:?}");
}

#[test]
fn shards_train_as_their_text_does() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 40 + usize::from(n == 0))}));
    let tokenized = run(root.path(), &["tokenize", "text.jsonl", "shards", "--tokenizer", BASE]);
    assert!(tokenized.status.success(), "{}", String::from_utf8_lossy(&tokenized.stderr));
    let train = |data, out| done(root.path(), &["train", BASE, "--data", data, "--test-split-size", "0", "-o", out]);
    let (from_text, from_shards) = (train("text.jsonl", "a"), train("shards", "b"));
    // 985 tokens are 41 rows of 24 inputs.
    assert_eq!(from_text["train_loss"], from_shards["train_loss"]);
    let weights = |out: &str| std::fs::read(root.path().join(out).join("model.safetensors")).unwrap();
    assert!(weights("a") == weights("b"));
    is_whole(&root.path().join("b"));
    let how = "# Trained by deepwide\n\nTrained from `pico_base` by next-token prediction for ";
    assert!(card(&root.path().join("b")).contains(how));
}

#[test]
fn a_text_has_the_same_ids_in_train_and_sft() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("text.jsonl"), serde_json::json!({"text": words()[..22].join(" ")}).to_string())
        .unwrap();
    base_with_eos(root.path(), "plain", &1.into());
    let base = base_with_eos(root.path(), "with_bos", &1.into());
    let path = base.join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let id = json["model"]["vocab"]["<bos>"].clone();
    let single = serde_json::json!([
        {"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
    ]);
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing", "single": single, "pair": single,
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [id], "tokens": ["<bos>"]}},
    });
    std::fs::write(&path, json.to_string()).unwrap();
    let trained = |command: &str, base: &str| {
        let words = [command, base, "--data", "text.jsonl", "--test-split-size", "0", "-o"];
        let summary = done(root.path(), &[&words[..], &[format!("{command}-{base}").as_str()]].concat());
        (summary["num_tokens"].clone(), summary["train_loss"].clone())
    };
    let [plain, with_bos] = ["plain", "with_bos"].map(|base| {
        let ways = ["train", "sft"].map(|command| trained(command, base));
        assert_eq!(ways[0], ways[1], "{base}");
        ways[0].clone()
    });
    // Of three updates of the row twice: 22 words and an end, or a beginning too; the last id is a target only.
    assert_eq!([plain.0, with_bos.0], [(3 * 2 * 22).into(), serde_json::Value::from(3 * 2 * 23)]);
    assert_ne!(plain.1, with_bos.1);
}

#[test]
fn sources_are_visited_as_often_as_their_weights_say() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "a.jsonl", |text, n| serde_json::json!({"text": text(n, 40)}));
    file(root.path(), "b.jsonl", |text, n| serde_json::json!({"text": text(n + 50, 40)}));
    let shards = run(root.path(), &["tokenize", "b.jsonl", "b", "--tokenizer", BASE, "--heldout", "0.2"]);
    assert!(shards.status.success(), "{}", String::from_utf8_lossy(&shards.stderr));
    let words = ["train", BASE, "--data", "a.jsonl=2", "b=0.5", "--max-length", "24", "--num-train-epochs", "1"];
    let words = [&words[..], &["--per-device-train-batch-size", "32", "--json"]].concat();
    let trained = run(root.path(), &[&words[..], &["-o", "out"]].concat());
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let receipt = std::fs::read(root.path().join("out/deepwide.json")).unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    let sources = receipt["training"]["settings"]["data"].as_array().unwrap();
    let [rows_of_a, rows_of_b] = [0, 1].map(|at| sources[at]["num_rows"].as_u64().unwrap());
    // 24 documents of 41 tokens are 41 rows, of which 2 are held out; of shards, documents are.
    assert_eq!(rows_of_a, 39);
    assert!((26..40).contains(&rows_of_b), "{rows_of_b}");
    let num_visits = 2 * rows_of_a + (0.5 * rows_of_b as f64).round() as u64;
    assert_eq!(receipt["training"]["steps"].as_u64().unwrap(), num_visits.div_ceil(32));
    let other = ["train", BASE, "--data", "a.jsonl=2", "b=0.75", "--max-length", "24", "--num-train-epochs", "1"];
    let other = [&other[..], &["--per-device-train-batch-size", "32", "-o", "out", "--force", "--resume"]].concat();
    let (code, message) = refused(root.path(), &other);
    assert!(code == 3 && message.contains("0.75") && message.contains("0.5"), "{message}");
}

#[test]
fn fine_tuning_recognizes_completions_packs_them_and_resumes() {
    let root = tempfile::tempdir().unwrap();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| serde_json::json!({"prompt": text(n, 4 + n % 3), "completion": format!(" {}", text(n + 1, 5))});
    file(root.path(), "pairs.jsonl", row);
    let words = ["sft", BASE, "--data", "pairs.jsonl", "--packing", "--save-steps", "2", "--keep", "9"];
    let summary = done(root.path(), &[&words[..], &["-o", "a"]].concat());
    assert_eq!(summary["steps"], 3);
    let kept = root.path().join("b-checkpoints/checkpoint-2");
    std::fs::create_dir_all(&kept).unwrap();
    for entry in std::fs::read_dir(root.path().join("a-checkpoints/checkpoint-2")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, kept.join(path.file_name().unwrap())).unwrap();
    }
    done(root.path(), &[&words[..], &["-o", "b", "--resume"]].concat());
    for name in ["model.safetensors", "log.jsonl"] {
        let bytes = |out: &str| std::fs::read(root.path().join(out).join(name)).unwrap();
        assert!(bytes("a") == bytes("b"), "{name}");
    }
    // A linear decay depends on the length, a constant rate does not.
    let longer = [&["--max_steps=5"], &SHORT[3..8]].concat();
    let longer = [&words[..], &SHORT[..2], &longer].concat();
    let again = ["-o", "b", "--force", "--resume"];
    let (code, message) = refused(root.path(), &[&longer[..], &again].concat());
    assert!(code == 3 && message.contains("--max-steps: found 5, expected 3"), "{message}");
    let constant = ["--lr-scheduler-type", "constant", "--checkpoints", "constant"];
    done(root.path(), &[&words[..], &constant, &["-o", "d"]].concat());
    let lengthened =
        run(root.path(), &[&longer[..], &constant, &["-o", "d", "--force", "--resume", "--json"]].concat());
    assert!(lengthened.status.success(), "{}", String::from_utf8_lossy(&lengthened.stderr));
    let whole = run(root.path(), &[&longer[..], &constant[..2], &["-o", "e", "--json"]].concat());
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    // The evaluation at the earlier end is in the log of that run, and not in that of the longer one.
    for name in ["model.safetensors", "log.jsonl"] {
        let bytes = |out: &str| std::fs::read(root.path().join(out).join(name)).unwrap();
        assert!(bytes("d") == bytes("e"), "{name} of a lengthened run differs from that of a long one");
    }
    let log = std::fs::read_to_string(root.path().join("e/log.jsonl")).unwrap();
    assert_eq!(log.matches("eval_loss").count(), 1, "{log}");
    let other = [&words[..], &SHORT, &["-o", "c", "--resume", "--checkpoints", "b-checkpoints", "--lr", "1"]].concat();
    let (code, message) = refused(root.path(), &other);
    assert!(code == 3 && message.contains("--learning-rate: found 1.0, expected 0.00002"), "{message}");
}

#[test]
fn other_data_is_evaluated_in_place_of_held_out_rows() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    file(root.path(), "other.jsonl", |text, n| serde_json::json!({"text": text(n + 100, 30)}));
    let words = ["train", BASE, "--data", "text.jsonl", "--max-eval-samples", "4", "--learning-rate", "1e-30"];
    let evaluated = done(root.path(), &[&words[..], &["--eval-data", "other.jsonl", "-o", "a"]].concat());
    // A model that stays as it is has the loss of the same rows when they are held out of data of their own.
    let own = ["train", BASE, "--data", "other.jsonl", "--test-split-size", "0.5", "--max-eval-samples", "4"];
    let heldout = done(root.path(), &[&own[..], &["--learning-rate", "1e-30", "-o", "b"]].concat());
    assert_eq!(evaluated["eval_loss"], heldout["eval_loss"]);
    let receipt = std::fs::read(root.path().join("a/deepwide.json")).unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    // 240 tokens are 10 rows, and none is held out.
    assert_eq!(receipt["training"]["settings"]["data"][0]["num_rows"], 10);
    let again = [&words[..], &SHORT, &["--eval-data", "text.jsonl", "-o", "a", "--force", "--resume"]].concat();
    let (code, message) = refused(root.path(), &again);
    assert!(code == 3 && message.contains("--eval-data"), "{message}");
    // 48 tokens fill no row of 64, those of the run do.
    file(root.path(), "short.jsonl", |text, n| serde_json::json!({"text": text(n, 1)}));
    assert!(run(root.path(), &["tokenize", "short.jsonl", "short", "--tokenizer", BASE]).status.success());
    let short = |data, out| [&words[..2], &["--data", data, "--max-length", "64", "-o", out]].concat();
    let (code, message) = refused(root.path(), &[&short("text.jsonl", "c")[..], &["--eval-data", "short"]].concat());
    assert!(code == 3 && message.contains("data to evaluate on: ") && message.contains("found 48 tokens"), "{message}");
    let (code, message) = refused(root.path(), &short("short", "d"));
    assert!(code == 3 && !message.contains("evaluate") && message.contains("found 48 tokens"), "{message}");
}

#[test]
fn an_adapter_is_written_as_peft_does_and_merges() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    let lora = ["--use-peft", "--lora-r", "2", "--learning-rate", "1e-2"];
    done(root.path(), &[&["sft", BASE, "--data", "text.jsonl", "-o", "adapter"], &lora[..]].concat());
    let adapter = root.path().join("adapter");
    is_whole(&adapter);
    let config = PeftDirectory::open(&adapter).unwrap().config().clone();
    assert_eq!((config.r, config.lora_dropout), (2, 0.05));
    let how = "from `pico_base` by supervised fine-tuning (SFT) of a LoRA adapter of rank 2 for 3 updates on ";
    assert!(card(&adapter).contains(how) && card(&adapter).contains("\n- lora\n"), "{}", card(&adapter));
    let drawn = std::fs::read_to_string(root.path().join("adapter-checkpoints/loss.svg")).unwrap();
    assert!(drawn.contains("Fine-tuning loss of pico_base") && drawn.contains("nats per trained token"), "{drawn}");
    let merged = run(root.path(), &["merge-lora", BASE, "adapter", "merged"]);
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    done(root.path(), &["train", BASE, "--data", "text.jsonl", "-o", "other"]);
    let (code, message) = refused(root.path(), &["merge-lora", "other", "adapter", "no"]);
    assert!(code == 3 && message.contains("other weights than \"other\" has"), "{message}");
    assert!(run(root.path(), &["merge-lora", "other", "adapter", "yes", "--any-base"]).status.success());
    let id = deepwide::weights::TensorId::Layer(0, deepwide::weights::LayerTensor::QProj);
    let weight = |path: &Path| HfDirectory::open(path).unwrap().read(id).unwrap();
    assert!(weight(Path::new(BASE)) != weight(&root.path().join("merged")), "the adapter learned nothing");
}

#[test]
fn a_model_with_an_adapter_is_the_one_that_merge_lora_writes() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    std::fs::write(root.path().join("text.txt"), words().join(" ")).unwrap();
    assert!(run(root.path(), &["grow", "--dus", "2", BASE, "deep"]).status.success());
    let lora = ["--use-peft", "--lora-r", "2", "--learning-rate", "1e-1"];
    done(root.path(), &[&["sft", "deep", "--data", "text.jsonl", "-o", "adapter"], &lora[..]].concat());
    assert!(run(root.path(), &["merge-lora", "deep", "adapter", "merged"]).status.success());
    let nats = |model: &[&str]| {
        let words = [&["perplexity"], model, &["-f", "text.txt", "-c", "16", "--json"]].concat();
        let Output { status, stdout, stderr } = run(root.path(), &words);
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.success(), "{said}");
        let record: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
        (record["nats_per_token"].as_f64().unwrap(), said)
    };
    let (merged, (adapted, said)) = (nats(&["merged"]).0, nats(&["deep", "--lora", "adapter"]));
    assert_eq!(adapted, merged);
    assert!(!said.contains("warning"), "{said}");
    assert_ne!(nats(&["deep"]).0, merged);
    let (adapted, said) = nats(&[BASE, "--dus", "2", "--lora", "adapter"]);
    assert_eq!(adapted, merged);
    assert!(!said.contains("warning"), "{said}");
    assert!(run(root.path(), &["grow", "--dus", "2", "--dtype", "float32", BASE, "wide"]).status.success());
    let (_, said) = nats(&["wide", "--lora", "adapter"]);
    assert!(said.contains("warning") && said.contains("with other weights than \"wide\" has"), "{said}");
    let (code, message) = refused(root.path(), &["generate", BASE, "--lora", "adapter", "-p", "the"]);
    assert!(code == 3 && message.contains("--lora"), "layers that the base lacks: {message}");
}

#[test]
fn an_adapter_with_dropout_resumes_and_is_trained_in_parts_as_at_once() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 5 + n % 4)}));
    let train = |out: &str, words: &[&str]| {
        let shared = ["sft", BASE, "--data", "text.jsonl", "--use-peft", "--learning-rate", "1e-2", "--max-steps", "3"];
        let shared = [&shared[..], &["--logging-steps", "1", "--json", "--save-steps", "2", "-o", out]].concat();
        let Output { status, stderr, .. } = run(root.path(), &[&shared, words].concat());
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let log = std::fs::read_to_string(root.path().join(out).join("log.jsonl")).unwrap();
        let losses =
            log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64());
        losses.collect::<Vec<f64>>()
    };
    let half = ["--lora-dropout", "0.5"];
    let at_once = [&half[..], &["--per-device-train-batch-size", "4", "--gradient-accumulation-steps", "1"]].concat();
    let in_parts = [&half[..], &["--per-device-train-batch-size", "1", "--gradient-accumulation-steps", "4"]].concat();
    let (whole, parts) = (train("a", &at_once), train("b", &in_parts));
    assert!(whole.iter().zip(&parts).all(|(a, b)| (a - b).abs() < 1e-4), "{whole:?} {parts:?}");
    let without = train("c", &[&at_once[2..], &["--lora-dropout", "0"]].concat());
    assert!(whole.iter().zip(&without).any(|(a, b)| (a - b).abs() > 1e-3), "{whole:?} {without:?}");
    let saved = root.path().join("d-checkpoints/checkpoint-2");
    std::fs::create_dir_all(saved.parent().unwrap()).unwrap();
    std::fs::rename(root.path().join("a-checkpoints/checkpoint-2"), saved).unwrap();
    train("d", &[&at_once[..], &["--resume"]].concat());
    for name in ["adapter_model.safetensors", "log.jsonl"] {
        let bytes = |out: &str| std::fs::read(root.path().join(out).join(name)).unwrap();
        assert!(bytes("a") == bytes("d"), "{name}");
    }
    let (code, message) =
        refused(root.path(), &["sft", BASE, "--data", "text.jsonl", "-o", "e", "--use-peft", "--lora-dropout", "1"]);
    assert!(code == 2 && message.contains("below 1"), "{message}");
}

#[test]
fn preferences_start_at_ln_2_and_useless_pairs_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| {
        let (chosen, rejected) = (text(n + 1, 5), if n == 3 { String::new() } else { format!(" {}", text(n + 2, 4)) });
        serde_json::json!({"prompt": text(n, 4), "chosen": format!(" {chosen}"), "rejected": rejected})
    };
    file(root.path(), "pairs.jsonl", row);
    let words = ["dpo", BASE, "--data", "pairs.jsonl", "--lr", "1e-3", "-o", "out"];
    let output = run(root.path(), &[&words[..], &SHORT].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("24 records: 23 whole; left out: 1 with nothing to learn"),
        "{said}"
    );
    let log = std::fs::read_to_string(root.path().join("out/log.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-5, "{first}");
    for key in ["rewards/margins", "rewards/accuracies", "logps/chosen"] {
        assert!(first[key].is_number(), "{key}");
    }
}

#[test]
fn without_a_terminal_lines_say_what_runs_and_show_the_first_and_the_last_update() {
    let root = tempfile::tempdir().unwrap();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| {
        let [chosen, rejected] = [(n + 1, 5), (n + 2, 4)].map(|(first, count)| format!(" {}", text(first, count)));
        serde_json::json!({"prompt": text(n, 4), "chosen": chosen, "rejected": rejected})
    };
    file(root.path(), "pairs.jsonl", row);
    let said = |words: &[&str]| {
        let data = ["dpo", BASE, "--data", "pairs.jsonl", "--max-length", "24", "--max-steps", "3"];
        let Output { status, stderr, .. } = run(root.path(), &[&data, words].concat());
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.success(), "{said}");
        said
    };
    let sparse = said(&["--logging-steps", "10", "--per-device-train-batch-size", "2", "-o", "sparse"]);
    let phases = [
        "reference log-probabilities of pairs: 0 of ",
        "reference log-probabilities of pairs: 7 of 7\n",
        "training: updates 1 to 3, of at most 96 tokens each\n",
        "\nstep 1  loss ",
        "\nstep 3  loss ",
    ];
    let places = phases.map(|line| sparse.find(line).unwrap_or_else(|| panic!("no {line:?} in {sparse}")));
    assert!(places.is_sorted() && !sparse.contains("\nstep 2  "), "{sparse}");
    let log = std::fs::read_to_string(root.path().join("sparse/log.jsonl")).unwrap();
    assert!(!log.contains("\"step\":1,") && !log.contains("\"step\":1}"), "{log}");
    // A line of the log with the first update stands for it.
    let dense = said(&["--logging-steps", "1", "-o", "dense"]);
    assert_eq!(dense.matches("\nstep 1  ").count(), 1, "{dense}");
    // A share of the rows that is less than one.
    let note = "note: no row is held out to evaluate on";
    let all = said(&["--test-split-size", "0.001", "-o", "all"]);
    assert!(all.contains(note) && !dense.contains(note), "{all}");
    assert!(!said(&["--test-split-size", "0", "-o", "told"]).contains(note));
}

/// With the keys of TRL's and the alignment handbook's recipes.
#[test]
fn a_config_of_trl_trains_and_resumes_from_a_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| serde_json::json!({"prompt": text(n, 4), "completion": format!(" {}", text(n + 1, 5))});
    file(root.path(), "pairs.jsonl", row);
    let recipe = format!(
        "# Model\nmodel_name_or_path: {BASE}\nmodel_revision: main\ntorch_dtype: auto\nattn_implementation: sdpa\n\
         # Data\ndataset_name: pairs.jsonl\nmax_length: 24\npacking: false\n\
         # Training\noutput_dir: a\nbf16: false\nper_device_train_batch_size: 2\n\
         learning_rate: 1.0e-03\nlr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\nwarmup_ratio: 0.1\n\
         gradient_checkpointing: true\ngradient_checkpointing_kwargs:\n  use_reentrant: false\n\
         max_steps: 3\nlogging_steps: 1\nlogging_strategy: steps\neval_strategy: 'no'\nsave_strategy: steps\nsave_steps: 2\n\
         report_to:\n- none\npush_to_hub: false\nseed: 7\noptim: adamw_torch\n"
    );
    std::fs::write(root.path().join("recipe.yaml"), recipe).unwrap();
    let train = |words: &[&str]| {
        let Output { status, stderr, .. } = run(root.path(), &[&["sft", "--config", "recipe.yaml"], words].concat());
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stderr).into_owned()
    };
    let said = train(&[]);
    assert!(
        said.contains("no effect here: model_revision, attn_implementation, gradient_checkpointing_kwargs"),
        "{said}"
    );
    assert!(!train(&["--quiet", "--output_dir", "b"]).contains("no effect"));
    // From a checkpoint of another folder, and not from one that newer ones follow.
    train(&["-o", "c", "--resume_from_checkpoint", "a-checkpoints/checkpoint-2"]);
    let bytes = |out: &str| std::fs::read(root.path().join(out).join("model.safetensors")).unwrap();
    assert!(bytes("a") == bytes("b") && bytes("a") == bytes("c"));
    // As in TRL, an update has the two rows that the config gives, and `eval_strategy: 'no'` trains all 24.
    let receipt: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.path().join("a/deepwide.json")).unwrap()).unwrap();
    let settings = &receipt["training"]["settings"];
    assert_eq!((&settings["batch_size"], &settings["data"][0]["num_rows"]), (&2.into(), &24.into()));
    let from = ["sft", "--config", "recipe.yaml", "--force", "--resume_from_checkpoint", "a-checkpoints/checkpoint-2"];
    let (code, message) = refused(root.path(), &from);
    assert!(code == 3 && message.contains("checkpoint-3\": is newer than"), "{message}");
    let (code, message) = refused(root.path(), &["sft", "--config", "recipe.yaml", "-o", "d", "--report_to", "wandb"]);
    assert!(code == 2 && message.contains("--report-to: found \"wandb\", expected none or tensorboard"), "{message}");
}

/// Changes the state of a checkpoint, and its receipt with it.
fn change_state(checkpoint: &Path, change: impl Fn(&mut serde_json::Value)) {
    let edit = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::from_slice(&std::fs::read(checkpoint.join(name)).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(checkpoint.join(name), json.to_string()).unwrap();
    };
    edit("run_state.json", &change);
    let state = std::fs::read(checkpoint.join("run_state.json")).unwrap();
    edit("deepwide.json", &|receipt| {
        let files = receipt["files"].as_array_mut().unwrap();
        let file = files.iter_mut().find(|file| file["name"] == "run_state.json").unwrap();
        file["size_bytes"] = state.len().into();
        file["blake3"] = blake3::hash(&state).to_hex().as_str().into();
    });
}

#[test]
fn a_checkpoint_of_another_version_or_device_resumes_with_a_warning() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 5 + n)}));
    let command = ["train", BASE, "--data", "text.jsonl", "--save-steps", "2", "-o", "out"];
    let command = [&command[..], &SHORT].concat();
    assert!(run(root.path(), &command).status.success());
    let checkpoint = root.path().join("out-checkpoints/checkpoint-2");
    let resumed = |change: &dyn Fn(&mut serde_json::Value)| {
        std::fs::remove_dir_all(root.path().join("out-checkpoints/checkpoint-3")).unwrap();
        change_state(&checkpoint, |state| change(state));
        let Output { status, stderr, .. } = run(root.path(), &[&command[..], &["--resume", "--force"]].concat());
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.success() && said.contains("continuing from"), "{said}");
        said
    };
    let said = resumed(&|_| ());
    assert!(!said.contains("warning"), "{said}");
    let said = resumed(&|state| state["made_by"] = serde_json::json!({"version": "0.0.1", "device": "cuda"}));
    let version = format!("version: found {}, expected 0.0.1", env!("CARGO_PKG_VERSION"));
    assert!(said.contains(&version) && said.contains("device: found flex, expected cuda"), "{said}");
    // Those of earlier versions do not tell.
    let said = resumed(&|state| drop(state.as_object_mut().unwrap().remove("made_by")));
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_weight_of_the_base_that_is_not_finite_is_named() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    let base = root.path().join("base");
    std::fs::create_dir(&base).unwrap();
    for entry in std::fs::read_dir(BASE).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        std::fs::copy(&entry, base.join(entry.file_name().unwrap())).unwrap();
    }
    let weights = base.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let at = header + json[name]["data_offsets"][0].as_u64().unwrap() as usize;
    // All bits set are NaN in every float format.
    bytes[at..at + 4].fill(0xff);
    std::fs::write(&weights, bytes).unwrap();
    let (code, message) = refused(root.path(), &["sft", "base", "--data", "text.jsonl", "-o", "out"]);
    assert!(
        code == 3 && message.contains(&format!("{name} of the base has NaN or infinite values")),
        "{code} {message}"
    );
    assert!(!root.path().join("out-checkpoints").exists());
}

#[test]
fn the_help_has_the_defaults_of_its_command() {
    let root = tempfile::tempdir().unwrap();
    for (command, learning_rate, epochs) in [("train", "2e-5", "1"), ("sft", "2e-5", "3"), ("dpo", "1e-6", "3")] {
        let help = String::from_utf8(run(root.path(), &[command, "--help"]).stdout).unwrap();
        for (option, default) in [("--learning-rate <X>", learning_rate), ("--num-train-epochs <X>", epochs)] {
            let of_option = help.split(option).nth(1).unwrap();
            let found = of_option.split("[default: ").nth(1).unwrap();
            assert!(found.starts_with(&format!("{default}]")), "{command} {option}: {found:.20}");
        }
    }
}

/// A copy of the built-in base whose tokenizer has another token that ends a text.
fn base_with_eos(root: &Path, name: &str, eos: &serde_json::Value) -> PathBuf {
    let base = root.join(name);
    std::fs::create_dir(&base).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(Path::new(BASE).join(file), base.join(file)).unwrap();
    }
    std::fs::write(base.join("tokenizer_config.json"), "{}").unwrap();
    std::fs::write(base.join("generation_config.json"), serde_json::json!({"eos_token_id": eos}).to_string()).unwrap();
    base
}

#[test]
fn documents_end_with_a_token_that_the_model_has_and_a_resumed_run_keeps() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    for (name, eos, said) in [
        ("none", serde_json::Value::Null, "the tokenizer has no end-of-text token"),
        ("beyond", 448.into(), "has id 448, expected an id below vocab_size 448 of the model"),
    ] {
        base_with_eos(root.path(), name, &eos);
        let (code, message) = refused(root.path(), &["train", name, "--data", "text.jsonl", "-o", "out"]);
        assert!(code == 3 && message.contains(said), "{message}");
    }
    let base = base_with_eos(root.path(), "base", &1.into());
    done(root.path(), &["train", "base", "--data", "text.jsonl", "-o", "out"]);
    std::fs::remove_dir_all(base).unwrap();
    base_with_eos(root.path(), "base", &2.into());
    let again = ["train", "base", "--data", "text.jsonl", "-o", "out", "--force", "--resume"];
    let (code, message) = refused(root.path(), &[&again[..], &SHORT].concat());
    assert!(code == 3 && message.contains("--data, source 1: hash of tokens"), "{message}");
}

#[test]
fn records_may_lie_in_a_file_that_is_called_dataset_json() {
    let root = tempfile::tempdir().unwrap();
    let path = file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    let rows = std::fs::read_to_string(path).unwrap();
    std::fs::create_dir(root.path().join("data")).unwrap();
    let array = format!("[{}]", rows.trim_end().replace('\n', ","));
    std::fs::write(root.path().join("data/dataset.json"), array).unwrap();
    done(root.path(), &["sft", BASE, "--data", "data", "-o", "out"]);
}

#[test]
fn less_data_than_a_batch_trains_and_other_data_does_not_resume() {
    let root = tempfile::tempdir().unwrap();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| serde_json::json!({"text": text(n, 9)});
    let path = file(root.path(), "text.jsonl", row);
    let two: String = std::fs::read_to_string(&path).unwrap().lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(root.path().join("two.jsonl"), &two).unwrap();
    let words =
        ["sft", BASE, "--data", "two.jsonl", "--eval-data", "text.jsonl", "--save-steps", "1", "--max-length", "24"];
    let words = [&words[..], &["--max-steps", "2", "--json", "-o", "out", "--force"]].concat();
    let output = run(root.path(), &[&words[..], &["--resume"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("holds no checkpoint: starting from scratch"), "{said}");
    assert!(said.contains("2 of 24 evaluated records are also in the training data"), "{said}");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["steps"], 2);
    std::fs::write(root.path().join("two.jsonl"), two.replacen(' ', " of ", 1)).unwrap();
    let (code, message) = refused(root.path(), &[&words[..], &["--resume"]].concat());
    assert!(code == 3 && message.contains("--data, source 1: hash of tokens"), "{message}");
}

#[test]
fn bad_rows_are_left_out_up_to_the_number_given() {
    let root = tempfile::tempdir().unwrap();
    let text = file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| serde_json::json!({"prompt": text(n, 2), "chosen": format!(" {}", text(n, 4)), "rejected": format!(" {}", text(n + 2, 4))});
    let pairs = file(root.path(), "pairs.jsonl", row);
    for (good, name) in [(text, "some_text.jsonl"), (pairs, "some_pairs.jsonl")] {
        let good = std::fs::read_to_string(good).unwrap();
        std::fs::write(root.path().join(name), format!("{{\"text\": \"a\n{good}{{\"chosen\": 7, \"text\": 7}}\n"))
            .unwrap();
    }
    for (command, good, some) in [
        ("train", "text.jsonl", "some_text.jsonl"),
        ("sft", "text.jsonl", "some_text.jsonl"),
        ("dpo", "pairs.jsonl", "some_pairs.jsonl"),
    ] {
        let train = |data, out: &str, rest: &[&str]| {
            run(root.path(), &[&[command, BASE, "--data", data, "-o", out], &SHORT[..], rest].concat())
        };
        let (code, message) = refused(root.path(), &[command, BASE, "--data", some, "--skip-bad", "1", "-o", "out"]);
        assert!(code == 3 && message.contains("line 26"), "{command}: {message}");
        let out = format!("{command}-some");
        let skipping = train(some, &out, &["--skip_bad", "2"]);
        let said = String::from_utf8_lossy(&skipping.stderr);
        assert!(skipping.status.success(), "{command}: {said}");
        assert!(said.contains("warning: 2 rows that break a rule are left out:\n  "), "{command}: {said}");
        assert!(said.contains("line 1: ") && said.contains("line 26: "), "{command}: {said}");
        // The good rows alone are the same data: the finished run has nothing left to do.
        let resumed = train(good, &out, &["--resume", "--force"]);
        let said = String::from_utf8_lossy(&resumed.stderr);
        assert!(resumed.status.success() && said.contains("checkpoint-3"), "{command}: {said}");
    }
}

#[test]
fn examples_whose_labels_are_cut_off_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| serde_json::json!({"prompt": text(n, if n.is_multiple_of(2) { 30 } else { 3 }), "completion": format!(" {}", text(n, 4))});
    file(root.path(), "pairs.jsonl", row);
    let words = ["sft", BASE, "--data", "pairs.jsonl", "-o", "out"];
    let output = run(root.path(), &[&words[..], &SHORT].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("24 records: 12 whole; left out: 12 with nothing to learn within --max-length"), "{said}");
    let log = std::fs::read_to_string(root.path().join("out/log.jsonl")).unwrap();
    assert!(log.lines().count() == 4 && !log.contains("null"), "{log}");
    file(root.path(), "cut.jsonl", |text, n| serde_json::json!({"prompt": text(n, 30), "completion": " a"}));
    let cut = ["sft", BASE, "--data", "cut.jsonl", "--max-length", "24", "-o", "none"];
    let (code, message) = refused(root.path(), &cut);
    assert!(code == 3 && message.contains("cut.jsonl\" has no row"), "{message}");
}

#[test]
fn records_are_cut_to_the_maximum_length() {
    let root = tempfile::tempdir().unwrap();
    // With the end of the text, 24 or 25 tokens.
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 23 + n % 2)}));
    let output = run(root.path(), &[&["sft", BASE, "--data", "text.jsonl", "-o", "out"], &SHORT[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("24 records: 12 whole, 12 cut to --max-length"), "{said}");
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_update() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    let words = |out| ["sft", BASE, "--data", "text.jsonl", "--checkpoints", "kept", "-o", out];
    // Nothing can be made in this folder.
    if cfg!(target_os = "linux") {
        let (code, message) = refused(root.path(), &[&words("/proc/none/out")[..], &SHORT].concat());
        assert!(code != 0 && message.contains("/proc/none"), "{code} {message}");
        assert!(!root.path().join("kept").exists());
    }
    done(root.path(), &words("new/folder/out"));
    is_whole(&root.path().join("new/folder/out"));
}

#[test]
fn evaluated_documents_that_are_trained_are_counted() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9 + n)}));
    file(root.path(), "half.jsonl", |text, n| serde_json::json!({"text": text(n, 9 + n + 40 * (n % 2))}));
    file(root.path(), "other.jsonl", |text, n| serde_json::json!({"text": text(n, 40 + n)}));
    let said = |data: &str, rest: &[&str], out: &str| {
        let words = ["train", BASE, "--data", data, "--learning-rate", "1e-30", "-o", out];
        let output = run(root.path(), &[&words, rest, &SHORT].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let warned = "12 of 24 evaluated documents are also in the training data";
    let found = said("text.jsonl", &["--eval-data", "half.jsonl"], "a");
    assert!(found.contains(warned), "{found}");
    let found = said("text.jsonl", &["--eval-data", "other.jsonl"], "b");
    assert!(!found.contains("also in the training data"), "{found}");
    let found = said("text.jsonl", &["--test-split-size", "0.3"], "c");
    assert!(!found.contains("also in the training data"), "a document is no copy of itself: {found}");
}

#[test]
fn bad_input_is_refused_before_any_work() {
    let root = tempfile::tempdir().unwrap();
    file(root.path(), "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9)}));
    std::fs::write(root.path().join("numbers.jsonl"), "{\"text\": 1}\n").unwrap();
    std::fs::write(root.path().join("other.jsonl"), "{\"body\": \"a\"}\n").unwrap();
    let unevaluated = ["train", BASE, "--data", "text.jsonl", "--test-split-size", "0", "--eval-steps", "1"];
    let best = [&unevaluated[..], &["--load-best-model-at-end"]].concat();
    let patient = [&unevaluated[..], &["--early-stopping-patience", "1"]].concat();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| serde_json::json!({"prompt": text(n, 4), "completion": text(n + 1, 5)});
    file(root.path(), "pairs.jsonl", row);
    std::fs::write(root.path().join("bad.yaml"), "data: text.jsonl\nmax_steps: many\n").unwrap();
    std::fs::create_dir(root.path().join("shards")).unwrap();
    std::fs::write(root.path().join("shards/dataset.json"), r#"{"format": 1, "tokenizer_sha256": "", "train": {}}"#)
        .unwrap();
    let shards = run(root.path(), &["tokenize", "text.jsonl", "whole", "--tokenizer", BASE]);
    assert!(shards.status.success(), "{}", String::from_utf8_lossy(&shards.stderr));
    std::fs::write(root.path().join("empty.jsonl"), "\n\n").unwrap();
    let row = |text: &dyn Fn(usize, usize) -> String, n: usize| serde_json::json!({"prompt": text(n, 2), "chosen": format!(" {} {}", text(n, 9), text(n + 1, 1)), "rejected": format!(" {} {}", text(n, 9), text(n + 2, 1))});
    file(root.path(), "alike.jsonl", row);
    let text = ["sft", BASE, "--data", "text.jsonl"];
    let with = |option, value| [&text[..], &[option, value]].concat();
    let [no_step, no_pass, no_epsilon] =
        ["--max-steps", "--gradient-accumulation-steps", "--adam-epsilon"].map(|option| with(option, "0"));
    let not_evaluating = [&text[..], &["--eval-data", "text.jsonl", "--eval-strategy", "no"]].concat();
    let adapting = |names| [&text[..], &["--use-peft", "--lora-target-modules", names]].concat();
    let cases: [(&[&str], i32, &str); 30] = [
        (&["train", BASE, "--data", "empty.jsonl"], 3, "empty.jsonl"),
        (&["sft", BASE, "--data", "empty.jsonl"], 3, "empty.jsonl"),
        (&["dpo", BASE, "--data", "empty.jsonl"], 3, "empty.jsonl"),
        // What differs is behind the part that is kept.
        (
            &["dpo", BASE, "--data", "alike.jsonl", "--max-length", "6"],
            3,
            "24 with nothing to learn within --max-length",
        ),
        (&no_step, 2, "--max-steps"),
        (&no_pass, 2, "--gradient-accumulation-steps"),
        (&no_epsilon, 2, "--adam-epsilon"),
        (&["dpo", BASE, "--data", "alike.jsonl", "--beta", "0"], 2, "--beta"),
        (
            &["dpo", BASE, "--data", "pairs.jsonl"],
            3,
            "found records of prompt and completion (prompt, completion), expected",
        ),
        (&["sft", BASE, "--data", "shards"], 3, "\"shards\" holds token shards"),
        (&["dpo", BASE, "--data", "shards"], 3, "\"shards\" holds token shards"),
        (&["train", BASE, "--data", ".", "text.jsonl=3"], 3, "text.jsonl\" is given twice"),
        (&["sft", BASE, "--data", "pairs.jsonl", "./pairs.jsonl=0.5"], 3, "pairs.jsonl\" is given twice"),
        (&["dpo", BASE, "--data", "alike.jsonl=2", "alike.jsonl=3"], 3, "\"alike.jsonl\" is given twice"),
        (&["train", BASE, "--data", "whole", "whole=2"], 3, "\"whole\" is given twice"),
        (&["sft", BASE, "--config", "bad.yaml"], 3, "\"bad.yaml\", line 2: max_steps: \"many\" is not a whole number"),
        (&["sft", BASE, "--data", "text.jsonl", "--resume_from_checkpoint", "none"], 4, "none"),
        (&not_evaluating, 2, "--eval-data with --eval-strategy no"),
        (&best, 3, "--load-best-model-at-end: no row is held out"),
        (&patient, 3, "--early-stopping-patience: no row is held out"),
        (&["train", BASE, "--data", "absent.jsonl"], 4, "absent.jsonl"),
        (&["train", BASE, "--data", "numbers.jsonl"], 3, "numbers.jsonl"),
        (&["sft", BASE, "--data", "other.jsonl"], 3, "body"),
        (&["train", BASE, "--data", "text.jsonl", "--max-length", "100000"], 3, "max_position_embeddings"),
        (&["train", BASE, "--data", "text.jsonl", "--freeze", "new"], 2, "no parameter is new"),
        (&["train", BASE, "--data", "text.jsonl", "--use-peft", "--dus", "1"], 2, "grow the base first"),
        (&["train", BASE, "--data", "text.jsonl", "--lr", "0"], 2, "above 0"),
        (
            &adapting("q_proj,v_prj"),
            2,
            "--lora-target-modules: found no linear map of the decoder in \"v_prj\", expected some of q_proj",
        ),
        // The embeddings of this base are its head.
        (&adapting("all-linear,lm_head"), 2, "in \"lm_head\""),
        (&adapting(""), 2, "in \"\""),
    ];
    for (words, code, said) in cases {
        let (found, message) = refused(root.path(), &[words, &["-o", "out"]].concat());
        assert!(found == code && message.contains(said), "{words:?}: {found} {message}");
        assert!(!root.path().join("out").exists() && !root.path().join("out-checkpoints").exists(), "{words:?}");
    }
}
