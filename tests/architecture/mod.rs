//! The structure of the code base, tested by reading it: which module may use which, and what must not be where.
//!
//! Each rule is a function of text that returns what breaks it, so that `controls` can show it a wrong snippet.
//! Comments never break a rule, and neither do items under `#[cfg(test)]` unless the rule says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

mod code;
mod controls;
mod graph;
mod rules;
mod tree;

use code::{has_word, outside_tests, tokens};
use graph::{Module, Sources};
use rules::{
    declared_in, faults_of_an_experiment, forbidden_uses, foreign_file_names, lines_before_tests, says_what_it_is,
    surroundings,
};
use tree::{files_of, home, module_of, modules, modules_of, read, sources};

/// The modules that each module may use, in the order of the data flow: none uses a later row.
const MAY_USE: [(&str, &str); 28] = [
    ("error", ""),
    ("config", "error"),
    ("trace", ""),
    ("weights", "config error"),
    ("lora", "config error weights"),
    ("output", "error weights"),
    ("python", ""),
    ("tokenizer", "error output python"),
    ("formats", "config error lora output tokenizer weights"),
    ("hub", "error formats output"),
    ("kernel", "error trace"),
    ("device", "kernel"),
    ("load", "config error kernel weights"),
    ("model", "config error kernel load lora trace weights"),
    ("growth", "config error lora weights"),
    ("data", "error output tokenizer weights"),
    ("train", "config data error formats kernel model output trace weights"),
    ("generate", "config error kernel model tokenizer"),
    ("serve", "error generate model tokenizer"),
    ("profile", "config data error formats kernel load lora model trace train weights"),
    ("report", "config error profile"),
    ("eval", "config data error generate hub kernel model output profile python report tokenizer trace"),
    ("bench", "config error formats kernel load model profile report trace train weights"),
    ("figure", "error report"),
    ("upscale", "config device error eval formats growth hub load lora model output profile tokenizer weights"),
    (
        "study",
        "config data error eval figure formats growth kernel load model output profile report tokenizer trace train weights",
    ),
    ("finetune", "config data error figure formats load lora model output tokenizer train upscale weights"),
    (
        "cli",
        "bench config data device error eval figure finetune formats generate growth hub kernel load model output profile report serve study tokenizer \
         trace train upscale weights",
    ),
];

/// The longest file, in lines before its tests.
const MAX_LINES: usize = 400;

#[test]
fn modules_use_only_those_before_them() {
    for (module, allowed) in MAY_USE {
        for file in files_of(module) {
            let wrong = forbidden_uses(&read(&file), &home(&file), &words(allowed));
            assert!(wrong.is_empty(), "{}: `{module}` uses {wrong:?}", file.display());
        }
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn every_module_has_a_row_and_every_row_a_module() {
    let rows: BTreeSet<String> = MAY_USE.iter().map(|(module, _)| module.to_string()).collect();
    assert_eq!(modules(), rows, "modules of src/ on the left, rows of MAY_USE on the right");
    assert_eq!(rows.len(), MAY_USE.len(), "a module has two rows");
}

#[test]
fn no_row_of_the_table_allows_a_later_one() {
    for (row, (module, allowed)) in MAY_USE.iter().enumerate() {
        for used in words(allowed) {
            let before = MAY_USE[..row].iter().any(|(earlier, _)| *earlier == used);
            assert!(before, "`{module}` may use `{used}`, which is not before it");
        }
    }
}

#[test]
fn every_file_is_a_module_of_its_parent() {
    let files: Vec<_> = modules_of(sources("src")).collect();
    let declared: BTreeSet<Module> =
        sources("src").iter().flat_map(|file| declared_in(&read(file), &home(file))).collect();
    for (file, home) in files {
        assert!(declared.contains(&home), "{}: no `mod` declares it", file.display());
    }
}

#[test]
fn files_do_not_use_each_other_in_circles() {
    let files = modules_of(sources("src"));
    let crate_ = Sources::new(files.map(|(file, home)| (home, tokens(&read(&file)))));
    let (uses, circles) = (crate_.uses(), crate_.circles());
    let arrows = circles
        .iter()
        .flat_map(|circle| circle.iter().flat_map(|from| uses[from].intersection(circle).map(move |to| [from, *to])));
    let shown: Vec<String> = arrows.map(|[a, b]| a.join("/") + " → " + &b.join("/")).collect();
    assert!(shown.is_empty(), "circles: {shown:?}");
}

#[test]
fn files_are_short() {
    for file in sources("src") {
        let lines = lines_before_tests(&read(&file));
        assert!(lines <= MAX_LINES, "{}: {lines} lines before its tests", file.display());
    }
}

#[test]
fn the_commands_hold_no_tensor() {
    for file in files_of("cli") {
        let computes = has_word(&outside_tests(tokens(&read(&file))), "burn");
        assert!(!computes, "{}: uses burn", file.display());
    }
}

#[test]
fn unsafe_code_is_in_kernel_only() {
    for file in sources("src") {
        let allowed = module_of(&file) == "kernel";
        assert!(allowed || !has_word(&tokens(&read(&file)), "unsafe"), "{}: unsafe code", file.display());
    }
}

#[test]
fn every_source_file_opens_with_its_documentation() {
    for folder in ["src", "experiments", "benches", "tests"] {
        for file in sources(folder) {
            assert!(says_what_it_is(&read(&file)), "{}: does not open with `//!`", file.display());
        }
    }
}

#[test]
fn experiments_are_short_without_tensors_and_drawing() {
    for file in sources("experiments") {
        let faults = faults_of_an_experiment(&read(&file));
        assert!(faults.is_empty(), "{}: {faults:?}", file.display());
    }
}

#[test]
fn only_the_modules_of_files_name_hugging_face_files() {
    for file in sources("src") {
        let wrong = foreign_file_names(&read(&file), &module_of(&file));
        assert!(wrong.is_empty(), "{}: names {wrong:?}", file.display());
    }
}

#[test]
fn only_cli_reads_the_command_line_and_the_environment() {
    for file in sources("src") {
        let module = module_of(&file);
        let wrong = surroundings(&read(&file));
        assert!(module == "cli" || module == "main" || wrong.is_empty(), "{}: {wrong:?}", file.display());
    }
}

#[test]
fn every_golden_gguf_file_is_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = fs::read_to_string(folder.join("README.md")).unwrap();
    let explained = |name: &str| text.contains(&format!("`{name}`"));
    for entry in fs::read_dir(folder.join("gguf")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(explained(&name) || name.starts_with("__"), "tests/golden/README.md says nothing of gguf/{name}");
    }
    assert!(!explained("no_such_file.gguf"));
}
