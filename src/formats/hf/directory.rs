//! A checkpoint directory on disk as a [`WeightSource`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::config::{self, HfConfigError, Parsed};
use super::fault::{HfError, HfFault};
use super::locate::{Stored, locate};
use super::names::Naming;
use super::shards::{self, Choice};
use crate::config::DecoderConfig;
use crate::error::{ErrorKind, FileError, FileFault, InFile};
use crate::formats::chat_templates;
use crate::formats::origin::CARD_LIMIT_BYTES;
use crate::formats::safetensors::{SafetensorsFile, TensorInfo};
use crate::formats::sidecar::Content;
use crate::formats::{CheckpointError, Notice, Origin, Remark, Sidecar, StoredTensor};
use crate::output::disk::{Disk, Kind, disk, parent_of};
use crate::output::read::{exists, hexadecimal, read_bounded, read_through};
use crate::weights::{Dtype, RawTensor, Sink, TensorId, WeightError, WeightSource};

/// An opened checkpoint: the config is read and the shapes of all weights are checked, but no weight is read.
#[derive(Debug)]
pub struct HfDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    config: DecoderConfig,
    raw_config: Map<String, Value>,
    shards: Vec<SafetensorsFile>,
    weights: HashMap<TensorId, Stored>,
    notices: Vec<Notice>,
}

/// Files besides weights and config that a grown model inherits.
pub(crate) const INHERITED_FILES: [&str; 10] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
const CONFIG_LIMIT_BYTES: u64 = 16 << 20;

/// The config that `path` holds without weights: a file in JSON, by its name, or a directory with `config.json` and no file of
/// weights. `None` for anything else, as a directory whose weights lie beside the config.
///
/// # Errors
/// If the file cannot be read, or is no config of a decoder.
pub fn config_alone(disk: &dyn Disk, path: &Path) -> Result<Option<DecoderConfig>, CheckpointError> {
    let is_directory = disk.stat(path).map_err(FileError::io(path))?.kind == Kind::Directory;
    let file = match is_directory {
        false if path.extension().is_some_and(|ending| ending == "json") && !path.ends_with(shards::INDEX) => {
            path.to_owned()
        }
        true if !has_weights(disk, path)? && exists(disk, &path.join("config.json"))? => path.join("config.json"),
        _ => return Ok(None),
    };
    Ok(Some(parsed(disk, &file)?.config))
}

fn has_weights(disk: &dyn Disk, directory: &Path) -> Result<bool, CheckpointError> {
    let names = disk.list(directory).map_err(FileError::io(directory))?;
    let is_weights =
        |name: &Path| name.extension().is_some_and(|ending| ["safetensors", "gguf"].iter().any(|e| ending == *e));
    Ok(names.iter().any(|name| is_weights(Path::new(name))))
}

/// Reads and parses a `config.json`.
fn parsed(disk: &dyn Disk, file: &Path) -> Result<Parsed, CheckpointError> {
    let text = read_bounded(disk, file, CONFIG_LIMIT_BYTES)?;
    Ok(config::parse(&text).map_err(HfConfigError::at(file))?)
}

