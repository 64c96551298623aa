//! What the command refuses, and with which words and exit code; and what it makes.

use std::fs;
use std::path::Path;

use deepwide::formats::gguf::{GgufFile, GgufFileType, GgufOptions, GgufVocabulary, write_gguf};
use deepwide::formats::{HfDirectory, write_hf_directory};
use deepwide::growth::mergekit::ChatTemplate;
use deepwide::weights::{MemoryWeights, WeightSource};
use serde_json::Value;

use super::{deepwide, names, printed, run, tiny_base};
use crate::gguf_written::tiny_vocabulary;

/// One bad request: its row in the list of bad inputs, the words after `grow BASE OUT`, the exit code, what is said.
type Row = (&'static str, &'static [&'static str], i32, &'static str);

#[rustfmt::skip]
const REFUSED: [Row; 37] = [
    ("E1", &["--dus", "2"], 3, "--dus 2: overlap m = 2 leaves no layer: expected less than num_hidden_layers 2"),
    ("E3", &["--dus", "-1"], 2, "-1 is negative, expected 0 or more"),
    ("E3", &["--dus", "1.5"], 2, "\"1.5\" is not a whole number"),
    ("E9", &["--stack", "513"], 3, "the result would have 1026 layers, expected at most 1024 (--force takes more)"),
    ("E9", &["--stack", "99999999"], 3, "--stack 99999999: the plan has 199999998 layers, expected at most 65536"),
    ("E6", &["--stack", "0"], 3, "--stack 0: the stack has 0 copies, expected at least 1"),
    ("E12", &["--moe", "0"], 3, "--moe 0: num_local_experts is 0"),
    ("E13", &["--moe", "4", "--top-k", "0"], 3, "--moe 4: num_experts_per_tok is 0"),
    ("E13", &["--moe", "4", "--top-k", "5"], 3, "--moe 4: num_experts_per_tok 5"),
    ("E15", &["--moe", "4", "--noise", "-0.1"], 3, "--noise -0.1: relative_std is -0.1, expected a number from 0 to 1"),
    ("E15", &["--moe", "4", "--noise", "nan"], 3, "--noise NaN: relative_std is NaN, expected a number from 0 to 1"),
    ("E15", &["--moe", "4", "--noise", "1e30"], 3, "expected a number from 0 to 1"),
    ("E15", &["--moe", "4", "--drop", "1.5"], 3, "--drop 1.5: drop ratio is 1.5, expected a number from 0 to 1"),
    ("E15", &["--moe", "4", "--router-std", "2"], 3, "--router-std 2: router std is 2, expected a number above 0, at most 1"),
    ("E13", &["--moe", "1"], 3, "--moe 1: num_experts_per_tok 2"),
    ("E1", &["--identity-blocks", "3"], 3, "--identity-blocks 3: 3 identity blocks, expected a divisor of num_hidden_layers 2"),
    ("E12", &["--moe", "40", "--router", "orthogonal"], 3, "--router orthogonal: num_local_experts is 40, expected at most hidden_size 32"),
    ("E2", &["--dus", "0", "--strict"], 3, "overlap m = 0 drops no layer: each of the 2 layers is there twice, 4 in all"),
    ("E-0", &["--dus", "1", "--strict"], 3, "the result has the layers of the base, in their order: nothing grows deep"),
    ("E-0", &["--stack", "1", "--strict"], 3, "the result has the layers of the base, in their order: nothing grows deep"),
    ("E-0", &["--moe", "2", "--strict"], 3, "every token visits all 2 experts, which are copies"),
    ("E-0", &["--moe", "4", "--noise", "0", "--strict"], 3, "noise 0 changes no number: the experts are copies"),
    ("E-0", &["--moe", "4", "--granularity", "1", "--strict"], 3, "granularity 1 cuts nothing: each expert is one part"),
    ("E12", &["--moe", "1", "--top-k", "1", "--strict"], 3, "there is 1 expert: the router has nothing to decide (refused because of --strict)"),
    ("E18", &["--moe", "4", "--router", "zero", "--strict"], 3, "a router of zeros before identical experts"),
    ("E19", &["--moe", "4", "--router", "hidden"], 2, "--router hidden needs --prompts"),
    ("E-G", &["--moe", "4", "--granularity", "5"], 3, "--granularity 5: granularity is 5, expected a divisor of intermediate_size 48"),
    ("E-G", &["--granularity", "2"], 3, "--granularity 2: the source is dense, expected a mixture of experts"),
    ("E-R", &["--moe", "4", "--router", "zero", "--router-std", "1"], 2, "--router-std is for --router normal"),
    ("E12", &["--moe", "100000000"], 3, "the result would have 100000000 experts per layer, expected at most 4096"),
    ("E12", &["--moe", "4096", "--granularity", "2"], 3, "the result would have 8192 experts per layer, expected at most 4096"),
    ("GG", &["--dus", "1", "--out-type", "gguf:f16", "--dtype", "float16"], 2, "--dtype beside --out-type gguf"),
    ("CLI", &["--moe", "4", "--mergekit-compat"], 2, "it is for a mergekit file"),
    ("H22", &["--dus", "1", "--out-shard-size", "0"], 2, "\"0\" is not a size of at least 1 byte"),
    ("CLI", &[], 2, "nothing to do: expected --dus"),
    ("CLI", &["--dus", "1", "--stack", "2"], 2, "cannot be used with"),
    ("CLI", &["--top-k", "2"], 2, "--moe"),
];

#[test]
fn what_cannot_be_grown_is_refused_in_words_and_nothing_is_written() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let before = names(root.path());
    for (row, words, code, says) in REFUSED {
        let (base, out) = (base.to_str().unwrap(), root.path().join("out"));
        let all: Vec<&str> = ["grow", base, out.to_str().unwrap()].into_iter().chain(words.iter().copied()).collect();
        let output = run(&all);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{row} {words:?}: {message}");
        assert!(message.contains(says), "{row} {words:?}: {message}");
        assert_eq!(names(root.path()), before, "{row} {words:?} left something");
    }
}

