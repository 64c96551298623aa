//! Exact resume of every training command from each of its steps, and after kills at any time, through the command itself.
//!
//! The whole sweep takes minutes: `cargo test --test tests -- --ignored resume_sweep --nocapture`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::train_commands::{BASE, file};

const NUM_STEPS: usize = 50;
/// Kills of one chain, at most.
const NUM_KILLS: usize = 10;

/// A run by its command and options.
struct Case {
    name: String,
    words: Vec<String>,
}

/// The four ways to train, of a dense base and of a mixture.
fn cases(folder: &Path) -> Vec<Case> {
    file(folder, "text.jsonl", |text, n| serde_json::json!({"text": text(n, 9 + n % 7)}));
    file(
        folder,
        "completions.jsonl",
        |text, n| serde_json::json!({"prompt": text(n, 4), "completion": format!(" {}", text(n + 1, 5 + n % 4))}),
    );
    file(folder, "pairs.jsonl", |text, n| {
        let side = |salt: usize| format!(" {}", text(n + salt, 4 + (n + salt) % 3));
        serde_json::json!({"prompt": text(n, 4), "chosen": side(1), "rejected": side(2)})
    });
    let mixture = folder.join("mixture");
    let mut grow = Command::new(env!("CARGO_BIN_EXE_deepwide"));
    grow.args(["grow", BASE]).arg(&mixture).args(["--moe", "4"]);
    assert!(grow.output().expect("the command runs").status.success());
    let bases = [("dense", BASE.to_owned()), ("mixture", mixture.to_string_lossy().into_owned())];
    let ways: [(_, &[&str]); 4] = [
        ("train", &["train", "--data", "text.jsonl=1.5", "completions-text.jsonl=0.5"]),
        ("sft", &["sft", "--data", "completions.jsonl", "--packing"]),
        ("dpo", &["dpo", "--data", "pairs.jsonl", "--learning-rate", "1e-3"]),
        ("lora", &["sft", "--data", "completions.jsonl", "--use-peft", "--lora-r", "2", "--learning-rate", "1e-2"]),
    ];
    file(folder, "completions-text.jsonl", |text, n| serde_json::json!({"text": text(n + 30, 12)}));
    let mut cases = Vec::new();
    for (kind, base) in &bases {
        for (way, words) in ways {
            let shared = [
                "--max-length",
                "24",
                "--per-device-train-batch-size=1",
                "--gradient-accumulation-steps",
                "2",
                "--logging-steps",
                "7",
            ];
            let more = ["--eval-steps", "11", "--max-steps", "50", "--json", "--router-bias-update-rate", "0.001"];
            let more = &more[..if *kind == "mixture" { more.len() } else { 5 }];
            let words = [&[words[0], base.as_str()], &words[1..], &shared, more].concat();
            cases.push(Case { name: format!("{way}, {kind}"), words: words.into_iter().map(str::to_owned).collect() });
        }
    }
    cases
}

impl Case {
    fn command(&self, folder: &Path, out: &str, save_steps: &str, num_threads: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deepwide"));
        command.args(&self.words).args(["--save-steps", save_steps, "--save-total-limit", "99", "-o", out]);
        command.env("RAYON_NUM_THREADS", num_threads.to_string()).current_dir(folder);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn done(&self, mut command: Command) {
        let output = command.output().expect("the command runs");
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
    }
}

/// Weights, log, moments and state at the end of a run.
fn end(folder: &Path, out: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let last = folder.join(format!("{out}-checkpoints/checkpoint-{NUM_STEPS}"));
    let written =
        ["model.safetensors", "adapter_model.safetensors", "log.jsonl"].map(|name| folder.join(out).join(name));
    let saved = ["optimizer.safetensors", "run_state.json", "trainer_state.json"].map(|name| last.join(name));
    let found: Vec<_> = written.into_iter().chain(saved).filter(|path| path.exists()).collect();
    assert_eq!(found.len(), 5, "{found:?}");
    found.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn is_the_same(case: &Case, found: &[(PathBuf, Vec<u8>)], expected: &[(PathBuf, Vec<u8>)], what: &str) {
    for ((path, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{}, {what}: {} differs", case.name, path.display());
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Resumes a case from the steps in `from`, on one and on two threads.
fn resumes(case: &Case, folder: &Path, from: impl Iterator<Item = usize> + Clone) {
    for num_threads in [1, 2] {
        let whole = format!("whole-{num_threads}");
        case.done(case.command(folder, &whole, "1", num_threads));
        let expected = end(folder, &whole);
        is_the_same(case, &expected, &end(folder, "whole-1"), "two threads");
        for step in from.clone() {
            let checkpoint = format!("checkpoint-{step}");
            copy(
                &folder.join(format!("{whole}-checkpoints/{checkpoint}")),
                &folder.join("part-checkpoints").join(&checkpoint),
            );
            let mut command = case.command(folder, "part", "1000", num_threads);
            command.arg("--resume");
            case.done(command);
            is_the_same(case, &end(folder, "part"), &expected, &format!("from step {step} on {num_threads} threads"));
            remove(folder, "part");
        }
    }
    remove(folder, "whole-2");
}

/// Kills a case again and again, and lets it finish.
fn survives_kills(case: &Case, folder: &Path, rng: &mut ChaCha8Rng) {
    let start = Instant::now();
    case.done(case.command(folder, "timed", "3", 2));
    let (whole_s, expected) = (start.elapsed().as_secs_f64(), end(folder, "timed"));
    let mut num_kills = 0;
    for _ in 0..NUM_KILLS {
        let mut command = case.command(folder, "killed", "3", 2);
        let mut child = command.args(["--resume", "--force"]).stderr(Stdio::null()).spawn().expect("the command runs");
        std::thread::sleep(Duration::from_secs_f64(rng.random_range(0.0..0.7) * whole_s));
        child.kill().expect("the kill");
        let is_killed = !child.wait().expect("its end").success();
        num_kills += usize::from(is_killed);
        if !is_killed {
            break;
        }
    }
    let mut command = case.command(folder, "killed", "3", 2);
    command.args(["--resume", "--force"]);
    case.done(command);
    is_the_same(case, &end(folder, "killed"), &expected, &format!("after {num_kills} kills"));
    println!("{}: {num_kills} kills survived", case.name);
    ["timed", "killed", "whole-1"].iter().for_each(|out| remove(folder, out));
}

fn remove(folder: &Path, out: &str) {
    for path in [folder.join(out), folder.join(format!("{out}-checkpoints"))] {
        if path.exists() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
#[ignore = "takes minutes"]
fn resume_sweep_of_every_step_and_chains_of_kills() {
    let root = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(20_231_223);
    for case in cases(root.path()) {
        let start = Instant::now();
        resumes(&case, root.path(), 1..NUM_STEPS);
        println!("{}: every step in {:.0} s", case.name, start.elapsed().as_secs_f64());
        survives_kills(&case, root.path(), &mut rng);
    }
}

#[test]
fn some_steps_resume_through_the_command() {
    let root = tempfile::tempdir().unwrap();
    let cases = cases(root.path());
    for case in [&cases[0], &cases[6]] {
        resumes(case, root.path(), [33].into_iter());
        remove(root.path(), "whole-1");
    }
}
