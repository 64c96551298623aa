//! The shape of the code base, held by reading it: which module uses which, and what must not stand where.
//!
//! Every rule is a function of text that says what breaks it, so that a wrong snippet can show that it is seen.
//! Comments never break a rule, and neither do items under `#[cfg(test)]` unless the rule says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod code;

use code::{Token, has_word, inline_modules, outside_tests, paths, tokens};

/// Which of our modules each module may use. The order is the order of the data flow: nothing uses a later row.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("config", &[]),
    ("tokenizer", &[]),
    ("kernel", &[]),
    ("trace", &[]),
    ("weights", &["config"]),
    ("growth", &["config", "weights"]),
    ("model", &["config", "kernel", "trace", "weights"]),
    ("data", &["tokenizer"]),
    ("train", &["config", "kernel", "trace", "model", "data", "weights"]),
    ("eval", &["config", "kernel", "model", "data"]),
    ("profile", &["config", "kernel", "trace", "model", "data", "train"]),
    ("report", &["config"]),
    ("figure", &["report", "config"]),
    ("study", &["config", "weights", "growth", "model", "data", "train", "eval", "profile", "report", "tokenizer"]),
    (
        "cli",
        &[
            "config",
            "tokenizer",
            "kernel",
            "trace",
            "weights",
            "growth",
            "model",
            "data",
            "train",
            "eval",
            "profile",
            "report",
            "figure",
            "study",
        ],
    ),
];

/// Which modules may name a file of a Hugging Face directory in a string.
const MAY_NAME: [(&str, &[&str]); 4] = [
    ("model.safetensors", &["weights"]),
    ("config.json", &["weights", "tokenizer", "cli"]),
    ("tokenizer.json", &["weights", "tokenizer", "cli"]),
    ("tokenizer_config.json", &["weights", "tokenizer", "cli"]),
];

/// The longest experiment, in lines.
const MAX_EXPERIMENT_LINES: usize = 80;

#[test]
fn modules_use_only_what_stands_before_them() {
    for (module, allowed) in MAY_USE {
        for file in files_of(module) {
            let wrong = wrong_arrows(&read(&file), &home(&file), allowed);
            assert!(wrong.is_empty(), "{}: `{module}` uses {wrong:?}", file.display());
        }
    }
}

#[test]
fn every_module_has_a_row_and_every_row_a_module() {
    let rows: BTreeSet<String> = MAY_USE.iter().map(|(module, _)| module.to_string()).collect();
    assert_eq!(modules(), rows, "modules of src/ on the left, rows of MAY_USE on the right");
    assert_eq!(rows.len(), MAY_USE.len(), "a module has two rows");
}

#[test]
fn every_arrow_of_the_table_points_backwards() {
    for (row, (module, allowed)) in MAY_USE.iter().enumerate() {
        for used in *allowed {
            let before = MAY_USE[..row].iter().any(|(earlier, _)| earlier == used);
            assert!(before, "`{module}` may use `{used}`, which does not stand before it");
        }
    }
}

#[test]
fn unsafe_code_stays_among_the_kernels() {
    for file in sources("src") {
        let allowed = module_of(&file) == "kernel";
        assert!(allowed || !has_word(&tokens(&read(&file)), "unsafe"), "{}: unsafe code", file.display());
    }
}

#[test]
fn every_source_file_says_first_what_it_is() {
    for folder in ["src", "experiments", "benches", "tests"] {
        for file in sources(folder) {
            assert!(says_what_it_is(&read(&file)), "{}: does not open with `//!`", file.display());
        }
    }
}

#[test]
fn experiments_are_short_and_hold_no_tensor_and_draw_nothing() {
    for file in sources("experiments") {
        let faults = faults_of_an_experiment(&read(&file));
        assert!(faults.is_empty(), "{}: {faults:?}", file.display());
    }
}

#[test]
fn only_the_modules_of_the_door_name_hugging_face_files() {
    for file in sources("src") {
        let wrong = foreign_file_names(&read(&file), &module_of(&file));
        assert!(wrong.is_empty(), "{}: names {wrong:?}", file.display());
    }
}

#[test]
fn only_the_command_knows_the_command_line_and_the_environment() {
    for file in sources("src") {
        let module = module_of(&file);
        let wrong = surroundings(&read(&file));
        assert!(module == "cli" || module == "main" || wrong.is_empty(), "{}: {wrong:?}", file.display());
    }
}

#[test]
fn every_golden_file_of_gguf_is_explained_beside_the_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = fs::read_to_string(folder.join("README.md")).unwrap();
    let explained = |name: &str| text.contains(&format!("`{name}`"));
    for entry in fs::read_dir(folder.join("gguf")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(explained(&name) || name.starts_with("__"), "tests/golden/README.md says nothing of gguf/{name}");
    }
    assert!(!explained("no_such_file.gguf"));
}