/// A bad place for the output: how it is made, and what is said.
type Place = (&'static str, fn(&Path) -> &'static str, i32, &'static str);

#[rustfmt::skip]
const PLACES: [Place; 10] = [
    ("CLI", |_| "out.gguf", 3, "looks like a file name, expected a directory"),
    ("H14", |_| "absent/out", 4, "does not exist"),
    ("H14", |d| { fs::write(d.join("file"), "").unwrap(); "file/out" }, 1, "Not a directory"),
    ("H14", |d| { fs::write(d.join("file"), "").unwrap(); "file" }, 3, "exists, expected nothing or an empty directory"),
    ("H15", |_| "base", 3, "exists, expected nothing"),
    ("H15", |_| "base/inside", 3, "lies in"),
    ("H15", |d| { std::os::unix::fs::symlink(d.join("base"), d.join("link")).unwrap(); "link/inside" }, 3, "lies in"),
    ("H15", |_| ".", 3, "exists, expected nothing"),
    ("H16", |d| { fs::create_dir(d.join("full")).unwrap(); fs::write(d.join("full/mine"), "").unwrap(); "full" }, 3, "exists, expected nothing"),
    ("H18", |d| { fs::create_dir(d.join("busy.deepwide-partial-1")).unwrap(); "busy" }, 1, "another process is writing"),
];

#[cfg(unix)]
#[test]
fn a_bad_place_for_the_output_is_refused_and_left_as_it_is() {
    for (row, make, code, says) in PLACES {
        let root = tempfile::tempdir().unwrap();
        let base = tiny_base(&root.path().join("base"));
        let place = make(root.path());
        let _held =
            fs::File::open(root.path().join("busy.deepwide-partial-1")).ok().inspect(|file| file.try_lock().unwrap());
        let before: Vec<_> = [root.path().to_owned(), base.clone()].iter().map(|d| names(d)).collect();
        let out = root.path().join(place);
        let output = run(&["grow", "--dus", "1", base.to_str().unwrap(), out.to_str().unwrap()]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{row} {place}: {message}");
        assert!(message.contains(says), "{row} {place}: {message}");
        let after: Vec<_> = [root.path().to_owned(), base.clone()].iter().map(|d| names(d)).collect();
        assert_eq!(after, before, "{row} {place}");
    }
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_to_the_output_is_followed_with_a_slash_behind_it_or_none() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    fs::create_dir(root.path().join("disk")).unwrap();
    std::os::unix::fs::symlink("disk", root.path().join("link")).unwrap();
    for (place, dus) in [("link/", "0"), ("link", "1"), ("link/.", "0")] {
        let out = root.path().join(place);
        printed(&["grow", "--force", "--dus", dus, base.to_str().unwrap(), out.to_str().unwrap()]);
        let num_layers = HfDirectory::open(&root.path().join("disk")).unwrap().config().num_hidden_layers;
        assert_eq!(num_layers, if dus == "0" { 4 } else { 2 }, "{place}");
        assert_eq!(names(root.path()), ["base", "disk", "link"], "{place}");
    }
}

#[test]
fn only_what_deepwide_made_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let (base, out) = (base.to_str().unwrap(), root.path().join("out"));
    let grow = |words: &[&str]| run(&[&["grow", base, out.to_str().unwrap()], words].concat());
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "").unwrap();
    let refused = grow(&["--dus", "0", "--force"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds \"mine\", which no deepwide.json there names"));
    fs::remove_file(out.join("mine")).unwrap();
    assert!(grow(&["--dus", "0"]).status.success());
    assert_eq!(HfDirectory::open(&out).unwrap().config().num_hidden_layers, 4);
    assert_eq!(grow(&["--stack", "3"]).status.code(), Some(3));
    assert!(grow(&["--stack", "3", "-y"]).status.success());
    assert_eq!(HfDirectory::open(&out).unwrap().config().num_hidden_layers, 6);
    let into_itself = run(&["grow", "--dus", "0", "-y", out.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(into_itself.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&into_itself.stderr).contains("lies in"));
    fs::write(out.join("trained.safetensors"), "mine").unwrap();
    let stranger = grow(&["--dus", "0", "-y"]);
    assert_eq!(stranger.status.code(), Some(3), "what somebody added is not deleted");
    assert_eq!(fs::read(out.join("trained.safetensors")).unwrap(), b"mine");
    assert_eq!(names(root.path()), ["base", "out"]);
}

#[test]
fn weights_trained_in_place_are_replaced_only_if_they_are_to_be_discarded() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let (base, out) = (base.to_str().unwrap(), root.path().join("out"));
    let grow = |words: &[&str]| run(&[&["grow", "--dus", "1", base, out.to_str().unwrap()], words].concat());
    assert!(grow(&[]).status.success());
    let weights = out.join("model.safetensors");
    let mut trained = fs::read(&weights).unwrap();
    *trained.last_mut().unwrap() ^= 1;
    fs::write(&weights, &trained).unwrap();
    let refused = grow(&["--force"]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{message}");
    for part in ["may exist nowhere else", "\"model.safetensors\" has blake3 ", "--discard-modified"] {
        assert!(message.contains(part), "{message}");
    }
    let planned = grow(&["--force", "--dry-run"]);
    assert!(planned.status.success() && String::from_utf8_lossy(&planned.stdout).contains("would be refused"));
    assert_eq!(grow(&["--discard-modified"]).status.code(), Some(2), "it needs --force");
    assert_eq!(fs::read(&weights).unwrap(), trained);
    assert!(grow(&["--force", "--discard-modified"]).status.success());
    assert_ne!(fs::read(&weights).unwrap(), trained);
    assert!(grow(&["--force"]).status.success());
}

#[test]
fn a_dry_run_writes_nothing_and_tells_the_bytes_that_a_run_writes() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let out = root.path().join("out");
    let words =
        ["grow", base.to_str().unwrap(), out.to_str().unwrap(), "--dus", "0", "--moe", "3", "--out-shard-size", "20KB"];
    let plan: Value = serde_json::from_str(&printed(&[&words[..], &["--dry-run", "--json"]].concat())).unwrap();
    assert!(!out.exists());
    printed(&words);
    let files = plan["files"].as_array().unwrap();
    assert!(files.len() > 3);
    for file in files {
        let path = out.join(file["name"].as_str().unwrap());
        assert_eq!(fs::metadata(path).unwrap().len(), file["size_bytes"].as_u64().unwrap(), "{file}");
    }
    let weights = |name: &&String| name.ends_with(".safetensors");
    assert_eq!(names(&out).iter().filter(weights).count(), files.len());
}

