//! `inspect`: what a checkpoint is, from its headers alone.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{self, aligned, shown, size};
use super::{console, hub, interrupt};
use crate::formats::{Checkpoint, StoredTensor};
use crate::profile::flops::count_parameters;
use crate::weights::WeightSource;

/// Print the config, the parameters and the tensors of a checkpoint; reads headers alone.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// A Hugging Face directory, a .gguf file, or an id on the hub, org/name or org/name@revision
    pub path: String,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print one JSON object, tensors included
    #[arg(long)]
    pub json: bool,
}

/// Prints what a checkpoint is.
///
/// # Errors
/// If the checkpoint cannot be opened, or stdout not written.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let path = hub::locate(&args.path)?;
    let checkpoint = Checkpoint::open_on(interrupt::disk(), &path)?;
    console::detail(format_args!("{}: {}", args.path, checkpoint.path().display()));
    let tensors = checkpoint.stored_tensors();
    let file_type = checkpoint.file_type()?;
    output::print(&if args.json {
        format!("{:#}\n", as_json(&checkpoint, file_type, &tensors))
    } else {
        as_text(&checkpoint, file_type, &tensors, args.tensors)
    })
}

/// Tensors and bytes of each number format.
fn histogram(tensors: &[StoredTensor]) -> BTreeMap<&str, (usize, u64)> {
    let mut by_format: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for tensor in tensors {
        let entry = by_format.entry(&tensor.format).or_default();
        *entry = (entry.0 + 1, entry.1 + tensor.size_bytes);
    }
    by_format
}

fn as_json(checkpoint: &Checkpoint, file_type: Option<&str>, tensors: &[StoredTensor]) -> Value {
    let parameters = count_parameters(checkpoint.config());
    let formats: BTreeMap<&str, Value> = histogram(tensors)
        .into_iter()
        .map(|(format, (count, bytes))| (format, json!({"tensors": count, "bytes": bytes})))
        .collect();
    json!({
        "format": checkpoint.format(),
        "file_type": file_type,
        "config": checkpoint.config(),
        "total_parameters": parameters.total,
        "active_parameters": parameters.active,
        "dtypes": formats,
        "notices": checkpoint.notices(),
        "tensors": tensors,
    })
}

fn as_text(checkpoint: &Checkpoint, file_type: Option<&str>, tensors: &[StoredTensor], list: bool) -> String {
    let (config, parameters) = (checkpoint.config(), count_parameters(checkpoint.config()));
    let mut rows = vec![vec!["format".to_owned(), checkpoint.format()]];
    rows.extend(file_type.map(|name| vec!["file type".to_owned(), name.to_owned()]));
    rows.extend([
        vec!["total parameters".to_owned(), grouped(parameters.total)],
        vec!["active parameters".to_owned(), grouped(parameters.active)],
    ]);
    if let Value::Object(fields) = json!(config) {
        rows.extend(fields.into_iter().map(|(key, value)| vec![key, short(&value)]));
    }
    let mut text = aligned(&rows);
    let mut rows = vec![["type", "tensors", "size"].map(String::from).to_vec()];
    for (format, (count, bytes)) in histogram(tensors) {
        rows.push(vec![format.to_owned(), count.to_string(), size(bytes)]);
    }
    text += &format!("\n{}", aligned(&rows));
    if list {
        let mut rows = vec![["tensor", "type", "shape", "size"].map(String::from).to_vec()];
        rows.extend(tensors.iter().map(|tensor| {
            vec![shown(&tensor.name), tensor.format.clone(), format!("{:?}", tensor.shape), size(tensor.size_bytes)]
        }));
        text += &format!("\n{}", aligned(&rows));
    }
    for notice in checkpoint.notices() {
        text += &format!("note: {notice}\n");
    }
    text
}

/// A value in short: text without quotes, a number of single precision in as few digits as tell it, `1e-5` for
/// 0.000009999999747378752.
fn short(value: &Value) -> String {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) if f64::from(number as f32) == number => format!("{:?}", number as f32),
        Some(number) => format!("{number:?}"),
        None => value.to_string().replace('"', ""),
    }
}

/// Digits in threes.
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
    fn numbers_of_single_precision_are_short() {
        let told = [json!(f64::from(1e-5f32)), json!(1e-5), json!(100_000.0), json!(30), json!(0.1), json!("llama")];
        assert_eq!(told.map(|value| short(&value)), ["1e-5", "1e-5", "100000.0", "30", "0.1", "llama"]);
    }

    #[test]
    fn digits_stand_in_threes() {
        assert_eq!([7, 1_000, 46_702_792_704].map(grouped), ["7", "1,000", "46,702,792,704"]);
    }
}
