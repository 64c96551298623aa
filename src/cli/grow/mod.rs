//! `grow`: writes a grown checkpoint.
//!
//! Whatever headers, configs and the disk can tell is checked before the first byte is written; the output is complete or absent.

mod args;
mod format;
mod plan;

use clap::Arg;
use serde_json::{Value, json};

pub use args::{GgufArg, GrowArgs, GrowthArgs, LayoutArg, OutType, RouterArg};

use self::format::output_format;
use self::plan::{check_text, plan_text};
use super::failure::Failure;
use super::progress::Bytes;
use super::{console, finish, hub, interrupt, output, writing};
use crate::error::FileError;
use crate::formats::Checkpoint;
use crate::output::OutputError;
use crate::output::commit::{Destination, check_apart};
use crate::output::disk::{Disk, absolute, parent_of};
use crate::upscale::{
    CheckText, Forecast, Growth, GrowthWriter, MAX_LAYERS, MergeOptions, Preservation, Request, Sources,
};
use crate::weights::WeightSource;

/// The distance between 1 and the next number of the narrowest type that is computed with.
const COARSEST_EPSILON: f64 = 1.0 / 128.0;

/// Grows a checkpoint.
///
/// # Errors
/// Whatever headers can tell, before anything is written, and after an error while writing nothing
/// is left. A `--check` that fails or is stopped by a signal leaves what it checks.
pub fn run(args: &GrowArgs) -> Result<(), Failure> {
    let disk = interrupt::disk();
    let out = absolute(&args.out)?;
    let bar = Bytes::new("comparing OUT with its receipt", None);
    let destination = Destination::check(&*disk, &out, args.existing(), &mut |bytes| bar.add(bytes));
    drop(bar);
    let destination = match destination {
        // A dry run writes nothing, so it only warns.
        Err(error @ (OutputError::Exists { .. } | OutputError::NotOurs { .. } | OutputError::Modified { .. }))
            if args.dry_run =>
        {
            Err(Failure::from(error))
        }
        checked => Ok(checked?),
    };
    let sources = Sources::open(&disk, request(args, &*disk)?, hub::locate)?;
    for (name, base) in sources.names.iter().zip(&sources.bases) {
        console::detail(format_args!("{name}: {}, {}", base.path().display(), base.format()));
    }
    for base in &sources.bases {
        check_apart(&*disk, &out, base.path())?;
        base.weight_files().iter().try_for_each(|file| check_apart(&*disk, &out, file))?;
    }
    let is_growth = !args.growth.options().is_empty() || sources.request.is_merge();
    if !is_growth && !args.converts() {
        return Err(Failure::usage(
            "nothing to do: expected --dus, --stack, --identity-blocks, --moe or --granularity, or another --dtype, --out-type or --moe-layout",
        ));
    }
    let text = args.check.then(|| CheckText::read(&sources, args.check_text.as_deref()));
    let text = text.transpose().map_err(|error| Failure::from(error).for_option("--check"))?;
    let growth = match sources.request.is_merge() {
        true => {
            Growth::of_merge(&sources, MergeOptions { seed: args.growth.seed, mergekit_compat: args.mergekit_compat })?
        }
        false => grown(&sources.bases[0], &sources.readable_names()[0], &args.growth)?,
    };
    let num_layers = growth.source.config().num_hidden_layers;
    if num_layers > MAX_LAYERS && !args.force {
        return Err(Failure::invalid(format_args!(
            "the result would have {num_layers} layers, expected at most {MAX_LAYERS} (--force takes more)"
        )));
    }
    let name = args.out.file_name().map_or("model".into(), |name| name.to_string_lossy());
    let writer = GrowthWriter::new(&*disk, &sources, &growth, output_format(args)?, &name)?;
    let refused = destination.as_ref().err().map(|error| format!("a run would be refused: {error}"));
    let warnings: Vec<String> = growth.warnings.iter().cloned().chain(writer.warnings()).chain(refused).collect();
    if args.strict
        && let Some(warning) = warnings.first()
    {
        return Err(Failure::invalid(format_args!("{warning} (refused because of --strict)")));
    }
    let free_bytes = disk.free_bytes(parent_of(&out)).map_err(FileError::io(parent_of(&out)))?;
    let plan = Forecast::new(sources.parent().config(), &growth, writer.files()?, free_bytes, warnings);
    if args.dry_run {
        return output::print(&if args.json { format!("{:#}\n", plan.to_json()) } else { plan_text(&plan) });
    }
    for notice in sources.bases.iter().flat_map(Checkpoint::notices) {
        console::tell(format_args!("note: {notice}"));
    }
    console::tell(plan_text(&plan).trim_end());
    writing::write(&disk, &writer, &plan, destination?, args.growth.seed)?;
    // What was written is what is checked: read again, numbers rounded as they are in the files.
    let check = |text| {
        let rounded = writer.rounds_to().or(growth.rounds.then_some(COARSEST_EPSILON));
        let (written, json) = (out.clone(), args.json);
        let tell = move |signal| {
            let what = format!("stopped by signal {signal} during --check: {written:?} is complete, but not checked");
            finish(Err(Failure::runtime(what)), json);
        };
        interrupt::at_once(tell, || {
            let grown = Checkpoint::open_on(disk.clone(), &out)?;
            Ok::<_, Failure>(Preservation::measure(sources.parent(), &grown, growth.preserves, rounded, text)?)
        })
    };
    let checked = text.as_ref().map(|text| console::timed("checked", || check(text))).transpose()?;
    let mut summary = plan.to_json();
    summary["out"] = json!(args.out.to_string_lossy());
    summary["check"] = checked.as_ref().map_or(Value::Null, Preservation::to_json);
    let failed = checked.as_ref().filter(|check| !check.passed());
    // With --json, the error has the summary.
    if !args.json {
        let text = checked.as_ref().map(check_text).unwrap_or_default();
        output::print(&format!("wrote {} ({})\n{text}", args.out.display(), output::size(plan.bytes_to_write)))?;
    } else if failed.is_none() {
        output::print(&format!("{summary:#}\n"))?;
    }
    failed.map_or(Ok(()), |check| {
        let moved = check.divergence.max_abs_logit;
        let message = format!("growth should preserve the function, but a logit moved by {moved:.3e}");
        Err(Failure::check(message, summary))
    })
}

