//! Options as TRL's users write them: `--max_length`, `--bf16 true`, TRL's own names, and files of options by `--config`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command};

use super::config_file::ConfigFile;
use super::options::{Options, Words, option_name};
use super::trl::{self, BASE, Reading};
use crate::cli::console;
use crate::cli::failure::Failure;

/// The commands that take `--config`.
const COMMANDS: [&str; 6] = ["tokenize", "train", "sft", "dpo", "eval", "perplexity"];
/// Those of them that take TRL's keys.
const TRAINING: [&str; 3] = ["train", "sft", "dpo"];

/// Words of a command line with dashes in the names of options, flags without values, and TRL's keys as the options that they
/// stand for; and with the options of `--config FILE` that the command line does not give itself.
///
/// # Errors
/// If the file cannot be read, is not a mapping, or has keys or values that the command does not take.
pub fn expanded(words: impl IntoIterator<Item = OsString>, program: &Command) -> Result<Vec<OsString>, Failure> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let is_word = |word: &OsString| !word.to_string_lossy().starts_with('-');
    let Some(at) = words.iter().skip(1).position(is_word).map(|at| at + 1) else { return Ok(words) };
    let Some(name) = COMMANDS.into_iter().find(|command| words[at] == *command) else { return Ok(words) };
    let command = program.find_subcommand(name).expect("the program has these commands");
    let options = Options { program, command, is_training: TRAINING.contains(&name) };
    words.iter_mut().for_each(|word| *word = dashed(word));
    let file = take_config(&mut words)?;
    let Words { options: mut words, base, mut unused } = spelled(words, options)?;
    if let Some(base) = base {
        words.insert(at + 1, base);
    }
    if let Some(file) = file {
        let file = ConfigFile::read(Path::new(&file))?;
        let given = words.clone();
        let Words { options: more, base, unused: more_unused } = file.words(options, &given)?;
        words.extend(more);
        unused.extend(more_unused);
        if let Some(base) = base.filter(|_| lacks_base(program, &words)) {
            words.insert(at + 1, base);
        }
        let blamed = parse(program, &words).err().and_then(|error| file.blame(&error, options, &given));
        if let Some(failure) = blamed {
            return Err(failure);
        }
    }
    tell_unused(&unused, program, &words);
    Ok(words)
}

/// Takes `--config FILE` out of the words.
fn take_config(words: &mut Vec<OsString>) -> Result<Option<String>, Failure> {
    let Some(at) = words.iter().position(|word| option_name(word) == Some("config")) else { return Ok(None) };
    let word = words.remove(at).to_string_lossy().into_owned();
    match word.split_once('=') {
        Some((_, file)) => Ok(Some(file.to_owned())),
        None if at < words.len() => Ok(Some(words.remove(at).to_string_lossy().into_owned())),
        None => Err(Failure::usage("--config needs a file")),
    }
}

/// A command line in the spelling of this crate: flags without values, and TRL's options as those that they stand for.
fn spelled(words: Vec<OsString>, options: Options<'_>) -> Result<Words, Failure> {
    let mut found = Words::default();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default().to_owned();
        let Some(text) = text.strip_prefix("--") else {
            found.options.push(word);
            continue;
        };
        let (name, attached) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let reading = if options.find(name).is_some() { None } else { options.trl(name) };
        let option = match reading {
            Some(Reading::Renamed(option)) => option,
            _ => name,
        };
        let is_own_flag = options.find(option).is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
        let is_flag = is_own_flag || reading.is_some_and(Reading::is_flag);
        let is_value = |next: &OsString| match is_flag {
            true => truth(next).is_some(),
            false => reading.is_some() && !is_option(next),
        };
        let value = attached.map(OsString::from).or_else(|| words.next_if(is_value));
        match reading {
            _ if is_own_flag => match value.as_deref().map(truth) {
                None | Some(Some(true)) => found.options.push(format!("--{option}").into()),
                Some(Some(false)) => {}
                // The parser refuses it.
                Some(None) => found.options.push(word),
            },
            None => found.options.push(word),
            Some(reading) => read_trl(reading, name, value, &mut found)?,
        }
    }
    Ok(found)
}

