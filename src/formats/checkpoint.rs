//! A checkpoint on disk, of either format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::DecoderConfig;
use crate::error::{FileError, FileFault, InFile};
use crate::formats::gguf::{GgufFile, GgufVocabulary, HfTokenizer, part_name};
use crate::formats::hf::HfDirectory;
use crate::formats::sidecar::DEFAULT_TEMPLATE;
use crate::formats::{CheckpointError, Origin, Sidecar, StoredTensor};
use crate::output::disk::{Disk, Kind};
use crate::output::manifest::FileRecord;
use crate::tokenizer::{ChatTemplate, Tokenizer, TokenizerError, VocabularyFile, special_ids};
use crate::weights::{Dtype, GgmlType, PackedTensor, RawTensor, Recipe, Sink, TensorId, WeightError, WeightSource};

/// An opened checkpoint of either format.
#[derive(Debug)]
pub enum Checkpoint {
    /// A Hugging Face directory.
    Hf(HfDirectory),
    /// A GGUF file, or several parts of one.
    Gguf(GgufFile),
}

/// The vocabulary with the other end tokens that the files beside the tokenizer name; GGUF has keys for two of them.
fn with_all_ends(
    vocabulary: GgufVocabulary,
    disk: &dyn Disk,
    directory: &Path,
) -> Result<GgufVocabulary, TokenizerError> {
    let id_of = |token: &str| (0u32..).zip(&vocabulary.tokens).find(|(_, text)| *text == token).map(|(id, _)| id);
    let (_, ends) = special_ids(disk, directory, id_of)?;
    let is_other = |id: &u32| Some(*id) != vocabulary.eos && (*id as usize) < vocabulary.tokens.len();
    let mut others = ends.into_iter().filter(is_other);
    let (eot, eom) = (others.next(), others.next());
    Ok(GgufVocabulary { eot, eom, ..vocabulary })
}

impl Checkpoint {
    /// Opens `path`: a GGUF file, a directory with a GGUF file and no safetensors, or anything that
    /// [`HfDirectory::open`] accepts.
    ///
    /// # Errors
    /// Those of [`HfDirectory::open`] and [`GgufFile::open`]; [`CheckpointError::SeveralGgufs`].
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, CheckpointError> {
        let kind = disk.stat(path).map_err(FileError::io(path))?.kind;
        if kind != Kind::Directory && is_gguf(path) {
            return GgufFile::open_on(disk, path).map(Self::Gguf);
        }
        match if kind == Kind::Directory { gguf_in(&*disk, path)? } else { None } {
            Some(file) => GgufFile::open_on(disk, &file).map(Self::Gguf),
            None => HfDirectory::open_on(disk, path).map(Self::Hf),
        }
    }

