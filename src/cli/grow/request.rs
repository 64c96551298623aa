//! What is to be grown: a base or the models of a mergekit file, their headers read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::failure::Failure;
use super::super::{console, hub};
use super::args::GrowArgs;
use super::growth::{Growth, grown};
use crate::formats::gguf::GgufVocabulary;
use crate::formats::{Checkpoint, Sidecar};
use crate::growth::mergekit::{ChatTemplate, MergeConfig, ModelRef, TokenizerSource};
use crate::hub::HubReference;
use crate::output::disk::Disk;

/// Largest mergekit file that is read: beyond any written by hand.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// What to grow, its sources opened.
pub(super) struct Request {
    /// The distinct checkpoints that it reads.
    pub bases: Vec<Checkpoint>,
    /// As each was named.
    pub names: Vec<String>,
    /// The id on the hub that each name is, if it is one.
    pub hub_ids: Vec<Option<String>>,
    /// Place of the one whose tokenizer and config keys the result has.
    pub parent: usize,
    merge: Option<(MergeConfig, Vec<u8>)>,
}

impl Request {
    /// Reads the mergekit file, if it is one, and opens the headers of every model.
    pub fn open(args: &GrowArgs, disk: &Arc<dyn Disk>) -> Result<Self, Failure> {
        let path = Path::new(&args.source);
        if !path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            if args.mergekit_compat {
                return Err(Failure::usage(format_args!(
                    "--mergekit-compat beside {:?}: expected it with a mergekit file alone",
                    args.source
                )));
            }
            let base = opened(disk, &args.source, &hub::locate(&args.source)?)?;
            let hub_ids = vec![hub_id(Path::new(""), &args.source)];
            return Ok(Self { bases: vec![base], names: vec![args.source.clone()], hub_ids, parent: 0, merge: None });
        }
        if let Some(&option) = args.growth.options().first() {
            return Err(Failure::usage(format_args!(
                "{option} beside {path:?}: expected it alone, for the file says how to grow"
            )));
        }
        let text = crate::output::disk::read_bounded(&**disk, path, CONFIG_LIMIT_BYTES)?;
        let merge = MergeConfig::parse(&args.source, &text)?;
        let open = |model: &ModelRef| opened(disk, &model.to_string(), &place(path, model)?);
        let bases = merge.open_models(open)?;
        let names: Vec<String> = merge.models().iter().map(ModelRef::to_string).collect();
        let beside = path.parent().unwrap_or(Path::new(""));
        let hub_ids = names.iter().map(|name| hub_id(beside, name)).collect();
        let parent = match &merge {
            MergeConfig::Moe(config) => config.base_model(),
            MergeConfig::Passthrough(config) => match config.tokenizer() {
                Some(TokenizerSource::Model(model)) => merge.models().iter().position(|m| m == model).unwrap_or(0),
                _ => config.base_model().unwrap_or(0),
            },
        };
        Ok(Self { bases, names, hub_ids, parent, merge: Some((merge, text)) })
    }

    /// The checkpoint whose tokenizer and config keys the result has.
    pub fn parent(&self) -> &Checkpoint {
        &self.bases[self.parent]
    }

    /// Whether a mergekit file says what to do.
    pub fn is_merge(&self) -> bool {
        self.merge.is_some()
    }

    /// What the result has from its parent besides weights.
    pub fn inherited(&self, disk: &dyn Disk) -> Result<Sidecar, Failure> {
        let mut inherited = self.parent().inherited()?;
        if let Some(template) = self.chat_template(disk)? {
            inherited.set_chat_template(disk, &template)?;
        }
        Ok(inherited)
    }

    /// The same in the form that GGUF has for it.
    pub fn gguf_vocabulary(&self, disk: &dyn Disk) -> Result<GgufVocabulary, Failure> {
        let mut vocabulary = self.parent().gguf_vocabulary()?;
        if let Some(template) = self.chat_template(disk)? {
            vocabulary.chat_template = Some(template);
        }
        Ok(vocabulary)
    }

    /// The chat template, in Jinja, that a mergekit file puts in the place of the parent's.
    fn chat_template(&self, disk: &dyn Disk) -> Result<Option<String>, Failure> {
        let Some((MergeConfig::Passthrough(config), _)) = &self.merge else { return Ok(None) };
        match config.chat_template() {
            None => Ok(None),
            Some(ChatTemplate::Jinja(template)) => Ok(Some(template.clone())),
            Some(ChatTemplate::Auto) => {
                let of = |base: &Checkpoint| Ok(base.inherited()?.chat_template(disk)?.unwrap_or_default());
                let templates = self.bases.iter().map(of).collect::<Result<Vec<String>, Failure>>()?;
                let most = most_common(templates.iter().map(|template| template.trim()));
                let is_parents = most == Some(templates[self.parent].trim());
                Ok(most.filter(|_| !is_parents).map(str::to_owned))
            }
        }
    }

    /// The view.
    pub fn growth(&self, args: &GrowArgs) -> Result<Growth<'_>, Failure> {
        match &self.merge {
            None => grown(&self.bases[0], &self.names[0], &args.growth),
            Some((config, text)) => self.merged(config, text, args),
        }
    }
}

/// The text that is there most often, the first of several; empty ones do not count.
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

/// Opens the headers of a model, named so, that lies at `path`.
fn opened(disk: &Arc<dyn Disk>, name: &str, path: &Path) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::open_on(disk.clone(), path)?;
    console::detail(format_args!("{name}: {}, {}", checkpoint.path().display(), checkpoint.format()));
    Ok(checkpoint)
}

/// The id on the hub that a name is, if it is no path, from `folder` or from here.
fn hub_id(folder: &Path, name: &str) -> Option<String> {
    let is_path = Path::new(name).exists() || folder.join(name).exists();
    let reference = (!is_path).then(|| name.parse::<HubReference>().ok())??;
    Some(reference.repo().to_owned())
}

/// Where a model of a mergekit file lies: beside the file if there, else as the words say.
fn place(config: &Path, model: &ModelRef) -> Result<PathBuf, Failure> {
    let beside = config.parent().unwrap_or(Path::new("")).join(&model.path);
    if model.revision.is_none() && beside.exists() { Ok(beside) } else { hub::locate(&model.to_string()) }
}
