//! Options as TRL's users write them: `--max_length`, and files of options by `--config`.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, Command};
use serde_json::{Map, Value};

use crate::cli::failure::Failure;
use crate::output::disk::disk;
use crate::output::read::read_bounded;

/// The commands that take such options.
const COMMANDS: [&str; 6] = ["tokenize", "train", "sft", "dpo", "eval", "perplexity"];

/// Options that take `true` or `false` as a value; others of that kind are flags.
const VALUED: [&str; 2] = ["completion-only-loss", "fewshot-as-multiturn"];

/// Other names of options. Of each pair, the command line may have one and the file the other.
const ALIASES: [(&str, &str); 10] = [
    ("lr", "learning-rate"),
    ("output-dir", "out"),
    ("o", "out"),
    ("v", "verbose"),
    ("q", "quiet"),
    ("keep", "save-total-limit"),
    ("seq-length", "max-length"),
    ("dataset-name", "data"),
    ("micro-batch-size", "per-device-train-batch-size"),
    ("resume-from-checkpoint", "resume"),
];

/// Options of which a run has one: its length, its verbosity.
const EXCLUSIVE: [&[&str]; 2] = [&["max-steps", "max-tokens", "max-flops"], &["verbose", "quiet"]];

/// Cap on the size of a file of options.
const LIMIT_BYTES: u64 = 1 << 20;

/// Words of a command line with dashes in the names of options, and with the options of `--config FILE` that the command line
/// does not give itself.
///
/// # Errors
/// If the file cannot be read, is not a mapping, or has a key that is no option of the command.
pub fn expanded(words: impl IntoIterator<Item = OsString>, program: &Command) -> Result<Vec<OsString>, Failure> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let word = words.iter().skip(1).find(|word| !word.to_string_lossy().starts_with('-'));
    let Some(name) = word.and_then(|word| COMMANDS.into_iter().find(|command| word == command)) else {
        return Ok(words);
    };
    let command = program.find_subcommand(name).expect("the program has these commands");
    words.iter_mut().for_each(|word| *word = dashed(word));
    let Some(at) = words.iter().position(|word| option_name(word) == Some("config")) else { return Ok(words) };
    let word = words.remove(at).to_string_lossy().into_owned();
    let file = match word.split_once('=') {
        Some((_, file)) => file.to_owned(),
        None if at < words.len() => words.remove(at).to_string_lossy().into_owned(),
        None => return Err(Failure::usage("--config needs a file")),
    };
    let given = words.clone();
    for (key, value) in read(Path::new(&file))? {
        let key = key.replace('_', "-");
        if !is_option(command, &key) && !is_option(program, &key) {
            return Err(Failure::invalid(format_args!("{file:?}: {key:?} is no option of {name}")));
        }
        let is_given = |word: &OsString| option_name(word).is_some_and(|given| same(given, &key));
        if !given.iter().any(is_given) {
            words.extend(option(&key, &value).map_err(|reason| Failure::invalid(format_args!("{file:?}: {reason}")))?);
        }
    }
    Ok(words)
}

fn read(file: &Path) -> Result<Map<String, Value>, Failure> {
    let text = read_bounded(&*disk(), file, LIMIT_BYTES)?;
    let text = String::from_utf8_lossy(&text);
    let options: Result<Map<String, Value>, _> = serde_saphyr::from_str(&text);
    options.map_err(|error| Failure::invalid(format_args!("{file:?}: {error}; expected a mapping of options")))
}

/// Whether a command, or the program for all commands, has an option of this name.
fn is_option(command: &Command, key: &str) -> bool {
    let known = |arg: &Arg| arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&key));
    let is_alias = |arg: &Arg| arg.get_all_aliases().is_some_and(|names| names.contains(&key));
    command.get_arguments().any(|arg| known(arg) || is_alias(arg)) && key != "config"
}

/// `--max_length=1` as `--max-length=1`; other words as they are.
fn dashed(word: &OsString) -> OsString {
    match word.to_str().filter(|word| word.starts_with("--")) {
        None => word.clone(),
        Some(word) => match word.split_once('=') {
            None => word.replace('_', "-").into(),
            Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
        },
    }
}

/// Whether an option of the command line stands for one of the file.
fn same(given: &str, key: &str) -> bool {
    let canonical = |name| ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, option)| *option);
    let (given, key) = (canonical(given), canonical(key));
    given == key || EXCLUSIVE.iter().any(|group| group.contains(&given) && group.contains(&key))
}

