//! `deepwide grow`, `inspect` and `verify`, run as a user runs them.

mod command;
mod copied;
pub mod faults;
mod kills;
mod memory;
mod merges;
mod records;
mod routers;
mod templates;
mod warnings;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deepwide::config::DecoderConfig;
use deepwide::formats::write_hf_directory;
use deepwide::tokenizer::Tokenizer;
use deepwide::weights::{Dtype, MemoryWeights};

/// The program.
pub fn deepwide() -> Command {
    offline(Command::new(env!("CARGO_BIN_EXE_deepwide")))
}

/// The program with the default action for signals, which the tests may inherit as ignored, as under nohup.
pub fn deepwide_for_signals() -> Command {
    if !cfg!(target_os = "linux") {
        return deepwide();
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", env!("CARGO_BIN_EXE_deepwide")]);
    offline(command)
}

fn offline(mut command: Command) -> Command {
    command.env_remove("HF_TOKEN").env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs it with these words.
pub fn run(words: &[&str]) -> Output {
    deepwide().args(words).output().unwrap()
}

/// What a successful run printed on stdout.
pub fn printed(words: &[&str]) -> String {
    let output = run(words);
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    assert!(output.status.success(), "{words:?}: {stderr}{stdout}");
    stdout.into_owned()
}

/// A Llama of two layers with a tokenizer, bfloat16.
pub fn tiny_base(path: &Path) -> PathBuf {
    let config = DecoderConfig::pico()
        .with(|fields| {
            (fields.num_hidden_layers, fields.hidden_size, fields.intermediate_size) = (2, 32, 48);
            (fields.num_attention_heads, fields.num_key_value_heads, fields.head_dim) = (4, 2, 8);
            fields.vocab_size = 64;
        })
        .unwrap();
    write_hf_directory(&MemoryWeights::untrained(config, 0.2, 11), None, Some(Dtype::Bfloat16), path).unwrap();
    let words: Vec<String> =
        ["<bos>", "<eos>", "<unk>"].into_iter().map(String::from).chain((0..61).map(|i| format!("w{i}"))).collect();
    Tokenizer::word_level(&words).save(path).unwrap();
    path.to_owned()
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
