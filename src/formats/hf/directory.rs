//! A checkpoint directory on disk as a [`WeightSource`].

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::config::{self, Parsed};
use super::locate::{Stored, locate};
use super::shards::{self, Choice};
use crate::config::DecoderConfig;
use crate::error::{FileError, FileFault, InFile};
use crate::formats::origin::CARD_LIMIT_BYTES;
use crate::formats::safetensors::{SafetensorsFile, TensorInfo};
use crate::formats::sidecar::Content;
use crate::formats::{Notice, Origin, Sidecar, StoredTensor};
use crate::output::disk::{Disk, Kind, disk, exists, hexadecimal, read_bounded, read_through};
use crate::weights::{Dtype, RawTensor, Sink, TensorId, WeightError, WeightSource};

/// An opened checkpoint: config read, every weight known to be there with the right shape; no weight read.
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

/// Files about text, not weights, that a grown model inherits.
const INHERITED_FILES: [&str; 10] = [
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

impl HfDirectory {
    /// Reads `config.json` and the header of every safetensors file, and checks one against the other.
    ///
    /// `path` is the directory. Where a GGUF file lies there too, the directory alone does not say which is meant: the
    /// path of its `config.json`, `model.safetensors` or `model.safetensors.index.json` does.
    ///
    /// Rotary frequencies stored by old files are passed over, as in transformers. So is a head beside tied embeddings
    /// if it is those embeddings, for which it is read: the only weight that is.
    ///
    /// # Errors
    /// [`WeightError::File`] or [`WeightError::NoWeights`] if there is nothing to
    /// read; [`WeightError::TwoFormats`] for a directory with a GGUF file in it; otherwise the variant of the first broken rule of the config, the index, a header, or a tensor.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        Self::open_on(disk(), path)
    }

    /// As [`open`](Self::open), of a directory on `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, WeightError> {
        let is_directory = disk.stat(path).map_err(FileError::io(path))?.kind == Kind::Directory;
        let named = ["config.json", shards::SINGLE, shards::INDEX].iter().any(|name| path.ends_with(name));
        let (path, choice) = match path.parent() {
            _ if is_directory => (path, Choice::Open),
            Some(directory) if named => (directory, Choice::Safetensors),
            _ => return Err(FileError::new(path, FileFault::NotADirectory).into()),
        };
        let config_path = path.join("config.json");
        let text = read_bounded(&*disk, &config_path, CONFIG_LIMIT_BYTES)?;
        let Parsed { config, keys: raw_config, mut notices } = config::parse(&config_path, &text)?;
        drop(text);
        let shards = shards::open(&disk, path, choice, &mut notices)?;
        let weights = locate(path, &config, &shards)?;
        notices.extend(declared_dtype(&config_path, &raw_config, &shards));
        Ok(Self { disk, path: path.to_owned(), config, raw_config, shards, weights, notices })
    }

    /// The disk that it lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json` as it stands, with the keys that [`DecoderConfig`] does not know.
    pub fn raw_config(&self) -> &Map<String, Value> {
        &self.raw_config
    }

    /// What was found and passed over: no fault, but worth knowing.
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

    /// What a child has from this checkpoint besides weights.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn inherited(&self) -> Result<Sidecar, FileError> {
        let mut files = Vec::new();
        for name in INHERITED_FILES {
            let path = self.path.join(name);
            if exists(&*self.disk, &path)? {
                files.push((name.to_owned(), Content::Copied(path)));
            }
        }
        Ok(Sidecar { config_keys: self.raw_config.clone(), files })
    }

    /// Where it comes from: what its model card says, or else the name that `config.json` was loaded by.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn origin(&self) -> Result<Origin, FileError> {
        let card = match read_bounded(&*self.disk, &self.path.join("README.md"), CARD_LIMIT_BYTES) {
            Ok(card) => card,
            Err(error @ InFile { fault: FileFault::Io(_), .. }) => return Err(error),
            // None, or none that says anything.
            Err(_) => Vec::new(),
        };
        let origin = Origin::of_card(&String::from_utf8_lossy(&card));
        let name = self.raw_config.get("_name_or_path").and_then(Value::as_str).map(str::to_owned);
        Ok(if origin.base_models.is_empty() { origin.made_of(name) } else { origin })
    }

    /// SHA-256 of the weight files, one after the other in the order of their names, in hexadecimal; `watch` is told of
    /// every run of bytes read.
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
    fn size_bytes(&self, id: TensorId) -> u64 {
        (id.shape(&self.config).iter().product::<usize>() * self.weights[&id].dtype.size_bytes()) as u64
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
        let Stored { shard, name, begin, dtype } = &self.weights[&id];
        self.shards[*shard].stream_range(name, *begin..begin + self.size_bytes(id), *dtype, sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        let Stored { shard, name, begin, dtype } = &self.weights[&id];
        let bytes = self.shards[*shard].read_range(name, *begin..begin + self.size_bytes(id))?;
        Ok(RawTensor::new(*dtype, id.shape(&self.config), bytes))
    }
}

/// What `config.json` declares against what most bytes of the files are.
fn declared_dtype(path: &Path, keys: &Map<String, Value>, shards: &[SafetensorsFile]) -> Option<Notice> {
    let declared = ["dtype", "torch_dtype"].into_iter().find_map(|key| keys.get(key)?.as_str())?;
    let mut sizes: BTreeMap<Dtype, u64> = BTreeMap::new();
    for (_, info) in shards.iter().flat_map(SafetensorsFile::tensors) {
        *sizes.entry(info.weight_dtype()?).or_default() += info.end - info.begin;
    }
    let (stored, _) = sizes.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    let same = declared.strip_prefix("torch.").unwrap_or(declared) == stored.to_string();
    (!same).then(|| Notice::DeclaredDtype { path: path.to_owned(), declared: declared.to_owned(), stored })
}