    /// Path of the directory or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Hf(directory) => directory.path(),
            Self::Gguf(file) => file.path(),
        }
    }

    /// The files that hold the weights.
    pub fn weight_files(&self) -> Vec<PathBuf> {
        match self {
            Self::Hf(directory) => directory.weight_files(),
            Self::Gguf(file) => file.weight_files(),
        }
    }

    /// The format, in words.
    pub fn format(&self) -> String {
        match self {
            Self::Hf(directory) => match directory.weight_files().len() {
                1 => "Hugging Face directory, 1 file of weights".to_owned(),
                count => format!("Hugging Face directory, {count} files of weights"),
            },
            Self::Gguf(file) => match file.weight_files().len() {
                1 => format!("GGUF version {}", file.version()),
                count => format!("GGUF version {}, {count} parts", file.version()),
            },
        }
    }

    /// All tensors of its files.
    pub fn stored_tensors(&self) -> Vec<StoredTensor> {
        match self {
            Self::Hf(directory) => directory.stored_tensors(),
            Self::Gguf(file) => file.stored_tensors(),
        }
    }

    /// Findings that are no errors.
    pub fn notices(&self) -> Vec<String> {
        match self {
            Self::Hf(directory) => directory.notices().iter().map(ToString::to_string).collect(),
            Self::Gguf(file) => file.notices(),
        }
    }

    /// The text of its `tokenizer.json`, or what its `tokenizer.model` says as one.
    ///
    /// # Errors
    /// [`CheckpointError::Tokenizer`]; those of [`GgufFile::tokenizer_json`].
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        match self {
            Self::Hf(directory) => {
                let file = VocabularyFile::open_on(&**directory.disk(), directory.path())?;
                Ok(file.to_json()?.into_owned().into_bytes())
            }
            Self::Gguf(file) => file.tokenizer_json(),
        }
    }

    /// The token at the beginning of a text, if `tokenizer_config.json` names one.
    ///
    /// # Errors
    /// [`CheckpointError::File`]; those of [`GgufFile::inherited`].
    pub fn bos_token(&self) -> Result<Option<String>, CheckpointError> {
        Ok(self.inherited()?.special_tokens(&**self.disk())?.remove("bos_token"))
    }

    /// Its tokenizer, which knows the tokens that begin and end a text.
    ///
    /// # Errors
    /// [`CheckpointError::Tokenizer`]; those of [`tokenizer_json`](Self::tokenizer_json).
    pub fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        match self {
            Self::Hf(directory) => Ok(Tokenizer::from_directory(directory.path())?),
            Self::Gguf(file) => {
                let tokenizer = Tokenizer::from_json(&self.tokenizer_json()?, file.path())?;
                let vocabulary = file.vocabulary()?.unwrap_or_default();
                Ok(vocabulary.ends().into_iter().fold(tokenizer.with_bos(vocabulary.bos), Tokenizer::with_eos))
            }
        }
    }

    /// The token at the end of a text, if `tokenizer_config.json` names one.
    ///
    /// # Errors
    /// As of [`bos_token`](Self::bos_token).
    pub fn eos_token(&self) -> Result<Option<String>, CheckpointError> {
        Ok(self.inherited()?.special_tokens(&**self.disk())?.remove("eos_token"))
    }

    /// The keys of its `generation_config.json`; none if it has no such file.
    ///
    /// # Errors
    /// As of [`bos_token`](Self::bos_token).
    pub fn generation_config(&self) -> Result<serde_json::Map<String, serde_json::Value>, CheckpointError> {
        Ok(self.inherited()?.generation_config(&**self.disk())?)
    }

    /// Its chat template of a name, or the default one, with the special tokens that the template prints.
    ///
    /// Of a Hugging Face directory, `chat_template.jinja` and `additional_chat_templates/NAME.jinja`, then `chat_template`
    /// of `tokenizer_config.json`: a string or a list of named templates. Of a GGUF file, `tokenizer.chat_template` and
    /// `tokenizer.chat_template.NAME`.
    ///
    /// # Errors
    /// [`CheckpointError::NoChatTemplate`], [`CheckpointError::ChatTemplate`]; those of
    /// [`inherited`](Self::inherited).
    pub fn chat_template(&self, name: Option<&str>) -> Result<ChatTemplate, CheckpointError> {
        let name = name.unwrap_or(DEFAULT_TEMPLATE);
        let (disk, sidecar) = (&**self.disk(), self.inherited()?);
        let templates = sidecar.chat_templates(disk)?;
        match templates.iter().find(|template| template.name == name) {
            Some(template) => {
                let path = match self {
                    Self::Hf(directory) => directory.path().join(&template.file),
                    Self::Gguf(file) => file.path().to_owned(),
                };
                Ok(ChatTemplate::new(path, &template.source, sidecar.special_tokens(disk)?)?)
            }
            None => {
                let found = templates.into_iter().map(|template| template.name).collect();
                Err(CheckpointError::NoChatTemplate { path: self.path().to_owned(), name: name.to_owned(), found })
            }
        }
    }

    /// A chat template that is not its own, with its special tokens. Errors name `path`.
    ///
    /// # Errors
    /// [`CheckpointError::ChatTemplate`]; those of [`inherited`](Self::inherited).
    pub fn other_chat_template(&self, path: &Path, source: &str) -> Result<ChatTemplate, CheckpointError> {
        let tokens = self.inherited()?.special_tokens(&**self.disk())?;
        Ok(ChatTemplate::new(path, source, tokens)?)
    }

    /// Its vocabulary in GGUF's form.
    ///
    /// # Errors
    /// [`CheckpointError::Tokenizer`], also if it has none; [`CheckpointError::Vocabulary`] if GGUF cannot express it.
    pub fn gguf_vocabulary(&self) -> Result<GgufVocabulary, CheckpointError> {
        match self {
            Self::Hf(directory) => {
                let (disk, path) = (&**directory.disk(), directory.path());
                let file = VocabularyFile::open_on(disk, path)?;
                let tokenizer = HfTokenizer::with_settings_of(disk, path, file.to_json()?.into_owned())?;
                let vocabulary = match &file {
                    VocabularyFile::Json { .. } => GgufVocabulary::from_hf(&tokenizer),
                    VocabularyFile::SentencePiece(model) => GgufVocabulary::from_sentencepiece(model, &tokenizer),
                };
                let vocabulary = vocabulary.map_err(InFile::at(file.path()))?;
                Ok(with_all_ends(vocabulary, disk, path)?)
            }
            Self::Gguf(file) => match file.vocabulary()? {
                Some(vocabulary) => Ok(vocabulary),
                None => Err(FileError::new(file.path().join("tokenizer.ggml.model"), FileFault::NotFound).into()),
            },
        }
    }

    /// Size of the weight files.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_files().iter().filter_map(|path| self.disk().stat(path).ok()).map(|stat| stat.size_bytes).sum()
    }

    /// Name, size and hash of each weight file. `watch` is called with the size of each run of bytes read.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn weight_records(&self, watch: &mut dyn FnMut(u64)) -> Result<Vec<FileRecord>, FileError> {
        self.weight_files().iter().map(|path| FileRecord::read(&**self.disk(), path, watch)).collect()
    }

    fn disk(&self) -> &Arc<dyn Disk> {
        match self {
            Self::Hf(directory) => directory.disk(),
            Self::Gguf(file) => file.disk(),
        }
    }

    /// The config keys and files that a child inherits besides weights.
    ///
    /// # Errors
    /// [`CheckpointError::File`]; those of [`GgufFile::inherited`].
    pub fn inherited(&self) -> Result<Sidecar, CheckpointError> {
        match self {
            Self::Hf(directory) => Ok(directory.inherited()?),
            Self::Gguf(file) => file.inherited(),
        }
    }

    /// Its licence and base models, if stated.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn origin(&self) -> Result<Origin, CheckpointError> {
        match self {
            Self::Hf(directory) => Ok(directory.origin()?),
            Self::Gguf(file) => file.origin(),
        }
    }

    /// The name of its mix of number types, if the file states it: `Q4_K - Medium`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn file_type(&self) -> Result<Option<&'static str>, CheckpointError> {
        match self {
            Self::Hf(_) => Ok(None),
            Self::Gguf(file) => file.file_type(),
        }
    }

    fn source(&self) -> &dyn WeightSource {
        match self {
            Self::Hf(directory) => directory,
            Self::Gguf(file) => file,
        }
    }
}

