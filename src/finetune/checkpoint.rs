//! Checkpoints of a run: everything that the next update depends on, in a directory that is complete or absent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::maker::Maker;
use super::progress::Progress;
use super::run_state::{FORMAT, PREFIX, RUN_STATE, RunState, TRAINER_STATE, checkpoint_name, run_state, trainer_state};
use super::{FinetuneError, Settings};
use crate::error::{ErrorKind, FileError};
use crate::formats::Sidecar;
use crate::formats::hf::{HfOptions, HfWriter};
use crate::formats::peft::write_peft;
use crate::model::{AnyDecoder, DecoderWeights};
use crate::output::commit::{Existing, PartialDirectory};
use crate::output::disk::{Disk, Lock};
use crate::output::read::read_bounded;
use crate::output::receipt::{RECEIPT, verify};
use crate::train::AdamW;

/// State of the optimizer.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
/// Cap on the size of [`RUN_STATE`].
const STATE_LIMIT_BYTES: u64 = 1 << 30;

/// The directory with the checkpoints of a run.
#[derive(Clone)]
pub struct Checkpoints {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// Checkpoints that stay beside the best one; all if `None`.
    limit: Option<usize>,
    maker: Maker,
}

/// Why a checkpoint cannot be continued from.
enum Unusable {
    /// It is not as it was written.
    Damaged(FinetuneError),
    /// It may be whole: it cannot be read now, or by this version.
    Unknown(FinetuneError),
}

impl From<Unusable> for FinetuneError {
    fn from((Unusable::Damaged(error) | Unusable::Unknown(error)): Unusable) -> Self {
        error
    }
}

/// A checkpoint to continue from.
#[derive(Debug)]
pub struct Resumed {
    /// The checkpoint.
    pub path: PathBuf,
    /// The program and the device that made it, if it is recorded.
    pub made_by: Option<Maker>,
    /// The settings that it was saved with.
    pub settings: Settings,
    /// The state of its run.
    pub progress: Progress,
}

impl Checkpoints {
    /// Checkpoints that `maker` makes in `directory`, of which the last `limit` and the best stay.
    pub fn new(disk: Arc<dyn Disk>, directory: &Path, limit: Option<usize>, maker: Maker) -> Self {
        Self { disk, directory: directory.to_owned(), limit, maker }
    }

    /// The program and the device that make them.
    pub fn maker(&self) -> &Maker {
        &self.maker
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Checkpoints of a run that are on disk at once, at most: those that are kept, the best, and the one being saved.
    pub(super) fn most_at_once(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| limit.max(1) + 2)
    }

    /// Takes the directory, which is made, for one run until the guard is dropped; `None` where there are no locks.
    ///
    /// # Errors
    /// [`FinetuneError::State`] if another run has it.
    pub fn lock(&self) -> Result<Option<Lock>, FinetuneError> {
        let failed = || FileError::io(&self.directory);
        std::fs::create_dir_all(&self.directory).map_err(failed())?;
        match self.disk.try_lock(&self.directory) {
            Ok(None) => {
                let (path, reason) = (self.directory.clone(), "another run writes to it".to_owned());
                Err(FinetuneError::State { path, reason })
            }
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(None),
            lock => Ok(lock.map_err(failed())?),
        }
    }

    /// Saves a checkpoint, then removes those of this run that are too many: `saved` has their steps, and no other checkpoint
    /// is touched.
    ///
    /// # Errors
    /// I/O errors; earlier checkpoints are then kept.
    pub fn save(
        &self,
        model: &AnyDecoder,
        optimizer: &AdamW,
        settings: &Settings,
        progress: &Progress,
        sidecar: &Sidecar,
        saved: &mut Vec<usize>,
    ) -> Result<PathBuf, FinetuneError> {
        std::fs::create_dir_all(&self.directory).map_err(FileError::io(&self.directory))?;
        let path = self.path(progress.step);
        let mut partial = PartialDirectory::create(self.disk.clone(), &path, Existing::Keep)?;
        match model.adapter() {
            Some(adapter) => write_peft(&mut partial, &adapter, None)?,
            None => {
                let weights = DecoderWeights::new(model);
                HfWriter::new(&weights, HfOptions::default()).write(&mut partial, sidecar, &mut |_| ())?;
                sidecar.write(&self.disk, &mut partial)?;
            }
        }
        let mut file = partial.begin(OPTIMIZER)?;
        optimizer.write(&mut file)?;
        partial.finish(file)?;
        partial.write(TRAINER_STATE, format!("{:#}\n", trainer_state(settings, progress)).as_bytes())?;
        partial.write(RUN_STATE, format!("{:#}\n", run_state(settings, progress, &self.maker)).as_bytes())?;
        let receipt = json!({"format": FORMAT, "step": progress.step, "files": partial.files()});
        partial.write(RECEIPT, format!("{receipt:#}\n").as_bytes())?;
        partial.commit()?;
        saved.push(progress.step);
        self.prune(saved, progress.best.map(|(_, step)| step))?;
        Ok(path)
    }

