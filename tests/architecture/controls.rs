//! Negative controls: each rule sees what breaks it, and nothing else.

use std::collections::BTreeSet;

use super::code::{has_word, tokens};
use super::graph::{Module, Sources};
use super::rules::{
    declared_in, faults_of_an_experiment, forbidden_uses, foreign_file_names, lines_before_tests, says_what_it_is,
    surroundings,
};

/// What a snippet in `src/model/moe.rs` uses besides `config` and `kernel`.
fn caught(snippet: &str) -> Vec<String> {
    let home = ["model".to_string(), "moe".to_string()];
    forbidden_uses(snippet, &home, &["config", "kernel"]).into_iter().collect()
}

#[test]
fn a_forbidden_use_is_caught_in_every_notation() {
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
fn uses_of_the_root_of_the_crate_are_caught() {
    assert_eq!(caught("use crate::DenseDecoder;"), ["DenseDecoder"]);
    assert_eq!(caught("use crate::*;"), ["*"]);
    assert_eq!(caught("use crate as all;"), ["the crate's root"]);
    assert_eq!(caught("use crate::{self as all};"), ["self"]);
}

#[test]
fn comments_strings_and_tests_are_not_forbidden_uses() {
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
fn words_of_code_are_caught_and_those_of_comments_are_not() {
    assert!(
        has_word(&tokens("use burn::tensor::Tensor;"), "burn") && !has_word(&tokens("fn burned() {} // burn"), "burn")
    );
    assert!(has_word(&tokens("fn f() { unsafe { g() } }"), "unsafe"));
    assert!(!has_word(&tokens("#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";"), "unsafe"));
}

#[test]
fn a_file_without_documentation_is_caught() {
    assert!(says_what_it_is("//! Text and token ids.\n"));
    for silent in ["", "use std::fs;\n", "// Text.\n", "//!\nuse std::fs;\n", "\n//! Late.\n"] {
        assert!(!says_what_it_is(silent), "{silent:?}");
    }
}

#[test]
fn long_experiments_tensors_and_drawings_are_caught() {
    let lines = |count: usize| "//\n".repeat(count);
    assert!(faults_of_an_experiment(&lines(80)).is_empty());
    assert_eq!(faults_of_an_experiment(&lines(81)), ["81 lines"]);
    assert_eq!(faults_of_an_experiment("fn f(x: Tensor<2>) {}"), ["Tensor"]);
    assert_eq!(faults_of_an_experiment("use burn::tensor::TensorData;"), ["TensorData"]);
    assert_eq!(faults_of_an_experiment("use plotters::prelude::*;"), ["plotters"]);
    assert!(faults_of_an_experiment("//! No Tensor, no plotters.").is_empty());
}

#[test]
fn a_hugging_face_file_name_elsewhere_is_caught() {
    let code = "fn f(p: &Path) { p.join(\"config.json\"); p.join(\"model.safetensors.index.json\"); }";
    assert_eq!(foreign_file_names(code, "model"), ["model.safetensors", "config.json"]);
    assert_eq!(foreign_file_names(code, "cli"), ["model.safetensors"]);
    assert!(foreign_file_names(code, "formats").is_empty());
    assert_eq!(foreign_file_names("r\"a/config.json\"", "study"), ["config.json"]);
    assert_eq!(foreign_file_names("b\"tokenizer_config.json\"", "data"), ["tokenizer_config.json"]);
    assert!(foreign_file_names("\"no config.json here\"", "study").is_empty(), "a message");
    let harmless = "/// `config.json`\n#[cfg(test)] mod tests { const A: &str = \"config.json\"; }";
    assert!(foreign_file_names(harmless, "config").is_empty());
}

#[test]
fn reading_the_command_line_or_the_environment_is_caught() {
    assert_eq!(surroundings("let home = std::env::var(\"HOME\");"), ["std::env::var"]);
    assert_eq!(surroundings("use std::{env, fs::File};"), ["std::env"]);
    assert_eq!(surroundings("use std::env;"), ["std::env"]);
    assert_eq!(surroundings("use clap::Parser;"), ["clap::Parser"]);
    assert!(surroundings("use std::path::Path; // std::env and clap\nfn environment() {}").is_empty());
    assert!(surroundings("const OS: &str = std::env::consts::OS;").is_empty(), "no look at the environment");
    assert!(surroundings("#[cfg(test)] mod tests { fn f() { std::env::temp_dir(); } }").is_empty());
}

/// The circles among files given by module and text, each as modules joined by spaces.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let home = |path: &str| path.split('/').map(str::to_owned).collect::<Module>();
    let sources = Sources::new(files.iter().map(|(path, text)| (home(path), tokens(text))));
    let joined = |circle: BTreeSet<&Module>| circle.iter().map(|file| file.join("/")).collect::<Vec<_>>().join(" ");
    sources.circles().into_iter().map(joined).collect()
}

#[test]
fn a_circle_of_files_is_caught_in_every_notation() {
    let closing = [
        "use super::b::g;",
        "use crate::a::b;\nfn f() { b::g() }",
        "fn f() { super::b::g() }",
        "use crate::a::{b::g as h};",
        "use super::g;",
        "use super::*;",
        "mod inner { use super::super::b::g; }",
    ];
    for text in closing {
        let parent = "mod b; mod c; pub use b::g; fn own() { g() }";
        let circles = circles_of(&[("a", parent), ("a/b", "use super::c::f; pub fn g() {}"), ("a/c", text)]);
        assert!(circles.iter().any(|circle| circle.ends_with("a/b a/c")), "{text}: {circles:?}");
    }
    assert_eq!(circles_of(&[("a", "mod b; fn f() { b::g() }"), ("a/b", "use super::f;")]), ["a a/b"]);
    assert_eq!(circles_of(&[("a", "pub use b::G; fn f(_: G) {}"), ("a/b", "use super::f;")]), ["a a/b"]);
}

#[test]
fn a_parent_that_re_exports_its_children_is_no_circle() {
    let parent = "mod b; mod c; pub use b::g; pub(crate) use self::c::{self, f};";
    for text in ["use super::g;", "use crate::a::g;", "use super::b::g;", "#[cfg(test)] mod tests { use super::f; }"] {
        let circles = circles_of(&[("a", parent), ("a/b", "pub fn g() {}"), ("a/c", text)]);
        assert!(circles.is_empty(), "{text}: {circles:?}");
    }
}

#[test]
fn declared_modules_are_found() {
    let home = |path: &str| path.split('/').map(str::to_owned).collect::<Module>();
    let text = "mod b; // mod c;\npub mod d;\nmod e {}\n#[cfg(test)]\nmod tests;";
    assert_eq!(declared_in(text, &home("a")), ["a/b", "a/d", "a/tests"].map(home));
    assert_eq!(declared_in("pub mod a;", &home("lib")), [home("a")]);
}

#[test]
fn the_lines_of_a_file_end_at_its_tests() {
    assert_eq!(lines_before_tests("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
    assert_eq!(lines_before_tests("a\n    #[cfg(test)]\nb\n"), 3);
}
