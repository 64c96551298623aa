//! `grow`: a checkpoint grown as files, at the speed of the disk.
//!
//! Everything that headers, configs and the disk can tell is checked before the first byte is written; what is written
//! is there whole or not at all.

mod args;
mod card;
mod plan;
mod record;
mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

pub use args::{GgufArg, GrowArgs, GrowthArgs, LayoutArg, OutType, RouterArg};

use self::plan::{check_text, plan_text};
use self::target::Target;
use super::failure::Failure;
use super::progress::Bytes;
use super::{console, finish, hub, interrupt, output};
use crate::error::FileError;
use crate::formats::Checkpoint;
use crate::output::OutputError;
use crate::output::commit::{Destination, PartialDirectory};
use crate::output::disk::Disk;
use crate::output::receipt::RECEIPT;
use crate::upscale::{CheckText, Forecast, Growth, MAX_LAYERS, MergeOptions, Preservation, Request, Sources};
use crate::weights::WeightSource;

/// Room for the small files that are made beside the weights.
const SLACK_BYTES: u64 = 1 << 20;

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
    apart_from_inputs(&*disk, &out, &sources.bases)?;
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
        false => grown(&sources.bases[0], &sources.names[0], &args.growth)?,
    };
    let num_layers = growth.source.config().num_hidden_layers;
    if num_layers > MAX_LAYERS && !args.force {
        return Err(Failure::invalid(format_args!(
            "the result would have {num_layers} layers, expected at most {MAX_LAYERS} (--force takes more)"
        )));
    }
    let target = Target::new(args, &*disk, &sources, &growth)?;
    let lost_noise = growth.noise.as_ref().and_then(|noise| noise.warning(args.written_as()));
    let refused = destination.as_ref().err().map(|error| format!("a run would be refused: {error}"));
    let warnings =
        growth.warnings.iter().cloned().chain(target.warnings(args, &growth)).chain(lost_noise).chain(refused);
    let warnings: Vec<String> = warnings.collect();
    if args.strict
        && let Some(warning) = warnings.first()
    {
        return Err(Failure::invalid(format_args!("{warning} (refused because of --strict)")));
    }
    let free_bytes = free_bytes(&*disk, &out)?;
    let plan = Forecast::new(sources.parent().config(), &growth, target.files()?, free_bytes, warnings);
    if args.dry_run {
        return output::print(&if args.json { format!("{:#}\n", plan.to_json()) } else { plan_text(&plan) });
    }
    for notice in sources.bases.iter().flat_map(Checkpoint::notices) {
        console::tell(format_args!("note: {notice}"));
    }
    let needed_bytes = plan.bytes_to_write + target.inherited_bytes(&*disk)? + SLACK_BYTES;
    if needed_bytes > free_bytes {
        return Err(OutputError::NoSpace { path: out, needed_bytes, free_bytes }.into());
    }
    console::tell(plan_text(&plan).trim_end());
    interrupt::catch();
    let partial = PartialDirectory::at(disk.clone(), destination?)?;
    let output = Output { disk: &disk, sources: &sources, growth: &growth, target: &target };
    let written = console::timed("written, hashed and on disk", || write(partial, &output, args, &plan));
    written.map_err(|error| match interrupt::caught() {
        Some(signal) => Failure::runtime(format_args!("stopped by signal {signal}: {out:?} is as it was before")),
        None => error,
    })?;
    // What was written is what is checked: read again, numbers rounded as they are in the files.
    let check = |text| {
        let rounded = target.rounds_to(args).or(growth.rounds.then_some(COARSEST_EPSILON));
        let (written, json) = (out.clone(), args.json);
        let tell = move |signal| {
            let what =
                format!("stopped by signal {signal} during --check: {written:?} is written whole, and not checked");
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

/// The grown view that options ask for, of a base called `name`.
pub(in crate::cli) fn grown<'a>(base: &'a Checkpoint, name: &str, args: &GrowthArgs) -> Result<Growth<'a>, Failure> {
    Growth::of_base(base, name, &args.request()?).map_err(|error| args.blame(error))
}

/// What goes into an output.
struct Output<'a> {
    disk: &'a Arc<dyn Disk>,
    sources: &'a Sources,
    growth: &'a Growth<'a>,
    target: &'a Target<'a>,
}

fn write(mut partial: PartialDirectory, output: &Output<'_>, args: &GrowArgs, plan: &Forecast) -> Result<(), Failure> {
    let Output { disk, sources, growth, target } = *output;
    for leftover in partial.leftovers() {
        console::tell(format_args!("note: removed {leftover:?}, which a run that was killed had left"));
    }
    let hashed: u64 = sources.bases.iter().map(Checkpoint::weight_bytes).sum();
    let bar = Bytes::new("writing and hashing", Some(plan.bytes_to_write + hashed));
    // The parents are hashed beside the writing, which keeps another core busy.
    let (parents, written) = std::thread::scope(|scope| {
        let parents = scope.spawn(|| record::parents(sources, &mut |bytes| bar.add(bytes)));
        let written = target.write(disk, &mut partial, &mut |bytes| bar.add(bytes));
        (parents.join().expect("hashing does not panic"), written)
    });
    written?;
    let mut receipt = record::receipt(parents?, growth, args.growth.seed);
    drop(bar);
    for (name, bytes) in &growth.configs {
        partial.write(name, bytes)?;
    }
    partial.write("README.md", card::card(sources, growth, target)?.as_bytes())?;
    receipt["files"] = json!(partial.files());
    partial.write(RECEIPT, format!("{receipt:#}\n").as_bytes())?;
    Ok(partial.commit()?)
}

/// The path from the root on, so that a parent can be named; of a symbolic link, with a slash behind it or none, where it
/// leads, for it is not to be replaced.
fn absolute(out: &Path) -> Result<PathBuf, Failure> {
    let out: PathBuf = out.components().collect();
    if out.is_symlink() {
        return Ok(out.canonicalize().map_err(FileError::io(&out))?);
    }
    Ok(std::path::absolute(&out).map_err(FileError::io(&out))?)
}

/// Refuses an output that is, holds or lies in one of its inputs, by whatever path.
fn apart_from_inputs(disk: &dyn Disk, out: &Path, bases: &[Checkpoint]) -> Result<(), Failure> {
    let identities = |path: &Path| -> Vec<(u64, u64)> {
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        resolved.ancestors().filter_map(|part| disk.stat(part).ok()).map(|stat| stat.identity).collect()
    };
    let parent = out.parent().unwrap_or(out);
    let (out_itself, out_and_above) = (disk.stat(out).ok().map(|stat| stat.identity), {
        let mut all = identities(parent);
        all.extend(disk.stat(out).ok().map(|stat| stat.identity));
        all
    });
    for base in bases {
        let path = base.path();
        let base_and_above = identities(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let inside_base = base_and_above.first().is_some_and(|base| out_and_above.contains(base));
        let around_base = out_itself.is_some_and(|out| base_and_above.contains(&out));
        if inside_base || around_base {
            return Err(OutputError::MeetsInput { path: out.to_owned(), input: path.to_owned() }.into());
        }
    }
    Ok(())
}

fn free_bytes(disk: &dyn Disk, out: &Path) -> Result<u64, Failure> {
    let parent = out.parent().unwrap_or(out);
    Ok(disk.free_bytes(parent).map_err(FileError::io(parent))?)
}