    /// The path of the checkpoint after `step` updates.
    pub fn path(&self, step: usize) -> PathBuf {
        self.directory.join(checkpoint_name(step))
    }

    /// The newest checkpoint that is as it was written. Newer ones are renamed to `checkpoint-N.damaged`, because the run will write
    /// theirs again; `refuse` is called with each, and why it is not used.
    ///
    /// # Errors
    /// If the directory or a checkpoint cannot be read; [`FinetuneError::State`] if a checkpoint has another format, or there are
    /// checkpoints and none can be used.
    pub fn newest(&self, refuse: &mut dyn FnMut(&Path, String)) -> Result<Option<Resumed>, FinetuneError> {
        let mut damaged: Vec<(PathBuf, String)> = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let path = self.path(step);
            match self.open(&path) {
                Ok(resumed) if resumed.progress.step == step => {
                    for (path, reason) in damaged {
                        let names = (1..).map(|n| if n == 1 { "damaged".to_owned() } else { format!("damaged-{n}") });
                        let mut free = names.map(|name| path.with_extension(name)).filter(|aside| !aside.exists());
                        let aside = free.next().expect("a free name");
                        std::fs::rename(&path, &aside).map_err(FileError::io(&path))?;
                        refuse(&aside, reason);
                    }
                    return Ok(Some(resumed));
                }
                Ok(resumed) => damaged.push((path, format!("its state is of step {}", resumed.progress.step))),
                Err(Unusable::Damaged(error)) => damaged.push((path, error.to_string())),
                Err(Unusable::Unknown(error)) => return Err(error),
            }
        }
        match damaged.into_iter().next() {
            None => Ok(None),
            Some((path, reason)) => {
                Err(FinetuneError::State { path, reason: format!("{reason}; no checkpoint here can be used") })
            }
        }
    }

    /// The checkpoint at `path`, in this directory or another.
    ///
    /// # Errors
    /// [`FinetuneError::State`] if it is not as it was written, or if this directory has newer ones, which the run would write
    /// again.
    pub fn at(&self, path: &Path) -> Result<Resumed, FinetuneError> {
        let resumed = self.open(path)?;
        match self.steps()?.into_iter().find(|step| *step > resumed.progress.step) {
            None => Ok(resumed),
            Some(newer) => Err(FinetuneError::State {
                path: self.path(newer),
                reason: format!("is newer than {path:?}, and the run would write it again: remove it first"),
            }),
        }
    }

    fn open(&self, path: &Path) -> Result<Resumed, Unusable> {
        let found = verify(&self.disk, path, &mut |_| ()).map_err(|error| match error.kind() {
            ErrorKind::Io => Unusable::Unknown(error.into()),
            _ => Unusable::Damaged(error.into()),
        })?;
        let damaged = |path: &Path, reason| Unusable::Damaged(FinetuneError::State { path: path.to_owned(), reason });
        if let Some(mismatch) = found.mismatches.first() {
            return Err(damaged(path, mismatch.to_string()));
        }
        let state_path = path.join(RUN_STATE);
        let text = read_bounded(&*self.disk, &state_path, STATE_LIMIT_BYTES)
            .map_err(|error| Unusable::Unknown(error.into()))?;
        let format = serde_json::from_slice::<Value>(&text).map_or(Value::Null, |state| state["format"].clone());
        if format != FORMAT {
            let reason = format!("found format {format}, expected {FORMAT}");
            return Err(Unusable::Unknown(FinetuneError::State { path: state_path, reason }));
        }
        let RunState { made_by, settings, progress } =
            serde_json::from_slice(&text).map_err(|error| damaged(&state_path, error.to_string()))?;
        Ok(Resumed { path: path.to_owned(), made_by, settings, progress })
    }

    /// The steps of all checkpoints that are complete, ascending.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn complete_steps(&self) -> Result<Vec<usize>, FinetuneError> {
        let mut steps = self.steps()?;
        steps.retain(|step| self.path(*step).join(RECEIPT).is_file());
        Ok(steps)
    }

    /// The steps of all checkpoints, ascending.
    pub fn steps(&self) -> Result<Vec<usize>, FinetuneError> {
        let names = match self.disk.list(&self.directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(FileError::io(&self.directory))?,
        };
        let step = |name: &std::ffi::OsString| name.to_str()?.strip_prefix(PREFIX)?.parse().ok();
        let mut steps: Vec<usize> = names.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn prune(&self, saved: &mut Vec<usize>, best: Option<usize>) -> Result<(), FinetuneError> {
        let Some(limit) = self.limit else { return Ok(()) };
        let num_old = saved.len().saturating_sub(limit.max(1));
        let old: Vec<usize> = saved[..num_old].iter().copied().filter(|step| Some(*step) != best).collect();
        saved.retain(|step| !old.contains(step));
        for step in old {
            let path = self.path(step);
            self.disk.remove_tree(&path).map_err(FileError::io(&path))?;
        }
        Ok(())
    }
}
