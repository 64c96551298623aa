//! Formats of the data and a sample, printed before the first update.

use std::io::{self, IsTerminal};

use crate::cli::console;
use crate::data::{Example, RecordFormat};
use crate::error::cut_lines;
use crate::finetune::Dataset;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Characters of a sample that are shown.
const SHOWN: usize = 600;
/// Dims text on a terminal.
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Prints the format of each file, and the number of records left out or cut.
pub(super) fn tell_formats<T>(dataset: &Dataset<T>, num_cut: usize) {
    for (path, format) in &dataset.formats {
        let format: &RecordFormat = format;
        console::tell(format_args!("{}: {format}", path.display()));
    }
    if dataset.num_left_out > 0 {
        console::tell(format_args!(
            "left out: {} with nothing to learn: empty, two alike, or cut off by --max-length",
            records(dataset.num_left_out)
        ));
    }
    if num_cut > 0 {
        console::tell(format_args!("cut: {} longer than --max-length", records(num_cut)));
    }
}

fn records(count: usize) -> String {
    format!("{count} record{}", if count == 1 { "" } else { "s" })
}

/// Prints the fraction of trained tokens and one example. Untrained text is dimmed on a terminal, else in brackets.
///
/// # Errors
/// If the tokenizer cannot decode.
pub(super) fn tell_sample<'a>(
    examples: impl Iterator<Item = &'a Example> + Clone,
    tokenizer: &Tokenizer,
) -> Result<(), TokenizerError> {
    let num_tokens: usize = examples.clone().map(|example| example.ids.len()).sum();
    if num_tokens == 0 {
        return Ok(());
    }
    let num_trained: usize = examples.clone().map(Example::num_trained).sum();
    let share = num_trained as f64 / num_tokens as f64;
    let is_terminal = io::stderr().is_terminal();
    let marked = if is_terminal { "dimmed" } else { "in brackets" };
    console::tell(format_args!(
        "{num_trained} of {num_tokens} tokens are trained ({:.1} %); first example, untrained text {marked}:",
        100.0 * share
    ));
    let Some(example) = examples.into_iter().next() else { return Ok(()) };
    let (open, close) = if is_terminal { (DIM, PLAIN) } else { ("[", "]") };
    let mut shown = String::new();
    let mut start = 0;
    while start < example.ids.len() && shown.chars().count() < SHOWN {
        let trained = example.trained[start];
        let len = example.trained[start..].iter().take_while(|flag| **flag == trained).count();
        let text = cut_lines(&tokenizer.decode(&example.ids[start..start + len])?, SHOWN);
        shown += &if trained { text } else { format!("{open}{text}{close}") };
        start += len;
    }
    console::tell(shown);
    Ok(())
}
