//! The rules: functions of a file's text that return what breaks them.

use std::collections::BTreeSet;

use super::code::{Token, inline_modules, outside_tests, paths, tokens};

/// The modules that may name a file of a Hugging Face directory in a path.
const MAY_NAME: [(&str, &[&str]); 6] = [
    ("model.safetensors", &["formats", "hub"]),
    ("config.json", &["formats", "hub", "tokenizer", "cli"]),
    ("generation_config.json", &["formats", "hub", "tokenizer"]),
    ("tokenizer.json", &["formats", "hub", "tokenizer"]),
    ("tokenizer_config.json", &["formats", "hub", "tokenizer"]),
    ("tokenizer.model", &["formats", "hub", "tokenizer"]),
];

/// The longest experiment, in lines.
const MAX_EXPERIMENT_LINES: usize = 80;

/// The modules of the crate outside `allowed` that the code of a file at `home` (`["weights", "hf"]`) uses, and whatever it
/// takes from the root of the crate instead of the module that owns it.
pub fn forbidden_uses(text: &str, home: &[String], allowed: &[&str]) -> BTreeSet<String> {
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

/// The modules that a file at `home` declares as files of their own: `mod x;`.
pub fn declared_in(text: &str, home: &[String]) -> Vec<Vec<String>> {
    let parent = if home == ["lib"] { &[] } else { home };
    let words = tokens(text);
    let declared = words.windows(3).filter_map(|three| match three {
        [Token::Word(keyword), Token::Word(name), Token::Mark(';')] if keyword == "mod" => Some(name.clone()),
        _ => None,
    });
    declared.map(|name| [parent, &[name]].concat()).collect()
}

/// The rules that an experiment breaks.
pub fn faults_of_an_experiment(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let lines = text.lines().count();
    let long = (lines > MAX_EXPERIMENT_LINES).then(|| format!("{lines} lines"));
    let words = tokens.iter().filter_map(|token| match token {
        Token::Word(word) if word.contains("Tensor") || word == "plotters" => Some(word.clone()),
        _ => None,
    });
    long.into_iter().chain(words).collect()
}

/// Files of [`MAY_NAME`] that a string of `text` names although `module` must not.
pub fn foreign_file_names(text: &str, module: &str) -> Vec<&'static str> {
    let tokens = outside_tests(tokens(text));
    let named = |name: &str| tokens.iter().any(|token| matches!(token, Token::Text(text) if names_file(text, name)));
    let foreign = MAY_NAME.iter().filter(|(name, owners)| !owners.contains(&module) && named(name));
    foreign.map(|(name, _)| *name).collect()
}

/// Whether `text` is a path with `name` as a file name of its own: `tokenizer_config.json` does not name `config.json`,
/// nor does a message with spaces.
fn names_file(text: &str, name: &str) -> bool {
    let is_path = !text.contains(' ');
    is_path && text.match_indices(name).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The lines of a file before its module of tests.
pub fn lines_before_tests(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

/// The paths in `text` that lead to the command line or the environment.
pub fn surroundings(text: &str) -> Vec<String> {
    let paths = paths(&outside_tests(tokens(text))).into_iter();
    let is_environment =
        |p: &[String]| p.starts_with(&["std".into(), "env".into()]) && p.get(2).is_none_or(|name| name != "consts");
    paths.filter(|p| p[0] == "clap" || is_environment(p)).map(|p| p.join("::")).collect()
}

/// Whether a source file opens with its documentation.
pub fn says_what_it_is(text: &str) -> bool {
    text.lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > "//! ".len())
}