/// What is to be grown; a mergekit file excludes options that say how to grow a base.
fn request(args: &GrowArgs, disk: &dyn Disk) -> Result<Request, Failure> {
    let request = Request::read(disk, &args.source)?;
    if !request.is_merge() && args.mergekit_compat {
        let source = &args.source;
        return Err(Failure::usage(format_args!("--mergekit-compat with {source:?}: it is for a mergekit file")));
    }
    for notice in request.notices() {
        console::tell(format_args!("note: {:?}: {notice}", args.source));
    }
    match args.growth.options().first() {
        Some(option) if request.is_merge() => {
            let source = &args.source;
            Err(Failure::usage(format_args!("{option} with {source:?}: a mergekit file says itself how to grow")))
        }
        _ => Ok(request),
    }
}

/// Leaves the options of growth but `--dus` and `--moe` to `--help`.
pub(in crate::cli) fn brief(arg: Arg) -> Arg {
    let is_growth = arg.get_help_heading().is_some_and(|heading| ["Depth", "Width"].contains(&heading));
    let is_main = ["dus", "moe"].contains(&arg.get_id().as_str());
    if is_growth && !is_main { arg.hide_short_help(true) } else { arg }
}

/// The grown view that options ask for, of a base called `name`.
pub(in crate::cli) fn grown<'a>(base: &'a Checkpoint, name: &str, args: &GrowthArgs) -> Result<Growth<'a>, Failure> {
    Growth::of_base(base, name, &args.request()?).map_err(|error| args.blame(error))
}