/// What the code of a file at `home` (`["weights", "hf"]`) uses of our own and may not: modules outside `allowed`, and
/// whatever it takes from the root of the crate rather than from the module that owns it.
fn wrong_arrows(text: &str, home: &[String], allowed: &[&str]) -> BTreeSet<String> {
    let code = outside_tests(tokens(text));
    let homes = inline_modules(&code, home);
    let uses = homes.iter().flat_map(|(home, code)| paths(code).into_iter().filter_map(|path| target(&path, home)));
    uses.filter(|module| *module != home[0] && !allowed.contains(&module.as_str())).collect()
}

/// The name directly below the root of the crate that a path leads to; `None` if it stays below `home` or leads out.
fn target(path: &[String], home: &[String]) -> Option<String> {
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    match path[0].as_str() {
        "crate" | "deepwide" => Some(path.get(1).cloned().unwrap_or_else(|| "the crate's root".into())),
        "super" if ups >= home.len() => path.get(ups).cloned(),
        "self" => target(path.get(1..).filter(|rest| rest.first().is_some_and(|s| s == "super"))?, home),
        _ => None,
    }
}

/// What is wrong with the text of an experiment.
fn faults_of_an_experiment(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let lines = text.lines().count();
    let long = (lines > MAX_EXPERIMENT_LINES).then(|| format!("{lines} lines"));
    let words = tokens.iter().filter_map(|token| match token {
        Token::Word(word) if word.contains("Tensor") || word == "plotters" => Some(word.clone()),
        _ => None,
    });
    long.into_iter().chain(words).collect()
}

/// Files of [`MAY_NAME`] that a string of `text` names although `module` may not.
fn foreign_file_names(text: &str, module: &str) -> Vec<&'static str> {
    let tokens = outside_tests(tokens(text));
    let named = |name: &str| tokens.iter().any(|token| matches!(token, Token::Text(text) if names_file(text, name)));
    let foreign = MAY_NAME.iter().filter(|(name, owners)| !owners.contains(&module) && named(name));
    foreign.map(|(name, _)| *name).collect()
}

