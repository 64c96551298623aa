//! The checkpoints of a request, their headers read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Request, UpscaleError};
use crate::formats::gguf::GgufVocabulary;
use crate::formats::{Checkpoint, Sidecar};
use crate::growth::mergekit::{ChatTemplate, MergeConfig};
use crate::hub::HubReference;
use crate::output::disk::Disk;

/// The checkpoints that a [`Request`] names.
pub struct Sources {
    /// What is to be grown.
    pub request: Request,
    /// The name of each checkpoint in the request.
    pub names: Vec<String>,
    /// The distinct checkpoints whose weights are read.
    pub bases: Vec<Checkpoint>,
    /// The checkpoint that only provides the tokenizer.
    tokenizer_model: Option<Checkpoint>,
}

impl Sources {
    /// Opens the checkpoints. `locate` gives the path of a name that is not beside the mergekit file.
    ///
    /// # Errors
    /// Those of `locate`; [`UpscaleError::Weights`].
    pub fn open<E: From<UpscaleError>>(
        disk: &Arc<dyn Disk>,
        request: Request,
        locate: impl Fn(&str) -> Result<PathBuf, E>,
    ) -> Result<Self, E> {
        let open = |name: &String| -> Result<Checkpoint, E> {
            let path = request.beside(name).map_or_else(|| locate(name), Ok)?;
            Checkpoint::open_on(disk.clone(), &path).map_err(|error| UpscaleError::from(error).into())
        };
        let names = request.names();
        let bases = names.iter().map(open).collect::<Result<Vec<_>, E>>()?;
        let tokenizer_model = request.tokenizer_model().as_ref().map(open).transpose()?;
        Ok(Self { request, names, bases, tokenizer_model })
    }

    /// The checkpoint whose config keys the result has.
    pub fn parent(&self) -> &Checkpoint {
        &self.bases[self.request.main_model()]
    }

    /// The name of the checkpoint whose tokenizer the result has.
    pub(super) fn tokenizer_name(&self) -> String {
        self.request.tokenizer_model().unwrap_or_else(|| self.names[self.request.tokenizer_index()].clone())
    }

    /// The checkpoint whose tokenizer the result has.
    pub fn tokenizer(&self) -> &Checkpoint {
        self.tokenizer_model.as_ref().unwrap_or(&self.bases[self.request.tokenizer_index()])
    }

    /// The hub id of each checkpoint, if its name is one.
    pub fn hub_ids(&self) -> Vec<Option<String>> {
        let id = |name: &String| {
            let is_path = Path::new(name).exists() || self.request.beside(name).is_some();
            let reference = (!is_path).then(|| name.parse::<HubReference>().ok())??;
            Some(reference.repo().to_owned())
        };
        self.names.iter().map(id).collect()
    }

    /// The name of each checkpoint for readers of the result: an id on the hub as it was given, of a path the last part.
    pub fn readable_names(&self) -> Vec<String> {
        let readable = |(name, id): (&String, Option<String>)| match (id, Path::new(name).file_name()) {
            (None, Some(last)) => last.to_string_lossy().into_owned(),
            _ => name.clone(),
        };
        self.names.iter().zip(self.hub_ids()).map(readable).collect()
    }

    /// What the result has from its parents besides weights.
    ///
    /// # Errors
    /// [`UpscaleError::Weights`], [`UpscaleError::File`].
    pub fn sidecar(&self, disk: &dyn Disk) -> Result<Sidecar, UpscaleError> {
        let mut sidecar = self.parent().inherited()?;
        if !std::ptr::eq(self.tokenizer(), self.parent()) {
            sidecar = sidecar.with_tokenizer_of(self.tokenizer().inherited()?);
        }
        if let Some(template) = self.chat_template(disk)? {
            sidecar.set_chat_template(disk, &template)?;
        }
        Ok(sidecar)
    }

    /// The vocabulary of the result for a GGUF file.
    ///
    /// # Errors
    /// [`UpscaleError::Weights`], [`UpscaleError::File`].
    pub fn gguf_vocabulary(&self, disk: &dyn Disk) -> Result<GgufVocabulary, UpscaleError> {
        let mut vocabulary = self.tokenizer().gguf_vocabulary()?;
        if let Some(template) = self.chat_template(disk)? {
            vocabulary.chat_template = Some(template);
            vocabulary.named_chat_templates.clear();
        }
        Ok(vocabulary)
    }

    /// The chat template, in Jinja, with which a mergekit file replaces that of the tokenizer.
    fn chat_template(&self, disk: &dyn Disk) -> Result<Option<String>, UpscaleError> {
        let Request::Merge { config, .. } = &self.request else { return Ok(None) };
        let MergeConfig::Passthrough(config) = &**config else { return Ok(None) };
        match config.chat_template() {
            None => Ok(None),
            Some(ChatTemplate::Jinja(template)) => Ok(Some(template.clone())),
            Some(ChatTemplate::Auto) => {
                let of = |base: &Checkpoint| -> Result<String, UpscaleError> {
                    Ok(base.inherited()?.chat_template(disk)?.unwrap_or_default())
                };
                let templates = self.bases.iter().map(of).collect::<Result<Vec<String>, UpscaleError>>()?;
                let most = most_common(templates.iter().map(|template| template.trim()));
                let own = of(self.tokenizer())?;
                Ok(most.filter(|most| *most != own.trim()).map(str::to_owned))
            }
        }
    }
}

/// The most frequent text, the first of several; empty texts do not count.
fn most_common<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let count = |text: &&str| texts.clone().filter(|other| other == text).count();
    let mut most = None;
    for text in texts.clone().filter(|text| !text.is_empty()) {
        if most.is_none_or(|(_, times)| count(&text) > times) {
            most = Some((text, count(&text)));
        }
    }
    most.map(|(text, _)| text)
}