#[test]
fn a_dry_run_tells_its_plan_whatever_stands_at_the_output() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let (base, out) = (base.to_str().unwrap(), root.path().join("out"));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "").unwrap();
    let words = ["grow", base, out.to_str().unwrap(), "--stack", "2"];
    let told = printed(&[&words[..], &["--dry-run"]].concat());
    assert!(told.starts_with("plan: a stack of 2 copies\n  layers 0..2 ← 0..2\n  layers 2..4 ← 0..2\n"), "{told}");
    assert!(told.contains("warning: a run would be refused: ") && told.contains("--force replaces"), "{told}");
    let told = printed(&[&words[..], &["--dry-run", "--force"]].concat());
    assert!(told.contains("a run would be refused: ") && told.contains("holds \"mine\""), "{told}");
    assert_eq!(run(&[&words[..], &["--dry-run", "--strict"]].concat()).status.code(), Some(3));
    assert_eq!(run(&words).status.code(), Some(3), "without --dry-run it is");
    let inside = format!("{base}/inside");
    let refused = run(&["grow", base, &inside, "--stack", "2", "--dry-run"]);
    assert_eq!(refused.status.code(), Some(3), "what can never work is no plan");
    assert_eq!(names(&out), ["mine"]);
}

#[test]
fn the_same_command_makes_the_same_bytes_whatever_the_environment() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let grown = |folder: &str, threads: &str, locale: &str| {
        let folder = root.path().join(folder);
        fs::create_dir(&folder).unwrap();
        let out = folder.join("out");
        let words = ["grow", "--dus", "1", "--moe", "4", "--drop", "0.5", "--seed", "7"];
        let mut command = deepwide();
        command.args(words).arg(&base).arg(&out);
        command.env("RAYON_NUM_THREADS", threads).env("LC_ALL", locale).env("TZ", "Asia/Kathmandu").env("COLUMNS", "0");
        assert!(command.output().unwrap().status.success());
        names(&out).into_iter().map(|name| (fs::read(out.join(&name)).unwrap(), name)).collect::<Vec<_>>()
    };
    assert!(grown("a", "1", "C") == grown("b", "3", "tr_TR.UTF-8"));
}