/// Whether `name` stands in `text` as a file name of its own: `tokenizer_config.json` does not name `config.json`.
fn names_file(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The paths in `text` that lead to the command line or the environment.
fn surroundings(text: &str) -> Vec<String> {
    let paths = paths(&outside_tests(tokens(text))).into_iter();
    paths.filter(|p| p[0] == "clap" || p.starts_with(&["std".into(), "env".into()])).map(|p| p.join("::")).collect()
}

/// Whether a source file opens with its own documentation.
fn says_what_it_is(text: &str) -> bool {
    text.lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > "//! ".len())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All Rust files below a folder of the repository, sorted.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The path of a source file as modules: `src/weights/hf.rs` is `["weights", "hf"]`, `src/weights/mod.rs` `["weights"]`.
fn home(file: &Path) -> Vec<String> {
    let below = file.strip_prefix(root().join("src")).expect("a file of src/").with_extension("");
    let mut home: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    home.retain(|part| part != "mod");
    home
}

fn module_of(file: &Path) -> String {
    home(file).swap_remove(0)
}

fn files_of(module: &str) -> Vec<PathBuf> {
    sources("src").into_iter().filter(|file| module_of(file) == module).collect()
}

/// The modules of the crate; its roots `lib.rs` and `main.rs` are none.
fn modules() -> BTreeSet<String> {
    let modules = sources("src").into_iter().map(|file| module_of(&file));
    modules.filter(|module| module != "lib" && module != "main").collect()
}

/// What a snippet in `src/model/moe.rs` uses besides `config` and `kernel`.
fn caught(snippet: &str) -> Vec<String> {
    let home = ["model".to_string(), "moe".to_string()];
    wrong_arrows(snippet, &home, &["config", "kernel"]).into_iter().collect()
}

#[test]
fn a_wrong_arrow_is_caught_however_it_is_written() {
    let snippets = [
        "use crate::train::train;",
        "use crate :: train;",
        "use crate::{config::DecoderConfig, train::{loss, TrainLog as Log}};",
        "use crate::{config::{self, MoeConfig}, kernel, train};",
        "fn f() -> usize { crate::train::STEPS }",
        "pub use crate::train::*;",
        "use super::super::train::Step;",
        "use super::super::{config, train};",
        "fn f(x: &'static str, c: char) -> bool { c == '\"' && crate::train::yes(x) }",
        "const QUOTE: char = '\\''; use crate::train;",
        "const TEXT: &str = r#\"a \" quote\"#; use crate::train;",
        "/* a /* nested */ comment */ use crate::train;",
        "#[cfg(test)] use crate::study; use crate::train;",
        "#[cfg(test)] mod tests { const BRACE: char = '{'; } use crate::train;",
        "#[cfg(not(test))] use crate::train;",
        "struct S { #[cfg(test)] a: usize, b: crate::train::Step }",
        "mod a { mod b { use super::super::super::super::train::Step; } }",
        "mod a { fn f() {} } use super::super::train::Step;",
        "use deepwide::train::Step;",
        "macro_rules! m { () => { $crate::train::step() } }",
    ];
    for snippet in snippets {
        assert_eq!(caught(snippet), ["train"], "{snippet}");
    }
}

#[test]
fn what_is_taken_from_the_root_of_the_crate_hides_its_module_and_is_caught() {
    assert_eq!(caught("use crate::DenseDecoder;"), ["DenseDecoder"]);
    assert_eq!(caught("use crate::*;"), ["*"]);
    assert_eq!(caught("use crate as all;"), ["the crate's root"]);
    assert_eq!(caught("use crate::{self as all};"), ["self"]);
}

#[test]
fn a_right_arrow_a_comment_a_string_and_a_test_are_no_wrong_arrows() {
    let snippets = [
        "use crate::config::DecoderConfig; use crate::kernel::{self, linear};",
        "use super::mlp::GatedMlp; use crate::model::Router; pub(crate) fn f() {}",
        "mod a { use super::super::mlp; mod b { use super::super::super::train; } }",
        "//! `crate::train` calls this.\n/// [`crate::train`]\n// crate::train\n/* crate::train */",
        "const HELP: &str = \"crate::train\"; const RAW: &str = r#\"crate::train\"#;",
        "#[cfg(test)]\nmod tests {\n    use crate::train::{Step, loss};\n    #[test]\n    fn f() {}\n}",
        "#[cfg(test)] #[allow(unused)] use crate::train::{Step, loss}; use crate::config;",
        "#[cfg(test)] fn f(x: [u8; 3]) { crate::train::step(x) }",
    ];
    for snippet in snippets {
        assert!(caught(snippet).is_empty(), "{snippet}");
    }
}

#[test]
fn unsafe_code_is_caught_and_the_word_is_not() {
    assert!(has_word(&tokens("fn f() { unsafe { g() } }"), "unsafe"));
    assert!(!has_word(&tokens("#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";"), "unsafe"));
}

#[test]
fn a_file_that_does_not_say_what_it_is_is_caught() {
    assert!(says_what_it_is("//! Text and token ids.\n"));
    for silent in ["", "use std::fs;\n", "// Text.\n", "//!\nuse std::fs;\n", "\n//! Late.\n"] {
        assert!(!says_what_it_is(silent), "{silent:?}");
    }
}

#[test]
fn a_long_experiment_and_one_with_a_tensor_or_a_drawing_are_caught() {
    let lines = |count: usize| "//\n".repeat(count);
    assert!(faults_of_an_experiment(&lines(80)).is_empty());
    assert_eq!(faults_of_an_experiment(&lines(81)), ["81 lines"]);
    assert_eq!(faults_of_an_experiment("fn f(x: Tensor<2>) {}"), ["Tensor"]);
    assert_eq!(faults_of_an_experiment("use burn::tensor::TensorData;"), ["TensorData"]);
    assert_eq!(faults_of_an_experiment("use plotters::prelude::*;"), ["plotters"]);
    assert!(faults_of_an_experiment("//! No Tensor, no plotters.").is_empty());
}

#[test]
fn a_hugging_face_file_name_outside_its_modules_is_caught() {
    let code = "fn f(p: &Path) { p.join(\"config.json\"); p.join(\"model.safetensors.index.json\"); }";
    assert_eq!(foreign_file_names(code, "model"), ["model.safetensors", "config.json"]);
    assert_eq!(foreign_file_names(code, "cli"), ["model.safetensors"]);
    assert!(foreign_file_names(code, "weights").is_empty());
    assert_eq!(foreign_file_names("r\"a/config.json\"", "study"), ["config.json"]);
    assert_eq!(foreign_file_names("b\"tokenizer_config.json\"", "data"), ["tokenizer_config.json"]);
    let harmless = "/// `config.json`\n#[cfg(test)] mod tests { const A: &str = \"config.json\"; }";
    assert!(foreign_file_names(harmless, "config").is_empty());
}

#[test]
fn a_look_at_the_command_line_or_the_environment_is_caught() {
    assert_eq!(surroundings("let home = std::env::var(\"HOME\");"), ["std::env::var"]);
    assert_eq!(surroundings("use std::{env, fs::File};"), ["std::env"]);
    assert_eq!(surroundings("use std::env;"), ["std::env"]);
    assert_eq!(surroundings("use clap::Parser;"), ["clap::Parser"]);
    assert!(surroundings("use std::path::Path; // std::env and clap\nfn environment() {}").is_empty());
    assert!(surroundings("#[cfg(test)] mod tests { fn f() { std::env::temp_dir(); } }").is_empty());
}
