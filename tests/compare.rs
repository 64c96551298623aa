//! The main job as a user runs it: the command itself, its files, its refusals.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deepwide::profile::flops::count_parameters;
use deepwide::report::{ArmKind, Study, StudySettings, table, verdict};

fn deepwide(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deepwide")).arg("compare").args(args).output().unwrap()
}

fn pico_base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/pico_base")
}

#[test]
fn the_quick_main_job_writes_a_record_that_says_what_its_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("quick");
    let output = deepwide(&["--quick", "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let study = Study::from_json(&std::fs::read_to_string(out.join("results.json")).unwrap()).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, format!("{}\n{}\n", table::to_text(&study), verdict(&study)));
    let markdown = std::fs::read_to_string(out.join("results.md")).unwrap();
    assert_eq!(markdown, format!("{}\n{}\n", table::to_markdown(&study), verdict(&study)));
    for figure in ["loss_vs_flops", "loss_vs_tokens", "pareto", "memory", "latency", "expert_load"] {
        let svg = std::fs::read_to_string(out.join(figure).with_extension("svg")).unwrap();
        assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>"), "{figure}");
        let png = std::fs::read(out.join(figure).with_extension("png")).unwrap();
        assert!(png.starts_with(b"\x89PNG"), "{figure}");
    }
    a_finished_study_is_shown_again(&out, &printed);
    the_record_alone_gives_the_figures(&out, &folder.path().join("again"));
    the_arms_start_where_their_growth_says(&study);
    the_arms_spend_the_same(&study);
}

fn a_finished_study_is_shown_again(out: &Path, printed: &str) {
    let record = std::fs::read(out.join("results.json")).unwrap();
    let again = |more: &[&str], is_by_another_build: bool| {
        let output = deepwide(&[&["--quick", "--out", out.to_str().unwrap()], more].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        assert!(told.contains("not run again (--force runs it again)"), "{told}");
        assert!(told.contains(out.to_str().unwrap()) && !told.contains("step"), "{told}");
        assert_eq!(told.contains("note: it was made with another build"), is_by_another_build, "{told}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(again(&[], false), printed);
    assert_eq!(again(&["--json"], false).trim_end().as_bytes(), record.trim_ascii_end());
    assert!(std::fs::read(out.join("results.json")).unwrap() == record);
    let mut study = Study::from_json(&String::from_utf8(record.clone()).unwrap()).unwrap();
    study.run.build = Some("cafe".to_owned());
    std::fs::write(out.join("results.json"), study.to_json().unwrap()).unwrap();
    assert_eq!(again(&[], true), printed);
    std::fs::write(out.join("results.json"), record).unwrap();
}

fn the_record_alone_gives_the_figures(out: &Path, again: &Path) {
    let plot = Command::new(env!("CARGO_BIN_EXE_deepwide")).arg("plot").arg(out).arg("-o").arg(again).output().unwrap();
    assert!(plot.status.success(), "{}", String::from_utf8_lossy(&plot.stderr));
    let printed = String::from_utf8(plot.stdout).unwrap();
    assert_eq!(printed.lines().count(), 12, "{printed}");
    for file in printed.lines().map(Path::new) {
        let name = file.file_name().unwrap();
        assert!(std::fs::read(file).unwrap() == std::fs::read(out.join(name)).unwrap(), "{name:?}");
    }
}

fn the_arms_start_where_their_growth_says(study: &Study) {
    let base = study.base.heldout_loss_nats;
    assert!(study.data.floor_nats.unwrap() < base, "no model beats the language's own distribution");
    for arm in &study.arms {
        let [run] = &arm.runs[..] else { panic!("one seed in a quick run") };
        assert_eq!(run.loss_before_growth_nats, base);
        let jump = run.loss_after_growth_nats - base;
        match arm.kind {
            ArmKind::Dense => assert_eq!(jump, 0.0),
            ArmKind::Wide => assert!(jump.abs() < 1e-5, "upcycling preserves the function, jumped {jump}"),
            ArmKind::Deep => assert!(jump > 1e-3, "depth up-scaling does not, jumped {jump}"),
        }
        let parameters = count_parameters(&arm.config);
        assert_eq!((arm.cost.total_parameters, arm.cost.active_parameters), (parameters.total, parameters.active));
        assert!(arm.memory.inference_peak_bytes.unwrap() > arm.memory.weight_bytes);
        assert!(arm.memory.train_peak_bytes > arm.memory.inference_peak_bytes);
        assert_eq!(arm.expert_load.is_some(), arm.kind == ArmKind::Wide);
    }
}

fn the_arms_spend_the_same(study: &Study) {
    let StudySettings { batch_size, micro_batch_size, .. } = study.settings;
    assert!(
        micro_batch_size.is_some_and(|size| batch_size.is_multiple_of(size)),
        "{micro_batch_size:?} of {batch_size}"
    );
    let budget = study.settings.train_flops_budget_flops as f64;
    for arm in &study.arms {
        let last = arm.runs[0].curve.last().unwrap();
        let update = last.train_flops as f64 / last.step as f64;
        assert!((last.train_flops as f64 - budget).abs() <= update / 2.0, "{}", arm.name);
        assert_eq!(arm.runs[0].evals.last().unwrap().step, last.step);
    }
}

/// A copy of the built-in base that `spoil` then breaks.
fn spoilt_base(folder: &Path, name: &str, spoil: impl Fn(&Path)) -> String {
    let copy = folder.join(name);
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(pico_base().join(file), copy.join(file)).unwrap();
    }
    spoil(&copy);
    copy.to_str().unwrap().to_owned()
}

fn rewrite(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{path:?} has no {from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn bad_input_is_named_with_its_exit_code_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, text: &[u8]| {
        std::fs::write(path(name), text).unwrap();
        path(name)
    };
    let (text, empty) = (write("text.txt", "the capital of ".repeat(4000).as_bytes()), write("empty.txt", b""));
    let (table, bytes) = (write("rows.csv", b"a,b\n1,2\n"), write("bytes.txt", b"ok \xff\xfe"));
    let (lines, short) = (write("bad.jsonl", b"{\"text\": 1}\n"), write("short.txt", b"the capital"));
    let one_window = write("one_window.txt", "the capital of ".repeat(100).as_bytes());
    let spoilt = |name: &str, spoil: &dyn Fn(&Path)| spoilt_base(folder.path(), name, spoil);
    let weights =
        |text: &'static [u8]| move |base: &Path| std::fs::write(base.join("model.safetensors"), text).unwrap();
    let pointer = spoilt("pointer", &weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"));
    let page = spoilt("page", &weights(b"<!DOCTYPE html><html>404</html>"));
    let cut = spoilt("cut", &|base| {
        let bytes = std::fs::read(base.join("model.safetensors")).unwrap();
        std::fs::write(base.join("model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    });
    let config = |from: &'static str, to: &'static str| move |base: &Path| rewrite(&base.join("config.json"), from, to);
    let wide = spoilt("wide", &config("\"hidden_size\": 96", "\"hidden_size\": 128"));
    let heads = spoilt("heads", &config("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"));
    let gelu = spoilt("gelu", &config("\"silu\"", "\"gelu\""));
    let bare = spoilt("bare", &|base| std::fs::remove_file(base.join("model.safetensors")).unwrap());
    let mute = spoilt("mute", &|base| std::fs::remove_file(base.join("tokenizer.json")).unwrap());
    let foreign = spoilt("foreign", &|base| {
        let mut words: Vec<String> = (0..597).map(|i| format!("w{i}")).collect();
        words.extend(["the", "capital", "of"].map(str::to_owned));
        deepwide::tokenizer::Tokenizer::word_level(&words).save(base).unwrap();
    });
    let pico = pico_base().to_str().unwrap().to_owned();
    let base = |base: &str, data: &str| vec!["--base".into(), base.to_owned(), "--data".into(), data.to_owned()];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let cases: Vec<(Vec<String>, i32, &[&str])> = vec![
        (base(&path("nowhere"), &text), 4, &["nowhere", "does not exist"]),
        (base("no-such-org/no-such-model", &text), 4, &["no-such-model", "compare takes a local directory"]),
        (base("model.gguf", &text), 3, &["deepwide grow --dtype float32 \"model.gguf\" DIR"]),
        (base(&bare, &text), 4, &["bare"]),
        (base(&pointer, &text), 3, &["model.safetensors", "LFS"]),
        (base(&page, &text), 3, &["model.safetensors", "HTML"]),
        (base(&cut, &text), 3, &["model.safetensors"]),
        (base(&wide, &text), 3, &["model.safetensors", "96", "128"]),
        (base(&heads, &text), 3, &["config.json", "4", "3"]),
        (base(&gelu, &text), 3, &["/gelu\": hidden_act is \"gelu\""]),
        (base(&pico, &path("nothing.txt")), 4, &["nothing.txt"]),
        (base(&pico, &empty), 3, &["empty.txt"]),
        (base(&pico, &table), 3, &["rows.csv", "row 1", "\"text\""]),
        (base(&pico, &bytes), 3, &["bytes.txt"]),
        (base(&pico, &lines), 3, &["bad.jsonl", "1"]),
        (base(&pico, &short), 3, &["--data: ", "short.txt\" has 3 tokens, expected at least 513"]),
        (base(&pico, &one_window), 3, &["one_window.txt\" has 301 tokens, expected at least 513"]),
        (base(&mute, &text), 4, &["tokenizer.json"]),
        (base(&foreign, &text), 3, &["597", "448"]),
        (words(&["--base", &foreign]), 2, &["--data"]),
        (words(&["--m", "9"]), 3, &["--m 9: ", "9", "8"]),
        (words(&["--m", "-1"]), 2, &["-1", "negative"]),
        (words(&["--m", "3,3"]), 3, &["3"]),
        (words(&["--experts", "2", "--top-k", "3"]), 3, &["--experts 2 --top-k 3: "]),
        (words(&["--experts", "1"]), 3, &["--experts 1 --top-k 2: "]),
        (words(&["--experts", "0"]), 3, &["num_local_experts"]),
        (words(&["--flops", "1000"]), 3, &["1000", "dense control"]),
        (words(&["--flops", "1e12", "--tokens", "9"]), 2, &["--tokens"]),
        (words(&["--seq-length", "511"]), 3, &["--seq-length 511: ", "512"]),
        (words(&["--seq-length", "0"]), 2, &["--seq-length", "at least 1"]),
        (words(&["--batch-size", "0"]), 2, &["--batch-size", "at least 1"]),
        (words(&["--seeds", "0"]), 2, &["--seeds"]),
        (words(&["--seeds", "18446744073709551615"]), 2, &["--seeds", "1000"]),
        (words(&["--seeds", "4000000000"]), 2, &["--seeds"]),
        (words(&["--tokens", "18446744073709551615"]), 3, &["windows"]),
        (words(&["--flops", "18446744073709551615"]), 3, &["windows"]),
        (words(&["--batch-size", "18446744073709551615"]), 3, &["dense control"]),
        (words(&["--experts", "18446744073709551615"]), 3, &["--experts"]),
        (words(&["--experts", "4000000000"]), 3, &["MoE 4000000000×top-2"]),
        (words(&["--top-k", "18446744073709551615"]), 3, &["--top-k"]),
        (words(&["--m", "18446744073709551615"]), 2, &["--m"]),
        (words(&["--lr", "-1e-3"]), 2, &["-1e-3"]),
        (words(&["--lr", "nan"]), 2, &["nan"]),
        (words(&["--seq-length", "18446744073709551615"]), 3, &["512"]),
        (words(&["--batch-size", "1152921504606846976", "--tokens", "5"]), 3, &["dense control"]),
        (words(&["--flops", "1e19"]), 3, &["windows"]),
        (words(&["--device", "abacus"]), 2, &["abacus", "flex"]),
        (words(&["--dtype", "int4"]), 2, &["int4", "bfloat16"]),
    ];
    let out = path("out");
    for (args, code, fragments) in &cases {
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(["--out", &out]);
        let output = deepwide(&args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {message}");
        for fragment in *fragments {
            assert!(message.contains(fragment), "{args:?} does not say {fragment:?}: {message}");
        }
        assert!(!message.contains("panicked"), "{message}");
        assert!(output.stdout.is_empty() && !Path::new(&out).exists(), "{args:?} wrote something");
    }
    let file = deepwide(&["--quick", "--out", &text]);
    assert_eq!(file.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&file.stderr).contains("text.txt"));
}

#[test]
fn with_json_a_refusal_is_one_json_object_on_stdout() {
    let output = deepwide(&["--json", "--m", "9"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["error"]["code"], 3);
    assert!(error["error"]["message"].as_str().unwrap().contains("m = 9"));
    assert_eq!(output.status.code(), Some(3));
}

/// The study without what differs from run to run: dates, command lines and times.
fn without_times(mut study: Study) -> Study {
    (study.run.commit, study.run.date) = (None, String::new());
    study.run.command.clear();
    study.rounds.clear();
    for arm in &mut study.arms {
        arm.timings.clear();
        arm.memory.train_peak_bytes = None;
        arm.memory.inference_peak_bytes = None;
        for run in &mut arm.runs {
            run.wall_s = 0.0;
            run.curve.iter_mut().for_each(|point| point.tokens_per_second = 0.0);
        }
    }
    study
}

/// Interrupts a study that goes on, as soon as it says so.
#[cfg(unix)]
fn a_signal_says_what_is_kept(mut command: Command) {
    use std::io::{BufRead, BufReader};
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("finished before, not run again")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let told: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{told:?}");
    let last = told.last().unwrap();
    assert!(last.starts_with("error: stopped by signal 2: ") && last.contains(" keeps the "), "{told:?}");
    assert!(last.ends_with("and the same command goes on from there"), "{told:?}");
}

#[test]
fn a_study_that_was_killed_goes_on_with_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let command = |out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deepwide"));
        let sizes = ["--quick", "--seeds=2", "--batch-size=1", "--seq-length=64", "--flops=6e9"];
        command.arg("compare").args(sizes).arg("--out").arg(out);
        command
    };
    let read = |out: &Path| {
        without_times(Study::from_json(&std::fs::read_to_string(out.join("results.json")).unwrap()).unwrap())
    };
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    assert!(command(&whole).output().unwrap().status.success());
    assert!(!whole.join("units").exists(), "a complete study keeps no single runs");

    let mut child = command(&killed).stderr(std::process::Stdio::null()).spawn().unwrap();
    let finished = || {
        std::fs::read_dir(killed.join("units")).map_or(0, |files| {
            files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "json")).count()
        })
    };
    while finished() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "ended before its first run was recorded");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("results.json").exists());
    let before = finished();
    assert!((1..6).contains(&before), "{before} of 6 runs are recorded");

    let refused = |out: &Path, more: &[&str], expected: &str| {
        let output = command(out).args(more).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{told}");
        assert!(told.contains(expected) && told.contains("--force") && output.stdout.is_empty(), "{told}");
    };
    refused(&killed, &["--lr", "1e-4"], "holds runs of an interrupted study");
    assert_eq!(finished(), before, "the runs of the killed study stay");
    #[cfg(unix)]
    a_signal_says_what_is_kept(command(&killed));

    let output = command(&killed).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.matches("finished before, not run again").count() >= 1, "{told}");
    assert_eq!(read(&killed), read(&whole));
    assert!(!killed.join("units").exists());

    let before = std::fs::read(killed.join("results.json")).unwrap();
    refused(&killed, &["--lr", "1e-4"], "holds another study: settings.learning_rate is 0.002, expected 0.0001");
    refused(&killed, &["--m", "2"], "holds another study: arms is [");
    assert_eq!(std::fs::read(killed.join("results.json")).unwrap(), before);
    assert!(command(&killed).args(["--lr", "1e-4", "--force"]).output().unwrap().status.success());
    assert_eq!(read(&killed).settings.learning_rate, 1e-4);
}