impl HfDirectory {
    /// Reads `config.json` and the headers of the safetensors files, and checks one against the other.
    ///
    /// `path` is the directory, or its `config.json`, `model.safetensors` or `model.safetensors.index.json`: where a GGUF
    /// file lies beside the safetensors, the path of one of these files is needed to choose.
    ///
    /// As in transformers, the rotary frequencies that old files store are ignored, and so is a head beside tied
    /// embeddings if it is a copy of them. For that, the head is read.
    ///
    /// # Errors
    /// The first rule that is broken by the config, the index, a header, or a tensor.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_on(disk(), path)
    }

    /// As [`open`](Self::open), of a directory on `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, CheckpointError> {
        let is_directory = disk.stat(path).map_err(FileError::io(path))?.kind == Kind::Directory;
        let named = ["config.json", shards::SINGLE, shards::INDEX].iter().any(|name| path.ends_with(name));
        let (path, choice) = match is_directory {
            true => (path, Choice::Open),
            false if named => (parent_of(path), Choice::Safetensors),
            false => return Err(HfError::new(path, HfFault::NotADirectory).into()),
        };
        let config_path = path.join("config.json");
        let Parsed { config, keys, remarks } = match parsed(&*disk, &config_path) {
            Err(CheckpointError::File(error)) if error.kind() == ErrorKind::NotFound => {
                return Err(adapter(&*disk, path)?.map_or_else(|| error.into(), CheckpointError::from));
            }
            parsed => parsed?,
        };
        let mut notices: Vec<Notice> = remarks.into_iter().map(|remark| Notice::new(&config_path, remark)).collect();
        let shards = shards::open(&disk, path, choice, &mut notices)?;
        let naming = Naming::of(shards.iter().flat_map(|shard| shard.tensors().map(|(name, _)| name)));
        notices.extend(
            naming
                .unusual()
                .map(|prefix| Remark::TensorPrefix { prefix: prefix.to_owned() })
                .map(|remark| Notice::new(path, remark)),
        );
        let weights = locate(path, &config, &naming, &shards)?;
        notices.extend(declared_dtype(&keys, &shards).map(|remark| Notice::new(&config_path, remark)));
        Ok(Self { disk, path: path.to_owned(), config, raw_config: keys, shards, weights, notices })
    }

    /// The disk with the directory.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys of `config.json`, also those that [`DecoderConfig`] does not know.
    pub fn raw_config(&self) -> &Map<String, Value> {
        &self.raw_config
    }

    /// Findings that are no errors.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The files that hold the weights, in the order of their names.
    pub fn weight_files(&self) -> Vec<PathBuf> {
        self.shards.iter().map(|shard| shard.path().to_owned()).collect()
    }

    /// Every tensor of those files.
    pub fn stored_tensors(&self) -> Vec<StoredTensor> {
        let of = |(name, info): (&str, &TensorInfo)| StoredTensor {
            name: name.to_owned(),
            format: info.dtype.to_string(),
            shape: info.shape.clone(),
            size_bytes: info.end - info.begin,
        };
        self.shards.iter().flat_map(|shard| shard.tensors().map(of)).collect()
    }

    /// The keys and files that a child inherits besides weights.
    ///
    /// # Errors
    /// If a file cannot be read, or a chat template has an unsafe name.
    pub fn inherited(&self) -> Result<Sidecar, FileError> {
        let mut files = Vec::new();
        for name in INHERITED_FILES {
            if exists(&*self.disk, &self.path.join(name))? {
                files.push(name.to_owned());
            }
        }
        files.extend(chat_templates::files_in(&*self.disk, &self.path)?);
        let copied = |name: String| {
            let path = self.path.join(&name);
            (name, Content::Copied(path))
        };
        let files = files.into_iter().map(copied).collect();
        Ok(Sidecar { config_keys: self.raw_config.clone(), files })
    }

    /// Licence and base models by its model card, or else the name that `config.json` was loaded by.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn origin(&self) -> Result<Origin, FileError> {
        let card = match read_bounded(&*self.disk, &self.path.join("README.md"), CARD_LIMIT_BYTES) {
            Ok(card) => card,
            Err(error @ InFile { fault: FileFault::Io(_), .. }) => return Err(error),
            // An absent or oversized card states nothing.
            Err(_) => Vec::new(),
        };
        let origin = Origin::of_card(&String::from_utf8_lossy(&card));
        let name = self.raw_config.get("_name_or_path").and_then(Value::as_str).map(str::to_owned);
        Ok(if origin.base_models.is_empty() { origin.with_base_models(name) } else { origin })
    }

    /// SHA-256 of the concatenated weight files, in the order of their names, in hexadecimal. `watch` is called with the
    /// size of each run of bytes read.
    ///
    /// # Errors
    /// If a file can no longer be read.
    pub fn weights_sha256(&self, watch: &mut dyn FnMut(u64)) -> Result<String, FileError> {
        let mut hash = Sha256::new();
        for shard in &self.shards {
            let file = self.disk.open(shard.path()).map_err(FileError::io(shard.path()))?;
            read_through(&*file, watch, &mut |bytes| hash.update(bytes)).map_err(FileError::io(shard.path()))?;
        }
        Ok(hexadecimal(&hash.finalize()))
    }
}

impl HfDirectory {
    /// The shard of a weight, and its bytes there.
    fn span(&self, id: TensorId) -> (&SafetensorsFile, Range<u64>) {
        let Stored { shard, begin, dtype } = self.weights[&id];
        let size_bytes = id.shape(&self.config).iter().product::<usize>() * dtype.size_bytes();
        (&self.shards[shard], begin..begin + size_bytes as u64)
    }
}

impl WeightSource for HfDirectory {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.weights[&id].dtype
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let (shard, span) = self.span(id);
        shard.stream_bytes(span, self.dtype(id), sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        let (shard, span) = self.span(id);
        Ok(RawTensor::new(self.dtype(id), id.shape(&self.config), shard.read_bytes(span)?))
    }
}

/// The adapter in a directory without `config.json`, if there is one.
fn adapter(disk: &dyn Disk, directory: &Path) -> Result<Option<HfError>, FileError> {
    #[derive(Deserialize)]
    struct Keys {
        peft_type: String,
        base_model_name_or_path: Option<String>,
    }
    let path = directory.join("adapter_config.json");
    if !exists(disk, &path)? {
        return Ok(None);
    }
    let keys: Option<Keys> = serde_json::from_slice(&read_bounded(disk, &path, CONFIG_LIMIT_BYTES)?).ok();
    let fault = |keys: Keys| HfFault::Adapter { peft_type: keys.peft_type, base: keys.base_model_name_or_path };
    Ok(keys.map(|keys| HfError::new(directory, fault(keys))))
}

/// The declared number format, if most bytes of the files have another.
fn declared_dtype(keys: &Map<String, Value>, shards: &[SafetensorsFile]) -> Option<Remark> {
    let declared = ["dtype", "torch_dtype"].into_iter().find_map(|key| keys.get(key)?.as_str())?;
    let mut sizes: BTreeMap<Dtype, u64> = BTreeMap::new();
    for (_, info) in shards.iter().flat_map(SafetensorsFile::tensors) {
        *sizes.entry(info.weight_dtype()?).or_default() += info.end - info.begin;
    }
    let (stored, _) = sizes.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    let same = declared.strip_prefix("torch.").unwrap_or(declared) == stored.to_string();
    (!same).then(|| Remark::DeclaredDtype { declared: declared.to_owned(), stored })
}
