//! The options of a command by any of their names.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use super::trl::{self, Reading};

/// Options of which a run has one: its length, its verbosity, how it resumes.
const EXCLUSIVE: [&[&str]; 4] = [
    &["max_steps", "max_tokens", "max_flops"],
    &["verbose", "quiet"],
    &["resume", "resume_from_checkpoint"],
    &["warmup_steps", "warmup_ratio"],
];

/// Options as words for the parser.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// `--name=value`, or words of a command line as they are.
    pub options: Vec<OsString>,
    /// The base, if TRL's key names one.
    pub base: Option<OsString>,
    /// TRL's keys that change nothing.
    pub unused: Vec<String>,
}

/// The options of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options<'a> {
    /// The program, whose options all commands have.
    pub program: &'a Command,
    /// The command.
    pub command: &'a Command,
    /// Whether it takes TRL's keys.
    pub is_training: bool,
}

impl<'a> Options<'a> {
    /// The option of a name or a letter. `config` is none: it names the file itself.
    pub(super) fn find(&self, name: &str) -> Option<&'a Arg> {
        let has_name = |arg: &&Arg| {
            arg.get_long() == Some(name)
                || arg.get_all_aliases().is_some_and(|names| names.contains(&name))
                || arg.get_short().is_some_and(|letter| name.chars().eq([letter]))
        };
        let all = self.command.get_arguments().chain(self.program.get_arguments());
        all.filter(|arg| arg.get_long() != Some("config")).find(has_name)
    }

    /// The long names.
    pub(super) fn names(self) -> impl Iterator<Item = &'a str> {
        self.command.get_arguments().chain(self.program.get_arguments()).filter_map(Arg::get_long)
    }

    /// How a key of TRL is read, if the command takes them.
    pub(super) fn trl(&self, name: &str) -> Option<Reading> {
        if self.is_training { trl::reading(name) } else { None }
    }

    /// Whether a command line has this option, or one that excludes it.
    pub(super) fn is_given(&self, arg: &Arg, words: &[OsString]) -> bool {
        let id = arg.get_id().as_str();
        let stands_for_it =
            |given: &str| given == id || EXCLUSIVE.iter().any(|group| group.contains(&given) && group.contains(&id));
        let mut given = words.iter().filter_map(|word| self.find(option_name(word)?));
        given.any(|given| stands_for_it(given.get_id().as_str()))
    }
}

/// The name in `--name` or `--name=value`, or the letter of `-o`.
pub(super) fn option_name(word: &OsStr) -> Option<&str> {
    let word = word.to_str()?;
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    Some(name.split_once('=').map_or(name, |(name, _)| name))
}