/// Adds an option of TRL and its value.
fn read_trl(reading: Reading, name: &str, value: Option<OsString>, found: &mut Words) -> Result<(), Failure> {
    match (reading, value) {
        (Reading::Renamed(BASE), value) => found.base = value,
        (Reading::Renamed(option), None) => found.options.push(format!("--{option}").into()),
        (Reading::Renamed(option), Some(value)) => {
            let mut word = OsString::from(format!("--{option}="));
            word.push(value);
            found.options.push(word);
        }
        (Reading::NoEffect { .. }, _) => found.unused.push(format!("--{name}")),
        (Reading::Only(accepted), value) => {
            let value = value.map_or_else(|| "true".to_owned(), |value| value.to_string_lossy().into_owned());
            trl::check(accepted, &value)
                .map_err(|reason| Failure::usage(reason).for_option(format_args!("--{name}")))?;
            found.unused.push(format!("--{name}"));
        }
    }
    Ok(())
}

/// Whether a word is an option: it begins with a dash, and is not a negative number.
fn is_option(word: &OsStr) -> bool {
    let word = word.to_string_lossy();
    word.starts_with('-') && word.parse::<f64>().is_err()
}

/// The value of a flag, as argparse reads it for transformers.
fn truth(word: &OsStr) -> Option<bool> {
    match word.to_str()?.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn parse(program: &Command, words: &[OsString]) -> Result<clap::ArgMatches, clap::Error> {
    program.clone().try_get_matches_from(words)
}

/// Whether the only argument that is missing is the base.
fn lacks_base(program: &Command, words: &[OsString]) -> bool {
    let Err(error) = parse(program, words) else { return false };
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else { return false };
    error.kind() == ErrorKind::MissingRequiredArgument && missing.iter().any(|name| name == "<BASE>")
}

/// Names the keys that change nothing, unless the command is to be quiet.
fn tell_unused(unused: &[String], program: &Command, words: &[OsString]) {
    let is_quiet =
        |matches: clap::ArgMatches| matches.try_get_one::<bool>("quiet").is_ok_and(|flag| flag == Some(&true));
    if !unused.is_empty() && !parse(program, words).is_ok_and(is_quiet) {
        console::tell(format_args!("note: no effect here: {}", unused.join(", ")));
    }
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

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn expanded_words(words: &[&str]) -> Result<Vec<String>, Failure> {
        let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let global = [("verbose", 'v'), ("quiet", 'q')].map(|(name, letter)| flag(name).short(letter).global(true));
        let program = Command::new("deepwide").args(global).subcommands(COMMANDS.map(|name| {
            let number = |name| Arg::new(name).long(name).value_parser(clap::value_parser!(f64));
            let options = [
                Arg::new("base").value_name("BASE").required(true),
                number("max-length"),
                number("learning-rate").alias("lr"),
                flag("resume"),
                flag("json"),
                flag("force").short('y'),
                Arg::new("out").long("out").short('o'),
                Arg::new("data").long("data").num_args(1..).action(ArgAction::Append),
                Arg::new("completion-only-loss").long("completion-only-loss"),
            ];
            Command::new(name).args(options)
        }));
        let words = expanded(words.iter().map(OsString::from), &program)?;
        Ok(words.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    /// Words that `sft` and a file come to, without the first two.
    fn with_file(text: &str, words: &[&str]) -> Result<Vec<String>, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("options.yaml");
        std::fs::write(&file, text).unwrap();
        let words = [&["deepwide", "sft", "--config", file.to_str().unwrap()], words].concat();
        Ok(expanded_words(&words)?.split_off(2))
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
    fn flags_take_values_as_in_transformers() {
        let of = |words: &[&str]| expanded_words(&[&["deepwide", "sft"], words].concat()).unwrap().split_off(2);
        assert_eq!(of(&["--json", "true", "a"]), ["--json", "a"]);
        assert_eq!(of(&["--json", "False", "--resume=true"]), ["--resume"]);
        assert_eq!(
            of(&["--json", "base", "--completion_only_loss", "false"]),
            ["--json", "base", "--completion-only-loss", "false"]
        );
    }

    #[test]
    fn options_of_trl_are_read_on_the_command_line() {
        let of =
            |words: &[&str]| Ok::<_, Failure>(expanded_words(&[&["deepwide", "sft"], words].concat())?.split_off(2));
        let words = [
            "--data",
            "d",
            "--model_name_or_path",
            "m",
            "--max_seq_length=8",
            "--report_to",
            "none",
            "--run_name",
            "x",
        ];
        assert_eq!(of(&words).unwrap(), ["m", "--data", "d", "--max-length=8"]);
        let refused = of(&["--push_to_hub", "--json"]).unwrap_err();
        assert!(refused.code() == 2 && refused.to_string().contains("--push-to-hub"), "{refused}");
        assert_eq!(
            expanded_words(&["deepwide", "eval", "--report-to", "x"]).unwrap().len(),
            4,
            "the parser refuses it"
        );
    }

    #[test]
    fn flags_of_trl_without_a_value_leave_the_next_word() {
        let of = |words: &[&str]| expanded_words(&[&["deepwide", "sft"], words].concat()).unwrap().split_off(2);
        assert_eq!(of(&["--trust_remote_code", "-y"]), ["-y"]);
        assert_eq!(of(&["--disable_tqdm", "-o", "out"]), ["-o", "out"]);
        assert_eq!(of(&["--trust_remote_code", "./base"]), ["./base"]);
        assert_eq!(of(&["--trust_remote_code", "True", "./base"]), ["./base"]);
        assert_eq!(of(&["--run_name", "-y"]), ["-y"]);
        assert_eq!(of(&["--local_rank", "-1", "--push_to_hub", "FALSE", "base"]), ["base"]);
        assert_eq!(of(&["--overwrite_output_dir", "true", "base"]), ["--force", "base"]);
        assert_eq!(of(&["--overwrite_output_dir", "false", "base"]), ["base"]);
    }

    #[test]
    fn a_config_of_trl_is_read_by_its_own_keys() {
        let text = "model_name_or_path: m\ndata: null\nmax_seq_length: 8\nbf16_full_eval: false\n\
                    report_to: [tensorboard]\nattn_implementation: sdpa\ncompletion_only_loss: true\n";
        assert_eq!(with_file(text, &[]).unwrap(), ["m", "--max-length=8", "--completion-only-loss=true"]);
        assert_eq!(
            with_file(text, &["n", "--max_length=4"]).unwrap(),
            ["n", "--max-length=4", "--completion-only-loss=true"]
        );
    }

    #[test]
    fn all_keys_that_are_refused_are_listed_with_their_lines() {
        let said =
            with_file("lr: 1\nlearning_rat: 2e-5\n\nfp16: true\nfoo_bar_baz: 1\nfsdp: full_shard\n", &[]).unwrap_err();
        assert_eq!(said.code(), 3);
        let said = said.to_string();
        for part in [
            "4 keys",
            "line 2: learning_rat: unknown option of sft; did you mean learning_rate?",
            "line 4: fp16: found \"true\", expected false",
            "line 5: foo_bar_baz: unknown option of sft",
            "line 6: fsdp: found \"full_shard\"",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }

    #[test]
    fn a_value_that_is_refused_is_named_with_its_line() {
        for (text, line, key) in
            [("data: a\nmax_length: long\n", 2, "max_length"), ("\nlr: [1, 2]", 2, "lr"), ("json: 3", 1, "json")]
        {
            let said = with_file(text, &["base"]).unwrap_err();
            assert!(said.code() == 3 && said.to_string().contains(&format!("line {line}: {key}: ")), "{said}");
        }
        // The parser says what is wrong with the command line.
        assert_eq!(with_file("json: true", &["base", "--max-length", "long"]).unwrap().len(), 4);
    }

    #[test]
    fn a_file_that_is_not_a_mapping_of_options_is_refused_by_name() {
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
