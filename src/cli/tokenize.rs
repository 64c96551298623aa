//! `tokenize`: files of data to token shards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::output::{self, short_count};
use super::progress::Bytes;
use super::values::byte_count;
use super::{console, hub, interrupt};
use crate::data::HeldOut;
use crate::data::shards::{HeldOutRecord, TokenizeOptions, Tokenized, tokenize};
use crate::data::source::data_files;
use crate::error::FileError;
use crate::formats::Checkpoint;
use crate::output::commit::{Destination, Existing, PartialDirectory, check_apart};
use crate::output::disk::{Disk, absolute, parent_of};
use crate::tokenizer::Tokenizer;

/// Tokenize text into shards that training streams from
///
/// DATA are files (.txt, .jsonl, .json, .csv, also with .gz or .zst, .parquet and .arrow), directories of them, and patterns such as
/// 'data/*.jsonl'. All cores are used, and memory does not depend on the size of the data. OUT is the directory to write; it
/// appears complete or not at all. docs/token-shards.md describes its files, which NumPy reads too.
#[derive(Debug, Clone, Args)]
#[command(override_usage = "deepwide tokenize [OPTIONS] --tokenizer <MODEL> <DATA>... <OUT>")]
pub struct TokenizeArgs {
    /// Files, directories or patterns of text; the last path is the directory to write
    // One argument: of two, an option between them would make the first the last.
    #[arg(required = true, value_name = "DATA")]
    pub paths: Vec<PathBuf>,
    /// The model to tokenize for
    ///
    /// A Hugging Face directory, a tokenizer.json, a .gguf file, or an id on the hub: org/name or org/name@revision, which is
    /// downloaded with its weights.
    #[arg(long, value_name = "MODEL")]
    pub tokenizer: String,
    /// Field of a row that holds its text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub text_field: String,
    /// Append no end-of-text token to documents
    #[arg(long)]
    pub no_eos: bool,
    /// Share of the documents to keep from training, such as 0.01
    ///
    /// Which ones depends on --seed and their text alone, so that more data does not move them.
    #[arg(long, value_name = "FRACTION", allow_negative_numbers = true, value_parser = fraction)]
    pub heldout: Option<f64>,
    /// Seed of --heldout
    #[arg(long, value_name = "N", default_value_t = 0, requires = "heldout")]
    pub seed: u64,
    /// Leave out up to N rows that break a rule: not valid JSON, no text in the field
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip_bad: u64,
    /// Largest file of tokens: 1000000000, 1GB, 500MB
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = byte_count)]
    pub shard_size: u64,
    /// Replace OUT if it is as deepwide wrote it
    #[arg(long, short = 'y')]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl TokenizeArgs {
    /// DATA and OUT.
    fn places(&self) -> Result<(&[PathBuf], &Path), Failure> {
        match self.paths.as_slice() {
            [data @ .., out] if !data.is_empty() => Ok((data, out)),
            paths => Err(Failure::usage(format_args!("found {paths:?} alone, expected DATA and OUT"))),
        }
    }
}

/// Tokenizes files of data.
///
/// # Errors
/// If an input cannot be read or breaks a rule, OUT exists, or the disk fails. OUT is then as it was before.
pub fn run(args: &TokenizeArgs) -> Result<(), Failure> {
    let disk = interrupt::disk();
    let (data, given_out) = args.places()?;
    let out = absolute(given_out)?;
    let existing = Existing::of(args.force, false);
    let bar = Bytes::new("comparing OUT with its receipt", None);
    let destination = Destination::check(&*disk, &out, existing, &mut |bytes| bar.add(bytes))?;
    drop(bar);
    let files = data_files(data)?;
    let mut total_bytes = 0;
    for file in &files {
        check_apart(&*disk, &out, file)?;
        total_bytes += disk.stat(file).map_err(FileError::io(file))?.size_bytes;
    }
    let (tokenizer, eos) = tokenizer(&disk, &args.tokenizer)?;
    if eos.is_none() && !args.no_eos {
        let model = &args.tokenizer;
        return Err(Failure::invalid(format_args!(
            "{model:?} names no end-of-text token, expected one (--no-eos omits it)"
        )));
    }
    let options = TokenizeOptions {
        text_field: args.text_field.clone(),
        eos: eos.filter(|_| !args.no_eos),
        shard_size_bytes: args.shard_size,
        heldout: args.heldout.map(|fraction| HeldOut { fraction, seed: args.seed }),
        skip_bad: args.skip_bad,
    };
    console::detail(format_args!("{} files, {}", files.len(), output::size(total_bytes)));
    interrupt::catch();
    let partial = PartialDirectory::at(disk.clone(), destination)?;
    for leftover in partial.leftovers() {
        console::tell(format_args!("note: removed {leftover:?}, which a run that was killed had left"));
    }
    let bar = Bytes::new("tokenizing", Some(total_bytes));
    let tokenized =
        console::timed("tokenized", || tokenize(&files, &tokenizer, &options, partial, &|bytes| bar.add(bytes)));
    drop(bar);
    let tokenized = tokenized.map_err(|error| match interrupt::caught() {
        Some(signal) => Failure::runtime(format_args!("stopped by signal {signal}: {out:?} is as it was before")),
        None => error.into(),
    })?;
    if tokenized.skipped.count() > 0 {
        console::tell(format_args!("warning: {}", tokenized.skipped));
    }
    let out = given_out.to_string_lossy();
    output::print(&if args.json {
        let mut summary = json!(tokenized.record);
        (summary["out"], summary["num_empty"]) = (json!(out), json!(tokenized.num_empty));
        summary["num_skipped"] = json!(tokenized.skipped.count());
        format!("{summary:#}\n")
    } else {
        as_text(&tokenized, &out)
    })
}

/// The tokenizer of a model, and the token that ends a text.
fn tokenizer(disk: &Arc<dyn Disk>, model: &str) -> Result<(Tokenizer, Option<u32>), Failure> {
    let path = hub::locate(model)?;
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let tokenizer = if path.is_dir() && !is_gguf_directory(&path) {
        Tokenizer::from_directory(&path)?
    } else if is_json {
        Tokenizer::from_directory(parent_of(&path))?
    } else {
        Checkpoint::open_on(disk.clone(), &path)?.tokenizer()?
    };
    let eos = tokenizer.eos().first().copied();
    Ok((tokenizer, eos))
}

/// Whether a directory holds a GGUF file, as `grow` writes one.
fn is_gguf_directory(path: &Path) -> bool {
    let is_gguf = |path: PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| is_gguf(entry.path())))
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1.0 => Ok(number),
        _ => Err(format!("{text:?} is not a number above 0 and below 1")),
    }
}

fn as_text(tokenized: &Tokenized, out: &str) -> String {
    let record = &tokenized.record;
    let counts = |num_tokens: u64, num_documents: u64| {
        format!("{} tokens in {} documents", short_count(num_tokens.into()), short_count(num_documents.into()))
    };
    let mut text = format!("wrote {out} ({}", counts(record.train.num_tokens, record.train.num_documents));
    if let Some(HeldOutRecord { split, .. }) = &record.heldout {
        text += &format!(", and {} held out", counts(split.num_tokens, split.num_documents));
    }
    text += ")\n";
    match tokenized.num_empty {
        0 => text,
        num_empty => text + &format!("{num_empty} rows without a token were left out\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_above_0_and_below_1() {
        assert_eq!(fraction("0.01"), Ok(0.01));
        for refused in ["0", "1", "-0.5", "nan", "half"] {
            assert!(fraction(refused).is_err(), "{refused}");
        }
    }
}
