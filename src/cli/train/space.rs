//! Checks before the first update that checkpoints and the trained model can be written.

use std::path::Path;
use std::sync::Arc;

use crate::cli::failure::Failure;
use crate::cli::{console, output};
use crate::error::FileError;
use crate::finetune::{DiskSpace, Job, Start};
use crate::formats::hf::HfOptions;
use crate::output::OutputError;
use crate::output::commit::{Destination, PartialDirectory};
use crate::output::disk::{Disk, parent_of};

/// Makes the folder of OUT if it does not exist, and checks that a directory can be made in it.
///
/// # Errors
/// If not.
pub(super) fn check_writable(disk: &Arc<dyn Disk>, out: Destination) -> Result<(), Failure> {
    let parent = parent_of(out.path());
    std::fs::create_dir_all(parent).map_err(FileError::io(parent))?;
    drop(PartialDirectory::at(disk.clone(), out)?);
    Ok(())
}

/// Refuses a run whose checkpoints do not fit on the disk, and warns if they or the trained model may not all fit.
///
/// # Errors
/// [`OutputError::NoSpace`].
pub(super) fn check_free(job: &Job<'_>, out: &Path, start: &Start, options: HfOptions) -> Result<(), Failure> {
    let (folder, parent) = (job.checkpoints.directory(), parent_of(out));
    let [of_checkpoints, of_out] = [folder, parent].map(|folder| Room::of(&**job.disk, folder));
    let mut space = job.disk_space(&start.model, start.progress.step, options)?;
    if of_out.device != of_checkpoints.device {
        let alone = DiskSpace { num_checkpoints: 0, checkpoint_bytes: 0, ..space };
        shortage(alone, of_out.free_bytes, parent)?.into_iter().for_each(warn);
        space.output_bytes = 0;
    }
    shortage(space, of_checkpoints.free_bytes, folder)?.into_iter().for_each(warn);
    Ok(())
}

fn warn(shortage: String) {
    console::tell(format_args!("warning: {shortage}"));
}

/// The file system of a folder.
struct Room {
    /// `None` if it cannot be told.
    device: Option<u64>,
    /// Unlimited if it cannot be told.
    free_bytes: u64,
}

impl Room {
    /// That of a folder, which may not exist yet.
    fn of(disk: &dyn Disk, folder: &Path) -> Self {
        let existing = folder.ancestors().find(|path| disk.stat(path).is_ok()).unwrap_or(folder);
        Self {
            device: disk.stat(existing).ok().map(|stat| stat.identity.0),
            free_bytes: disk.free_bytes(existing).unwrap_or(u64::MAX),
        }
    }
}

/// Says what may not fit, if anything.
fn shortage(space: DiskSpace, free_bytes: u64, folder: &Path) -> Result<Option<String>, OutputError> {
    let needed_bytes = space.checkpoint_bytes;
    if space.num_checkpoints > 0 && needed_bytes > free_bytes {
        return Err(OutputError::NoSpace { path: folder.to_owned(), needed_bytes, free_bytes });
    }
    let warning = || {
        format!(
            "checkpoints and the trained model take up to {} in {folder:?}, but only {} are free there",
            output::size(space.peak_bytes()),
            output::size(free_bytes),
        )
    };
    Ok((space.peak_bytes() > free_bytes).then(warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_for_a_checkpoint_is_refused_and_one_without_room_for_all_is_named() {
        let space = DiskSpace { checkpoint_bytes: 3 << 20, num_checkpoints: 4, output_bytes: 1 << 20 };
        let found = |free_bytes| shortage(space, free_bytes, Path::new("checkpoints"));
        let refused = found((3 << 20) - 1).unwrap_err();
        assert!(
            matches!(refused, OutputError::NoSpace { needed_bytes, free_bytes, .. } if needed_bytes == free_bytes + 1)
        );
        let warning = found(3 << 20).unwrap().expect("a warning");
        assert!(warning.contains("up to 13.00 MiB in \"checkpoints\", but only 3.00 MiB are free"), "{warning}");
        assert!(found((13 << 20) - 1).unwrap().is_some());
        assert_eq!(found(13 << 20).unwrap(), None);
        // A run that is at its end writes its model only.
        let ended = DiskSpace { num_checkpoints: 0, ..space };
        assert_eq!(shortage(ended, 1 << 20, Path::new("checkpoints")).unwrap(), None);
    }
}
