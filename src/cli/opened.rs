//! A model argument, opened for inference: the checkpoint, grown on the fly if options ask for it.

use std::sync::Arc;

use serde_json::Value;

use super::adapter::{AdapterArgs, other_base};
use super::failure::Failure;
use super::grow::{GrowthArgs, grown};
use super::{console, hub, interrupt, run_info};
use crate::formats::Checkpoint;
use crate::formats::peft::PeftDirectory;
use crate::output::disk::Disk;
use crate::upscale::{Growth, GrowthRequest, Request, Sources, model_record, parents};
use crate::weights::WeightSource;

/// A model whose headers were read.
pub(super) struct OpenedModel {
    sources: Sources,
    growth: Option<GrowthArgs>,
    adapter: Option<PeftDirectory>,
}

impl OpenedModel {
    /// Opens a Hugging Face directory, a GGUF file or an id on the hub, to grow it as options ask.
    ///
    /// # Errors
    /// If it cannot be opened, or is a mergekit file.
    pub(super) fn new(model: &str, growth: Option<&GrowthArgs>) -> Result<Self, Failure> {
        let disk: Arc<dyn Disk> = interrupt::disk();
        let request = Request::read(&*disk, model)?;
        if request.is_merge() {
            return Err(Failure::usage(format_args!("{model:?} is a mergekit file, expected a model: grow it first")));
        }
        let sources = Sources::open(&disk, request, hub::locate)?;
        let base = &sources.bases[0];
        console::detail(format_args!("{model}: {}, {}", base.path().display(), base.format()));
        base.notices().iter().for_each(|notice| console::tell(format_args!("note: {notice}")));
        Ok(Self { sources, growth: growth.cloned(), adapter: None })
    }

    /// Adds an adapter to the grown model, if one is asked for.
    ///
    /// # Errors
    /// If its files are not those of an adapter.
    pub(super) fn with_adapter(self, args: &AdapterArgs) -> Result<Self, Failure> {
        let disk: Arc<dyn Disk> = interrupt::disk();
        let adapter = args.open(&disk)?;
        let notices = adapter.iter().flat_map(PeftDirectory::notices);
        notices.for_each(|notice| console::tell(format_args!("note: {notice}")));
        Ok(Self { adapter, ..self })
    }

    /// The checkpoint.
    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.sources.bases[0]
    }

    /// Its name for records: without the folders in which a user keeps files.
    pub(super) fn name(&self) -> String {
        run_info::words(&self.sources.names[0])
    }

    /// [`name`](Self::name), and how the model was grown: `smollm2-depth-up-scaling-m-6`.
    pub(super) fn full_name(&self, growth: &Growth<'_>) -> String {
        match growth.source.plans().next() {
            None => self.name(),
            Some(_) => {
                let title = growth.title();
                let words = title.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|word| !word.is_empty());
                format!("{}-{}", self.name(), words.collect::<Vec<_>>().join("-"))
            }
        }
    }

    /// The model, grown as asked.
    ///
    /// # Errors
    /// If it cannot be grown so, or not be computed with.
    pub(super) fn growth(&self) -> Result<Growth<'_>, Failure> {
        let (base, name) = (self.checkpoint(), &self.sources.names[0]);
        let growth = match &self.growth {
            Some(args) => grown(base, name, args)?,
            None => Growth::of_base(base, name, &GrowthRequest::default())?,
        };
        let growth = match &self.adapter {
            Some(adapter) => self.adapted(growth, adapter)?,
            None => growth,
        };
        growth.source.config().computable().map_err(Failure::invalid)?;
        growth.warnings.iter().for_each(|warning| console::tell(format_args!("warning: {warning}")));
        Ok(growth)
    }

    /// The growth with an adapter added. Another base than the one that it was trained on may be meant, such as the same weights in
    /// another type, so that is a warning. A base that is grown on the fly has no files to compare.
    fn adapted<'a>(&self, growth: Growth<'a>, adapter: &PeftDirectory) -> Result<Growth<'a>, Failure> {
        let is_grown = growth.source.plans().next().is_some();
        let growth = growth.with_adapter(adapter).map_err(|error| Failure::from(error).for_option("--lora"))?;
        let disk: Arc<dyn Disk> = interrupt::disk();
        if !is_grown && let Some(message) = other_base(&disk, adapter, &self.sources)? {
            console::tell(format_args!("warning: {message}"));
        }
        Ok(growth)
    }

    /// All that the function of the model depends on.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn record(&self, growth: &Growth<'_>) -> Result<Value, Failure> {
        Ok(model_record(&parents(&self.sources, &mut |_| ())?, growth))
    }
}
