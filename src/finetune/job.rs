//! A run from its base, or a checkpoint, to the written model.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::Value;

use super::checkpoint::{Checkpoints, OPTIMIZER, Resumed};
use super::method::{Method, RowKind};
use super::progress::Progress;
use super::run::{Control, Ended, Event, Run, Start};
use super::task::Task;
use super::writer::{Trained, write_model};
use super::{FinetuneError, Settings};
use crate::formats::Checkpoint;
use crate::formats::hf::HfOptions;
use crate::formats::peft::PeftDirectory;
use crate::model::AnyDecoder;
use crate::output::commit::PartialDirectory;
use crate::output::disk::Disk;
use crate::train::{AdamW, ParamGroups, ParamNames, first_nonfinite};
use crate::upscale::{Growth, Provenance, Sources};
use crate::weights::WeightSource;

/// Everything that a run needs besides its data.
pub struct Job<'a> {
    /// The disk that everything is on.
    pub disk: &'a Arc<dyn Disk>,
    /// The base.
    pub sources: &'a Sources,
    /// The base with the hash of its weights, as the receipt records it.
    pub parents: &'a [Value],
    /// The base as it is grown before training.
    pub growth: &'a Growth<'a>,
    /// What its rows are.
    pub rows: RowKind,
    /// The settings.
    pub settings: &'a Settings,
    /// When to log, evaluate, save and stop.
    pub control: Control,
    /// Where checkpoints are.
    pub checkpoints: &'a Checkpoints,
    /// A device that records gradients.
    pub device: Device,
    /// Whether layers are computed again for their gradients, which does not change them.
    pub gradient_checkpointing: bool,
}

