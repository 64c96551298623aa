//! Options of llama-bench that change nothing here: accepted with a note if the result is what was asked for, else refused.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::super::failure::Failure;

/// An option of llama-bench.
struct PeerOption {
    short: &'static str,
    long: &'static str,
    /// Values that are taken; any if empty.
    values: &'static [&'static str],
    /// What holds here instead.
    here: &'static str,
}

const fn ignored(short: &'static str, long: &'static str, here: &'static str) -> PeerOption {
    PeerOption { short, long, values: &[], here }
}

const fn only(
    short: &'static str,
    long: &'static str,
    values: &'static [&'static str],
    here: &'static str,
) -> PeerOption {
    PeerOption { short, long, values, here }
}

const ONE_PASS: &str = "a prompt is one pass; for sequences at once: --sequences (-npl)";
const DEVICE: &str = "--device says where to compute";
const IN_MEMORY: &str = "weights are read into memory before the clock starts";
const SYSTEM: &str = "threads are placed by the system";
const CACHE: &str = "keys and values are in float32, and on libtorch in bfloat16 under --dtype bfloat16";
const HUB: &str = "give the model as org/name or org/name@revision";

const OPTIONS: [PeerOption; 28] = [
    ignored("-b", "batch-size", ONE_PASS),
    ignored("-ub", "ubatch-size", ONE_PASS),
    ignored("-fa", "flash-attn", "attention is always fused"),
    only("-ctk", "cache-type-k", &["f32"], CACHE),
    only("-ctv", "cache-type-v", &["f32"], CACHE),
    ignored("-ngl", "n-gpu-layers", DEVICE),
    ignored("-ncmoe", "n-cpu-moe", DEVICE),
    ignored("-sm", "split-mode", DEVICE),
    ignored("-mg", "main-gpu", DEVICE),
    ignored("-ts", "tensor-split", DEVICE),
    ignored("-ot", "override-tensor", DEVICE),
    ignored("-nkvo", "no-kv-offload", DEVICE),
    ignored("-nopo", "no-op-offload", DEVICE),
    ignored("", "no-host", DEVICE),
    ignored("-fitt", "fit-target", DEVICE),
    ignored("-fitc", "fit-ctx", DEVICE),
    ignored("-mmp", "mmap", IN_MEMORY),
    ignored("-dio", "direct-io", IN_MEMORY),
    ignored("", "numa", SYSTEM),
    ignored("", "prio", SYSTEM),
    ignored("-C", "cpu-mask", SYSTEM),
    ignored("", "cpu-strict", SYSTEM),
    ignored("", "poll", SYSTEM),
    only("-embd", "embeddings", &["0"], "the head is always computed"),
    only("-oe", "output-err", &["none"], "results go to stdout"),
    only("-hf", "hf-repo", &["none"], HUB),
    only("-hff", "hf-file", &["none"], HUB),
    only("-hft", "hf-token", &["none"], "the token is read from HF_TOKEN"),
];

/// Short options of several letters that mean something here.
const OURS: [(&str, &str); 4] = [("-pg", "--pg"), ("-npl", "--sequences"), ("-dev", "--device"), ("-hfr", "--hf-repo")];

/// The options of llama-bench that were given, with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerArgs(Vec<(String, String)>);

impl PeerArgs {
    /// What is said of each on stderr.
    ///
    /// # Errors
    /// If a value asks for what cannot be measured here.
    pub(super) fn notes(&self) -> Result<Vec<String>, Failure> {
        let note = |(long, value): &(String, String)| {
            let option = OPTIONS.iter().find(|option| option.long == long).expect("an option of the table");
            match option.values {
                values if values.contains(&value.as_str()) => Ok(None),
                [] => Ok(Some(format!("--{long} {value} has no effect: {}", option.here))),
                _ => Err(Failure::usage(option.here).for_option(format_args!("--{long} {value}"))),
            }
        };
        self.0.iter().filter_map(|given| note(given).transpose()).collect()
    }
}

impl FromArgMatches for PeerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = OPTIONS.iter().filter_map(|option| {
            let values: Vec<&str> = matches.get_many::<String>(option.long)?.map(String::as_str).collect();
            Some((option.long.to_owned(), values.join(",")))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for PeerArgs {
    fn augment_args(command: Command) -> Command {
        OPTIONS.iter().fold(command, |command, option| {
            let short = option.short.strip_prefix('-').and_then(|short| short.parse::<char>().ok());
            let names = if option.short.len() > 2 { format!(" [also {}]", option.short) } else { String::new() };
            let arg = Arg::new(option.long).long(option.long).short(short).value_name("X");
            let arg = arg
                .action(ArgAction::Append)
                .allow_hyphen_values(true)
                .help(option.here[..1].to_uppercase() + &option.here[1..] + &names);
            command.arg(arg.help_heading("Options of llama-bench that change nothing"))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The words of a command line: behind `bench`, short options of several letters become the long ones that the parser takes.
pub fn spelled(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut is_bench = false;
    let long = |word: &str| {
        let ours = OURS.iter().find(|(short, _)| *short == word).map(|(_, long)| (*long).to_owned());
        let is_peers = |option: &&PeerOption| option.short == word && word.len() > 2;
        ours.or_else(|| OPTIONS.iter().find(is_peers).map(|option| format!("--{}", option.long)))
    };
    let spelled = |word: OsString| {
        is_bench |= word == "bench";
        let replaced = word.to_str().filter(|_| is_bench).and_then(long);
        replaced.map_or(word, OsString::from)
    };
    words.into_iter().map(spelled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bench_has_short_options_of_several_letters() {
        let spelled = |words: &[&str]| spelled(words.iter().map(OsString::from));
        assert_eq!(spelled(&["deepwide", "bench", "-pg", "-b"]), ["deepwide", "bench", "--pg", "-b"]);
        assert_eq!(
            spelled(&["deepwide", "bench", "-ngl", "-npl"]),
            ["deepwide", "bench", "--n-gpu-layers", "--sequences"]
        );
        assert_eq!(spelled(&["deepwide", "grow", "-pg"]), ["deepwide", "grow", "-pg"]);
    }

    #[test]
    fn an_option_that_changes_nothing_is_noted_and_one_that_would_is_refused() {
        let given = |long: &str, value: &str| PeerArgs(vec![(long.to_owned(), value.to_owned())]).notes();
        assert!(given("n-gpu-layers", "99").unwrap()[0].starts_with("--n-gpu-layers 99 has no effect: --device"));
        assert!(given("batch-size", "2048").unwrap()[0].contains("--sequences"));
        assert_eq!(given("cache-type-k", "f32"), Ok(Vec::new()));
        let refused = given("cache-type-k", "q8_0").unwrap_err();
        assert_eq!((refused.code(), refused.to_string()), (2, format!("--cache-type-k q8_0: {CACHE}")));
    }
}