#[test]
fn a_receipt_names_the_source_of_every_layer_and_verifies() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let out = root.path().join("out");
    printed(&["grow", "--identity-blocks", "1", "--moe", "2", base.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(printed(&["verify", out.to_str().unwrap()]).split(' ').next(), Some("7"));
    let receipt: Value = serde_json::from_slice(&fs::read(out.join("deepwide.json")).unwrap()).unwrap();
    let layers = receipt["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(receipt["parents"][0]["weights"][0]["name"], "model.safetensors");
    for name in ["README.md", "mergekit_config_1.yml", "mergekit_moe_config_2.yml", "tokenizer.json"] {
        assert!(out.join(name).exists(), "{name}");
    }
    let weights = out.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let output = run(&["verify", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"model.safetensors\" has blake3"));
}

#[test]
fn what_preserves_the_function_is_checked_and_what_does_not_tells_its_jump() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let text = root.path().join("text");
    fs::write(&text, (0..40).map(|i| format!("w{} ", i * 7 % 61)).collect::<String>().trim_end()).unwrap();
    let check = |name: &str, words: &[&str]| -> Value {
        let out = root.path().join(name);
        let common = ["grow", base.to_str().unwrap(), out.to_str().unwrap(), "--json", "--check", "--check-text"];
        let all = [&common[..], &[text.to_str().unwrap()], words].concat();
        serde_json::from_str::<Value>(&printed(&all)).unwrap()["check"].take()
    };
    for (name, words) in [
        ("moe", &["--moe", "4"][..]),
        ("identity", &["--identity-blocks", "2"]),
        ("fine", &["--moe", "3", "--granularity", "4", "--router", "orthogonal"]),
        ("thirds", &["--moe", "2", "--granularity", "3"]),
        ("rounded", &["--moe", "4", "--dtype", "float16"]),
        ("both", &["--identity-blocks", "1", "--moe", "4", "--top-k", "4", "--router", "zero"]),
    ] {
        let check = check(name, words);
        assert_eq!((&check["function_preserving"], &check["passed"]), (&true.into(), &true.into()), "{name}: {check}");
        let rounds = ["thirds", "rounded"].contains(&name);
        let most = if rounds { 0.1 } else { 1e-4 };
        assert!(check["max_abs_logit_difference"].as_f64().unwrap() < most, "{name}: {check}");
    }
    for (name, words) in [("dus", &["--dus", "0"][..]), ("noise", &["--moe", "2", "--noise", "0.5"])] {
        let check = check(name, words);
        assert_eq!(check["function_preserving"], false);
        assert!(check["max_abs_logit_difference"].as_f64().unwrap() > 1e-3, "{name}: {check}");
    }
}

#[test]
fn a_check_that_fails_is_one_json_object_with_the_error_beside_what_was_found() {
    let root = tempfile::tempdir().unwrap();
    let tiny = tiny_base(&root.path().join("tiny"));
    // Weights beyond the range of float16, cut off there: another function.
    let (base, out) = (root.path().join("base"), root.path().join("out"));
    let weights = MemoryWeights::untrained(HfDirectory::open(&tiny).unwrap().config().clone(), 1e6, 11);
    write_hf_directory(&weights, None, None, &base).unwrap();
    fs::copy(tiny.join("tokenizer.json"), base.join("tokenizer.json")).unwrap();
    let text = root.path().join("text");
    fs::write(&text, "w1 w2 w3 w4").unwrap();
    let failed = |words: &[&str]| -> Value {
        let output = run(&[words, &["--json", out.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["error"]["code"], 5, "{object}");
        object
    };
    let common = ["grow", "--dtype", "float16", "--saturate", base.to_str().unwrap()];
    let object = failed(&[&common[..], &["--check", "--check-text", text.to_str().unwrap()]].concat());
    assert_eq!((&object["check"]["passed"], &object["out"]), (&false.into(), &out.to_str().unwrap().into()));
    assert!(object["error"]["message"].as_str().unwrap().contains("but a logit moved by"));
    fs::write(out.join("stray"), "").unwrap();
    let object = failed(&["verify"]);
    assert_eq!(object["mismatches"], serde_json::json!([{"kind": "unknown", "name": "stray"}]));
    assert_eq!(object["files"], names(&out).len() - 2, "all but the receipt itself and what it does not know");
}

#[cfg(unix)]
#[test]
fn a_disk_without_room_for_what_is_inherited_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    // Four tebibytes, all of them a hole.
    let tokenizer = fs::File::options().write(true).open(base.join("tokenizer.json")).unwrap();
    tokenizer.set_len(1 << 42).unwrap();
    // Should it be copied after all, the limit of a file's size ends it.
    let line = format!("ulimit -f 20000; exec {} grow --dus 1 base out", env!("CARGO_BIN_EXE_deepwide"));
    let output = std::process::Command::new("sh").args(["-c", &line]).current_dir(root.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("are free there"), "{message}");
    assert_eq!(names(root.path()), ["base"]);
}

#[test]
fn a_text_to_check_with_is_looked_at_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let text = root.path().join("text");
    fs::write(&text, "w1").unwrap();
    let out = root.path().join("out");
    let words = ["grow", "--moe", "2", "--check", base.to_str().unwrap(), out.to_str().unwrap()];
    let output = run(&[&words[..], &["--check-text", text.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has 1 tokens, expected at least 2"));
    let output = run(&[&words[..], &["--check-text", "absent"]].concat());
    assert_eq!(output.status.code(), Some(4));
    assert!(!out.exists());
}

#[test]
fn a_mergekit_file_is_carried_out_and_kept_to_the_byte() {
    let root = tempfile::tempdir().unwrap();
    tiny_base(&root.path().join("base"));
    let yaml = "# mine\nslices:\n- sources:\n  - {model: base, layer_range: [0, 2]}\n- sources:\n  - {model: base, layer_range: [1, 2]}\nmerge_method: passthrough\ndtype: float16\n";
    let (config, out) = (root.path().join("dus.yml"), root.path().join("out"));
    fs::write(&config, yaml).unwrap();
    printed(&["grow", config.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(out.join("mergekit_config.yml")).unwrap(), yaml);
    let grown = HfDirectory::open(&out).unwrap();
    assert_eq!((grown.config().num_hidden_layers, &grown.raw_config()["dtype"]), (3, &"float16".into()));
    let output = run(&["grow", "--dus", "1", config.to_str().unwrap(), root.path().join("b").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--dus with "));
}

#[test]
fn the_mergekit_files_of_a_growth_repeat_it_in_order() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    tiny_base(&root.path().join("base"));
    printed(&["grow", "--stack", "2", "--moe", "4", "--seed", "7", &at("base"), &at("out")]);
    let files = [("mergekit_config_1.yml", "grown_1"), ("mergekit_moe_config_2.yml", "grown_2")];
    let card = fs::read_to_string(at("out/README.md")).unwrap();
    for (file, out) in files {
        assert!(card.contains(file), "{card}");
        let text = fs::read_to_string(at(&format!("out/{file}"))).unwrap();
        assert!(card.contains(text.trim_end()) && !text.contains(&at("")), "{text}");
        fs::copy(at(&format!("out/{file}")), at(file)).unwrap();
        printed(&["grow", "--seed", "7", &at(file), &at(out)]);
    }
    let weights = |out: &str| fs::read(at(out) + "/model.safetensors").unwrap();
    assert!(weights("grown_2") == weights("out"));
    assert!(weights("grown_1") != weights("out"));
    assert!(card.contains(", from `base`.") && !card.contains(&at("")), "{card}");
}

#[test]
fn the_chat_template_of_a_mergekit_file_is_that_of_the_result_in_either_format() {
    const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let keys = r#"{"bos_token": "<bos>", "chat_template": "{{ the_parents }}", "model_max_length": 512}"#;
    fs::write(base.join("tokenizer_config.json"), keys).unwrap();
    let slices =
        "slices:\n- sources:\n  - {model: BASE, layer_range: [0, 2]}\nmerge_method: passthrough\ndtype: float16\n";
    let grown = |name: &str, template: &str, out_type: &str| {
        let (config, out) = (root.path().join(format!("{name}.yml")), root.path().join(name));
        let base = if root.path().join("base").exists() { "base" } else { "base.gguf" };
        let slices = slices.replace("BASE", base);
        fs::write(&config, format!("{slices}chat_template: \"{template}\"\n")).unwrap();
        printed(&["grow", config.to_str().unwrap(), out.to_str().unwrap(), "--out-type", out_type]);
        out
    };
    let chatml = ChatTemplate::NAMED.iter().find(|(name, _)| *name == "chatml").unwrap().1;
    for (name, template, expected) in
        [("own", TEMPLATE, TEMPLATE), ("auto", "auto", "{{ the_parents }}"), ("named", "chatml", chatml)]
    {
        let hf = grown(name, template, "hf");
        let config: Value = serde_json::from_slice(&fs::read(hf.join("tokenizer_config.json")).unwrap()).unwrap();
        assert_eq!(
            config,
            serde_json::json!({"bos_token": "<bos>", "chat_template": expected, "model_max_length": 512})
        );
        let jinja = fs::read_to_string(hf.join("chat_template.jinja")).ok();
        assert_eq!(jinja.as_deref(), (name != "auto").then_some(expected));
    }
    // A parent whose vocabulary GGUF can say, in the place of the other.
    let vocabulary = GgufVocabulary { chat_template: Some("{{ the_parents }}".to_owned()), ..tiny_vocabulary() };
    let weights = MemoryWeights::untrained(HfDirectory::open(&base).unwrap().config().clone(), 0.2, 11);
    fs::remove_dir_all(&base).unwrap();
    let options = GgufOptions { file_type: GgufFileType::F16, name: None };
    write_gguf(&weights, &vocabulary, &options, &mut fs::File::create(&base).unwrap(), &base).unwrap();
    fs::rename(&base, root.path().join("base.gguf")).unwrap();
    for (name, template, expected) in [("own_gguf", TEMPLATE, TEMPLATE), ("auto_gguf", "auto", "{{ the_parents }}")] {
        let out = grown(name, template, "gguf:f16");
        let file = GgufFile::open(&out.join(format!("{name}-F16.gguf"))).unwrap();
        assert_eq!(file.vocabulary().unwrap().unwrap().chat_template.as_deref(), Some(expected));
    }
}

#[test]
fn inspecting_reads_headers_and_stops_when_nobody_listens() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let base = base.to_str().unwrap();
    let json: Value = serde_json::from_str(&printed(&["inspect", "--json", base])).unwrap();
    assert_eq!(json["dtypes"]["BF16"]["tensors"], 20);
    assert_eq!(json["config"]["num_hidden_layers"], 2);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 20);
    assert!(printed(&["inspect", "--tensors", base]).contains("model.layers.1.mlp.up_proj.weight"));
    let error: Value = serde_json::from_slice(&run(&["inspect", "--json", "absent"]).stdout).unwrap();
    assert_eq!(error["error"]["code"], 4);
    #[cfg(target_os = "linux")]
    {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(deepwide().args(["inspect", base]).stdout(full).status().unwrap().code(), Some(1));
        let mut child = deepwide().args(["inspect", base]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert!(child.wait().unwrap().success());
    }
}