impl WeightSource for Checkpoint {
    fn config(&self) -> &DecoderConfig {
        self.source().config()
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.source().dtype(id)
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        self.source().stream(id, sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        self.source().read(id)
    }

    fn packed_type(&self, id: TensorId) -> Option<GgmlType> {
        self.source().packed_type(id)
    }

    fn packed(&self, id: TensorId) -> Result<Option<PackedTensor>, WeightError> {
        self.source().packed(id)
    }

    fn lineage(&self, id: TensorId) -> Recipe {
        self.source().lineage(id)
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The GGUF file of a directory without safetensors, or its first part. A directory with both formats is left to
/// [`HfDirectory`], which refuses it.
fn gguf_in(disk: &dyn Disk, directory: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let mut names: Vec<PathBuf> =
        disk.list(directory).map_err(FileError::io(directory))?.into_iter().map(PathBuf::from).collect();
    if names.iter().any(|name| name.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"))) {
        return Ok(None);
    }
    names.sort();
    let mut ggufs = names.iter().filter(|name| is_gguf(name) && !is_later_part(name));
    match (ggufs.next(), ggufs.next()) {
        (Some(first), Some(second)) => {
            let [first, second] = [first, second].map(|name| directory.join(name));
            Err(CheckpointError::SeveralGgufs { first, second })
        }
        (only, _) => Ok(only.map(|gguf| directory.join(gguf))),
    }
}

/// Whether a file is a later part of a split one: `name-00002-of-00003.gguf`.
fn is_later_part(name: &Path) -> bool {
    let stem = name.file_stem().unwrap_or_default().to_string_lossy();
    part_name::split(&stem).is_some_and(|(_, number, _)| number != 1)
}