/// The name in `--name` or `--name=value`, or the letter of `-o`.
fn option_name(word: &OsString) -> Option<&str> {
    let word = word.to_str()?;
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    Some(name.split_once('=').map_or(name, |(name, _)| name))
}

/// An entry of a file as words: `key: true` as `--key`, a list as an option for each value.
fn option(key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let word = |value: &dyn std::fmt::Display| OsString::from(format!("--{key}={value}"));
    match value {
        Value::Bool(flag) if VALUED.contains(&key) => Ok(vec![word(flag)]),
        Value::Null | Value::Bool(false) => Ok(Vec::new()),
        Value::Bool(true) => Ok(vec![format!("--{key}").into()]),
        Value::Number(number) => Ok(vec![word(number)]),
        Value::String(text) => Ok(vec![word(text)]),
        Value::Array(values) => {
            let words = values.iter().map(|value| option(key, value)).collect::<Result<Vec<_>, _>>()?;
            Ok(words.into_iter().flatten().collect())
        }
        Value::Object(_) => Err(format!("{key:?} is a mapping, expected a value or a list of values")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded_words(words: &[&str]) -> Result<Vec<String>, Failure> {
        let global = ["verbose", "quiet"].map(|name| Arg::new(name).long(name).global(true));
        let program = Command::new("deepwide").args(global).subcommands(COMMANDS.map(|name| {
            let option = |name: &'static str| Arg::new(name).long(name);
            let names = ["max-length", "learning-rate", "resume", "json", "data", "completion-only-loss"];
            Command::new(name).args(names.map(option))
        }));
        let words = expanded(words.iter().map(OsString::from), &program)?;
        Ok(words.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn names_of_options_may_have_underscores_and_values_keep_theirs() {
        let words = expanded_words(&["deepwide", "sft", "a_b", "--max_length", "8", "--out_put=c_d"]).unwrap();
        assert_eq!(words, ["deepwide", "sft", "a_b", "--max-length", "8", "--out-put=c_d"]);
        let grow = ["deepwide", "grow", "--a_b"];
        assert_eq!(expanded_words(&grow).unwrap(), grow);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("options.yaml");
        std::fs::write(&file, "max_length: 64\nlearning_rate: 2e-5\nresume: true\njson: false\ndata: [a, b]\n")
            .unwrap();
        let file = file.to_str().unwrap();
        let expected =
            ["deepwide", "train", "--max-length=8", "--learning-rate=2e-5", "--resume", "--data=a", "--data=b"];
        for words in [&["--config", file][..], &[&format!("--config={file}")]] {
            let words = [&["deepwide", "train", "--max_length=8"], words].concat();
            let mut found = expanded_words(&words).unwrap();
            found.iter_mut().for_each(|word| *word = word.replace("0.00002", "2e-5"));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_file_may_set_the_verbosity_unless_the_command_line_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("options.yaml");
        std::fs::write(&file, "verbose: true\n").unwrap();
        let of = |before: &[&str], after: &[&str]| {
            let words = [&["deepwide"], before, &["sft", "--config", file.to_str().unwrap()], after].concat();
            expanded_words(&words).unwrap()
        };
        assert_eq!(of(&[], &[]), ["deepwide", "sft", "--verbose"]);
        assert_eq!(of(&["-v"], &[]), ["deepwide", "-v", "sft"]);
        assert_eq!(of(&[], &["--quiet"]), ["deepwide", "sft", "--quiet"]);
        assert_eq!(of(&["-q"], &[]), ["deepwide", "-q", "sft"]);
    }

    #[test]
    fn a_file_that_is_no_mapping_of_options_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("options.yaml");
        for (text, code) in [("- a", 3), ("data: {b: 1}", 3), ("learning_rat: 1", 3), ("config: a", 3)] {
            std::fs::write(&file, text).unwrap();
            let error = expanded_words(&["deepwide", "dpo", "--config", file.to_str().unwrap()]).unwrap_err();
            assert!(error.code() == code && error.to_string().contains("options.yaml"), "{error}");
        }
        assert_eq!(expanded_words(&["deepwide", "dpo", "--config", "no/such.yaml"]).unwrap_err().code(), 4);
        assert_eq!(expanded_words(&["deepwide", "dpo", "--config"]).unwrap_err().code(), 2);
    }
}
