//! Formats of the data and a sample, printed before the first update.

use std::io::{self, IsTerminal};

use crate::cli::console;
use crate::data::source::SkippedRows;
use crate::data::{Example, RecordFormat};
use crate::error::cut_lines;
use crate::finetune::{Dataset, RecordCounts};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Characters of a sample that are shown.
const SHOWN: usize = 600;
/// Dims text on a terminal.
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Prints the format of each file, and the number of records by outcome.
pub(super) fn tell_formats<T>(dataset: &Dataset<T>) {
    for (path, format) in &dataset.formats {
        let format: &RecordFormat = format;
        console::tell(format_args!("{}: {format}", path.display()));
    }
    console::tell(in_words(dataset.counts));
}

/// The counts in a line, without those that are 0.
fn in_words(counts: RecordCounts) -> String {
    let RecordCounts { whole, cut, cut_off, untrained } = counts;
    let part = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let joined = |parts: [Option<String>; 2]| parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let kept = joined([Some(format!("{whole} whole")), part(cut, "cut to --max-length")]);
    let left_out = joined([
        part(cut_off, "with nothing to learn within --max-length"),
        part(untrained, "with nothing to learn (empty, or both alike)"),
    ]);
    let total = counts.total();
    let records = if total == 1 { "record" } else { "records" };
    let left_out = if left_out.is_empty() { left_out } else { format!("; left out: {left_out}") };
    format!("{total} {records}: {kept}{left_out}")
}

/// Warns of evaluated records or documents, called `items`, that are also trained on.
pub(super) fn tell_overlap(num_shared: usize, num_evaluated: usize, items: &str) {
    if num_shared > 0 {
        console::tell(format_args!(
            "warning: {num_shared} of {num_evaluated} evaluated {items} are also in the training data: the held-out loss will be too low"
        ));
    }
}

/// Lists rows that `--skip-bad` leaves out.
pub(super) fn tell_skipped(skipped: &SkippedRows) {
    if skipped.count() > 0 {
        console::tell(format_args!("warning: {skipped}"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_once() {
        let counts = RecordCounts { whole: 6, cut: 2, cut_off: 1, untrained: 3 };
        assert_eq!(
            in_words(counts),
            "12 records: 6 whole, 2 cut to --max-length; left out: 1 with nothing to learn within --max-length, 3 with nothing to \
             learn (empty, or both alike)"
        );
        assert_eq!(in_words(RecordCounts { whole: 1, ..RecordCounts::default() }), "1 record: 1 whole");
    }
}
