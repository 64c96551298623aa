//! `inspect`: what the headers of a checkpoint say.

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{self, aligned, shown, size};
use super::{console, hub, interrupt};
use crate::formats::Checkpoint;
use crate::profile::inspection::Inspection;

/// Print config, parameters and tensors of a checkpoint, from its headers
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Hugging Face directory, .gguf file, or id on the hub: org/name or org/name@revision
    pub path: String,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print one JSON object, tensors included
    #[arg(long)]
    pub json: bool,
}

/// Prints what the headers of a checkpoint say.
///
/// # Errors
/// If the checkpoint cannot be opened, or stdout not written.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let path = hub::locate(&args.path)?;
    let checkpoint = Checkpoint::open_on(interrupt::disk(), &path)?;
    console::detail(format_args!("{}: {}", args.path, checkpoint.path().display()));
    let inspection = Inspection::of(&checkpoint)?;
    output::print(&if args.json { format!("{:#}\n", json!(inspection)) } else { as_text(&inspection, args.tensors) })
}

fn as_text(inspection: &Inspection, list_tensors: bool) -> String {
    let mut rows = vec![vec!["format".to_owned(), inspection.format.clone()]];
    rows.extend(inspection.file_type.map(|name| vec!["file type".to_owned(), name.to_owned()]));
    rows.extend([
        vec!["total parameters".to_owned(), grouped(inspection.total_parameters)],
        vec!["active parameters".to_owned(), grouped(inspection.active_parameters)],
    ]);
    if let Value::Object(fields) = json!(inspection.config) {
        rows.extend(fields.into_iter().map(|(key, value)| vec![key, short(&value)]));
    }
    let mut text = aligned(&rows);
    let mut rows = vec![["type", "tensors", "size"].map(String::from).to_vec()];
    rows.extend(
        inspection
            .dtypes
            .iter()
            .map(|(format, found)| vec![format.clone(), found.tensors.to_string(), size(found.bytes)]),
    );
    text += &format!("\n{}", aligned(&rows));
    if list_tensors {
        let mut rows = vec![["tensor", "type", "shape", "size"].map(String::from).to_vec()];
        rows.extend(inspection.tensors.iter().map(|tensor| {
            vec![shown(&tensor.name), tensor.format.clone(), format!("{:?}", tensor.shape), size(tensor.size_bytes)]
        }));
        text += &format!("\n{}", aligned(&rows));
    }
    let notes = inspection.notices.iter().map(|notice| format!("note: {notice}\n"));
    text + &notes.collect::<String>()
}

/// A short form of a value: text without quotes, a float32 in the fewest digits, `1e-5` for 0.000009999999747378752.
fn short(value: &Value) -> String {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) if f64::from(number as f32) == number => format!("{:?}", number as f32),
        Some(number) => format!("{number:?}"),
        None => value.to_string().replace('"', ""),
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float32_numbers_are_short() {
        let told = [json!(f64::from(1e-5f32)), json!(1e-5), json!(100_000.0), json!(30), json!(0.1), json!("llama")];
        assert_eq!(told.map(|value| short(&value)), ["1e-5", "1e-5", "100000.0", "30", "0.1", "llama"]);
    }

    #[test]
    fn digits_are_grouped_in_threes() {
        assert_eq!([7, 1_000, 46_702_792_704].map(grouped), ["7", "1,000", "46,702,792,704"]);
    }
}
