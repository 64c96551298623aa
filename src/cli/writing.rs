//! Writes a planned growth: checks disk space, shows progress, cleans up after a signal.

use std::path::Path;
use std::sync::Arc;

use super::failure::Failure;
use super::progress::Bytes;
use super::{console, interrupt};
use crate::output::OutputError;
use crate::output::commit::{Destination, PartialDirectory};
use crate::output::disk::Disk;
use crate::upscale::{Forecast, GrowthWriter, Provenance};

/// Writes a growth to its destination.
///
/// # Errors
/// If there is too little space, or a file cannot be written; nothing is left then.
pub(super) fn write(
    disk: &Arc<dyn Disk>,
    writer: &GrowthWriter<'_>,
    plan: &Forecast,
    destination: Destination,
    seed: u64,
) -> Result<(), Failure> {
    let out = destination.path().to_owned();
    check_space(&**disk, writer, plan, &out)?;
    interrupt::catch();
    let partial = PartialDirectory::at(disk.clone(), destination)?;
    for leftover in partial.leftovers() {
        console::tell(format_args!("note: removed {leftover:?}, which a run that was killed had left"));
    }
    let provenance = Provenance { command: super::run_info::command(), seed };
    let bar = Bytes::new("writing and hashing", Some(writer.watched_bytes(plan.bytes_to_write)));
    let written = console::timed("written, hashed and on disk", || {
        writer.write(disk, partial, &provenance, &|bytes| bar.add(bytes)).map_err(Failure::from)
    });
    drop(bar);
    written.map_err(|error| match interrupt::caught() {
        Some(signal) => Failure::runtime(format_args!("stopped by signal {signal}: {out:?} is as it was before")),
        None => error,
    })
}

fn check_space(disk: &dyn Disk, writer: &GrowthWriter<'_>, plan: &Forecast, out: &Path) -> Result<(), Failure> {
    let needed_bytes = plan.bytes_to_write + writer.other_bytes(disk)?;
    if needed_bytes > plan.free_bytes {
        let (path, free_bytes) = (out.to_owned(), plan.free_bytes);
        return Err(OutputError::NoSpace { path, needed_bytes, free_bytes }.into());
    }
    Ok(())
}
