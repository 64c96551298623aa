//! `merge-lora`: writes a checkpoint with the updates of an adapter added to its matrices.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::adapter::other_base;
use super::failure::Failure;
use super::progress::Bytes;
use super::values::{DtypeArg, byte_count};
use super::{console, hub, interrupt, output, writing};
use crate::error::FileError;
use crate::formats::hf::HfOptions;
use crate::formats::peft::PeftDirectory;
use crate::output::commit::{Destination, Existing, check_apart};
use crate::output::disk::{absolute, parent_of};
use crate::upscale::{Forecast, Growth, GrowthWriter, OutputFormat, Request, Sources};
use crate::weights::{Strictness, WeightSource};

/// Add the updates of a LoRA adapter to the matrices of its base, and write the result
#[derive(Debug, Clone, Args)]
pub struct MergeLoraArgs {
    /// The base that the adapter was trained on
    pub base: String,
    /// The adapter: a directory with adapter_config.json and adapter_model.safetensors
    pub adapter: PathBuf,
    /// The directory to write
    pub out: PathBuf,
    /// Type of the weights: float32, float16, bfloat16 [default: as in BASE]
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true)]
    pub dtype: Option<DtypeArg>,
    /// Largest file of weights: 5000000000, 5GB, 500MB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = byte_count)]
    pub out_shard_size: u64,
    /// Replace OUT if it is as deepwide wrote it
    ///
    /// Its files must still have the hashes of its receipt.
    #[arg(long, short = 'y')]
    pub force: bool,
    /// With --force, replace OUT even if its files were modified, as by training
    #[arg(long, requires = "force")]
    pub discard_modified: bool,
    /// Accept a base with other weights than those that the adapter was trained on
    #[arg(long)]
    pub any_base: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Merges an adapter into its base.
///
/// # Errors
/// Faults that headers reveal are reported before anything is written; an error while writing leaves no output.
pub fn run(args: &MergeLoraArgs) -> Result<(), Failure> {
    let disk = interrupt::disk();
    let out = absolute(&args.out)?;
    let existing = Existing::of(args.force, args.discard_modified);
    let bar = Bytes::new("comparing OUT with its receipt", None);
    let destination = Destination::check(&*disk, &out, existing, &mut |bytes| bar.add(bytes))?;
    drop(bar);
    let adapter = PeftDirectory::open_on(disk.clone(), &args.adapter)?;
    let sources = Sources::open(&disk, Request::Base(args.base.clone()), hub::locate)?;
    let base = &sources.bases[0];
    for input in [base.path(), adapter.path()] {
        check_apart(&*disk, &out, input)?;
    }
    let notices = base.notices().into_iter().chain(adapter.notices().iter().map(ToString::to_string));
    notices.for_each(|notice| console::tell(format_args!("note: {notice}")));
    let growth = Growth::of_adapter(base, &adapter, args.dtype.is_some())?;
    if !args.any_base
        && let Some(message) = other_base(&disk, &adapter, &sources)?
    {
        return Err(Failure::invalid(format_args!("{message} (--any-base accepts them)")));
    }
    let options = HfOptions {
        dtype: args.dtype.map(DtypeArg::dtype),
        max_shard_bytes: args.out_shard_size,
        strictness: Strictness { allow_nonfinite: false, saturate: false },
        ..HfOptions::default()
    };
    let name = args.out.file_name().map_or("model".into(), |name| name.to_string_lossy());
    let writer = GrowthWriter::new(&*disk, &sources, &growth, OutputFormat::Hf(options), &name)?;
    let free_bytes = disk.free_bytes(parent_of(&out)).map_err(FileError::io(parent_of(&out)))?;
    let plan = Forecast::new(sources.parent().config(), &growth, writer.files()?, free_bytes, writer.warnings());
    plan.warnings.iter().for_each(|warning| console::tell(format_args!("warning: {warning}")));
    writing::write(&disk, &writer, &plan, destination, 0)?;
    if args.json {
        let mut summary = plan.to_json();
        summary["out"] = json!(args.out.to_string_lossy());
        return output::print(&format!("{summary:#}\n"));
    }
    let (merged, size) = (growth.title(), output::size(plan.bytes_to_write));
    output::print(&format!("wrote {} ({size}): {merged}\n", args.out.display()))
}