impl Job<'_> {
    /// How it trains.
    pub fn method(&self) -> Method {
        Method::of(self.settings, self.rows)
    }

    /// The newest whole checkpoint, if there is one. Of the settings, only the schedule may differ, if the updates made so far
    /// would have had the same learning rates: a constant rate can be lengthened, and a stable one before it decays. `refuse` is called with every newer one, and why it is not used.
    ///
    /// # Errors
    /// [`FinetuneError::Changed`] if it was saved with other settings.
    pub fn resumed(&self, refuse: &mut dyn FnMut(&Path, String)) -> Result<Option<Resumed>, FinetuneError> {
        self.checkpoints.newest(refuse)?.map(|resumed| self.unchanged(resumed)).transpose()
    }

    /// As [`resumed`](Self::resumed), from the checkpoint at `path`.
    ///
    /// # Errors
    /// [`FinetuneError::Changed`]; [`FinetuneError::State`] if it is not as it was written, or if newer checkpoints of the run
    /// would be made again.
    pub fn resumed_from(&self, path: &Path) -> Result<Resumed, FinetuneError> {
        self.unchanged(self.checkpoints.at(path)?)
    }

    fn unchanged(&self, resumed: Resumed) -> Result<Resumed, FinetuneError> {
        // Another schedule with the same past is that of a longer run.
        let (now, step) = (self.settings.schedule, resumed.progress.step);
        let is_continued = now.continues(&resumed.settings.schedule, step);
        let saved = Settings {
            schedule: if is_continued { now } else { resumed.settings.schedule },
            ..resumed.settings.clone()
        };
        let changes = self.settings.changes_from(&saved);
        if changes.is_empty() { Ok(resumed) } else { Err(FinetuneError::Changed { path: resumed.path, changes }) }
    }

    /// Loads the start of a run: the grown base, or a checkpoint.
    ///
    /// # Errors
    /// If weights or the state of the optimizer cannot be read.
    pub fn start(&self, resumed: Option<Resumed>) -> Result<Start, FinetuneError> {
        let (groups, adamw) = (self.settings.param_groups()?, self.settings.adamw);
        let Some(Resumed { path, progress, .. }) = resumed else {
            let mut model = self.base()?;
            if let Some(lora) = &self.settings.lora {
                model = model.with_lora(lora.config(), self.settings.seed)?;
            }
            let model = groups.freeze(model);
            check_finite(&model, "the base")?;
            self.check_groups(&groups, &model)?;
            return Ok(Start { model, optimizer: AdamW::new(adamw), progress: Progress::default(), checkpoint: None });
        };
        let model = groups.freeze(self.load(&path)?);
        check_finite(&model, &format!("{path:?}"))?;
        let optimizer = AdamW::read_on(self.disk.clone(), adamw, &model, &path.join(OPTIMIZER))?;
        Ok(Start { model, optimizer, progress, checkpoint: Some(path) })
    }

    /// Refuses groups that match no parameter, or freeze every parameter.
    fn check_groups(&self, groups: &ParamGroups, model: &AnyDecoder) -> Result<(), FinetuneError> {
        let names = ParamNames::of(model);
        if let Some(pattern) = groups.unmatched(names.all.iter().map(String::as_str)) {
            return Err(FinetuneError::NoData(format!("no parameter of this model matches the group {pattern:?}")));
        }
        match names.num_trained {
            0 => Err(FinetuneError::NoData("every parameter is frozen, expected one to train".to_owned())),
            _ => Ok(()),
        }
    }

    /// Makes the remaining updates. `stop` is called after each.
    ///
    /// # Errors
    /// As [`Run::finish`].
    pub fn run<T: Task>(
        &self,
        task: &T,
        start: Start,
        stop: &dyn Fn() -> bool,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<(AnyDecoder, Progress, Ended), FinetuneError> {
        let sidecar = self.sources.sidecar(&**self.disk)?;
        Run::new(task, self.settings, self.control, self.checkpoints, &sidecar, start)?.finish(stop, watch)
    }

    /// The model of the best evaluation, which was saved; `last`, if that is it.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    pub fn best(&self, last: AnyDecoder, progress: &Progress) -> Result<AnyDecoder, FinetuneError> {
        let step = progress.best.map(|(_, step)| step).filter(|step| *step != progress.step);
        step.map_or(Ok(last), |step| self.load(&self.checkpoints.path(step)))
    }

    /// Writes the trained model.
    ///
    /// # Errors
    /// As [`write_model`].
    pub fn write(
        &self,
        partial: PartialDirectory,
        model: &AnyDecoder,
        progress: &Progress,
        options: HfOptions,
        command: Vec<String>,
    ) -> Result<(), FinetuneError> {
        let Self { sources, parents, growth, rows, settings, .. } = *self;
        let trained = Trained { sources, parents, growth, model, rows, settings, progress };
        let provenance = Provenance { command, seed: settings.seed };
        write_model(self.disk, partial, &trained, options, &provenance)
    }

    /// The model of a checkpoint: its weights, or the base with its adapter.
    fn load(&self, path: &Path) -> Result<AnyDecoder, FinetuneError> {
        if self.settings.lora.is_some() {
            let adapter = PeftDirectory::open_on(self.disk.clone(), path)?.read(self.growth.source.config())?;
            return Ok(self.base()?.with_adapter(&adapter)?);
        }
        self.of(&Checkpoint::open_on(self.disk.clone(), path)?)
    }

    fn base(&self) -> Result<AnyDecoder, FinetuneError> {
        self.of(&self.growth.source)
    }

    fn of<S: WeightSource>(&self, source: &S) -> Result<AnyDecoder, FinetuneError> {
        let model = AnyDecoder::load_as(source, self.settings.precision(), &self.device)?;
        Ok(model.with_gradient_checkpointing(self.gradient_checkpointing))
    }
}

fn check_finite(model: &AnyDecoder, of: &str) -> Result<(), FinetuneError> {
    let refused = |name| FinetuneError::WeightNotFinite { name, of: of.to_owned() };
    first_nonfinite(model).map_or(Ok(()), |name| Err(refused(name)))
}
