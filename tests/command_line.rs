//! The command line itself: help, completions, manual pages, verbosity.

use std::fs;
use std::path::Path;

use crate::grow::{deepwide, names, printed, run, tiny_base};

const COMMANDS: [&str; 20] = [
    "grow",
    "inspect",
    "merge-lora",
    "verify",
    "tokenize",
    "train",
    "sft",
    "dpo",
    "eval",
    "perplexity",
    "compare-scores",
    "generate",
    "serve",
    "bench",
    "profile",
    "compare",
    "plot",
    "doctor",
    "completions",
    "man",
];

/// The commands that `--help` lists.
fn listed() -> Vec<String> {
    let help = printed(&["--help"]);
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let lines = commands.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    lines.filter_map(|line| line.split(' ').next()).filter(|word| *word != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_is_in_the_readme_and_in_the_manual() {
    assert_eq!(listed(), COMMANDS);
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("man/man1");
    let said = printed(&["man", out.to_str().unwrap()]);
    let mut pages: Vec<String> = COMMANDS.iter().map(|command| format!("deepwide-{command}.1")).collect();
    pages.push("deepwide.1".to_owned());
    pages.sort();
    assert_eq!(names(&out), pages);
    for (command, page) in COMMANDS.iter().map(|command| (command, format!("deepwide-{command}.1"))) {
        let told = [format!("deepwide {command}"), format!("cargo run -- {command}")];
        assert!(told.iter().any(|told| readme.contains(told.as_str())), "README says nothing of {command}");
        assert!(said.contains(&page), "{said}");
        assert!(fs::read_to_string(out.join(page)).unwrap().starts_with(".ie"), "{command}");
    }
    let grow = fs::read_to_string(out.join("deepwide-grow.1")).unwrap();
    for option in ["identity\\-blocks", "granularity", "quiet"] {
        assert!(grow.contains(option), "{option}");
    }
    assert!(!grow.contains("no\\-such\\-option"));
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(run(&["man", file.to_str().unwrap()]).status.code(), Some(1), "a file is no place for pages");
}

#[test]
fn short_help_fits_a_screen_and_long_help_has_every_option() {
    for command in COMMANDS {
        let (short, long) = (printed(&[command, "-h"]), printed(&[command, "--help"]));
        assert!((10..=40).contains(&short.lines().count()), "{command}: {} lines", short.lines().count());
        let options = |help: &str| help.split_whitespace().filter(|word| word.starts_with("--")).count();
        assert!(options(&long) >= options(&short), "{command}");
    }
    for (command, rare) in [("grow", "--mergekit-compat"), ("bench", "--n-gpu-layers"), ("bench", "--no-warmup")] {
        assert!(printed(&[command, "--help"]).contains(rare) && !printed(&[command, "-h"]).contains(rare), "{rare}");
    }
}

#[test]
fn options_are_grouped_under_headings_with_global_ones_last() {
    let headed: [(&str, &[&str]); 3] = [
        ("grow", &["Depth", "Width", "Output", "Checks"]),
        ("bench", &["Tests", "Weights and device", "Output", "Depth", "Width"]),
        ("compare", &["Base and data", "Arms", "Training", "Measuring", "Output"]),
    ];
    for (command, headings) in headed {
        let help = printed(&[command, "-h"]);
        let place = |words: &str| help.find(words).unwrap_or_else(|| panic!("{command} -h has no {words}"));
        let global = place("\nGlobal options:");
        assert!(headings.iter().all(|heading| place(&format!("\n{heading}:")) < global), "{help}");
        assert!(place("--quiet") > global && place("--verbose") > global, "{help}");
    }
}

#[test]
fn completions_of_every_shell_have_all_commands_and_options() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&["completions", shell]);
        for word in COMMANDS.into_iter().chain(["identity-blocks", "out-shard-size", "quiet"]) {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        assert!(!script.contains("no-such-option"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn quiet_prints_only_errors_and_verbose_prints_more() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let said = |words: &[&str], code: i32| {
        let out = root.path().join("out");
        let output = run(&[&["grow", base.to_str().unwrap(), out.to_str().unwrap(), "-y"], words].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let usual = said(&["--dus", "1"], 0);
    assert!(usual.contains("layers") && !usual.contains("on disk"), "{usual}");
    assert_eq!(said(&["--dus", "1", "--quiet"], 0), "");
    assert_eq!(said(&["-q", "--dus", "2"], 3).lines().count(), 1, "an error is told");
    let verbose = said(&["--dus", "1", "-v"], 0);
    for detail in ["on disk: ", base.to_str().unwrap(), "Hugging Face directory, 1 file of weights"] {
        assert!(verbose.contains(detail), "{detail}: {verbose}");
    }
    assert_eq!(run(&["-q", "-v", "inspect", base.to_str().unwrap()]).status.code(), Some(2));
    assert_eq!(printed(&["-q", "inspect", "x", "--help"]), printed(&["inspect", "--help"]));
}

#[cfg(target_os = "linux")]
#[test]
fn a_broken_stderr_changes_no_exit_code() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for (dus, code) in [("1", 0), ("2", 3)] {
        let mut command = deepwide();
        command.args(["grow", "--dus", dus]).arg(&base).arg(root.path().join("out"));
        let status = command.stdout(std::process::Stdio::null()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "--dus {dus}");
    }
}

#[test]
fn tasks_are_listed_without_a_model() {
    let list = printed(&["eval", "--tasks", "list"]);
    for task in ["arc_challenge", "gsm8k", "openllm", "mmlu_anatomy"] {
        assert!(list.lines().any(|line| line.starts_with(&format!("{task} "))), "{task}: {list}");
    }
    let output = run(&["eval", "--tasks", "gsm8k"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_command_line_of_llama_cli_generates_the_same_text() {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/pico_base");
    let ours = printed(&["generate", base, "-p", "a", "-n", "4"]);
    let words = ["generate", "-m", base, "-p", r"\x61", "-e", "-n", "4", "-no-cnv", "-ngl", "99"];
    assert_eq!(printed(&words), ours);
    let note = run(&words);
    assert!(String::from_utf8_lossy(&note.stderr).contains("--n-gpu-layers 99 has no effect"));
    assert_eq!(run(&["generate", "-p", "a"]).status.code(), Some(2), "there is no model");
    let without_chat = run(&["generate", base, "-p", "a", "-no-cnv", "-sys", "b"]);
    assert_eq!(without_chat.status.code(), Some(2), "a system prompt is for a chat");
}
