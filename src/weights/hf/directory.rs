//! A checkpoint directory on disk as a [`WeightSource`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::config;
use super::names::{Layout, Place, is_ignored};
use crate::config::DecoderConfig;
use crate::weights::disk::{Disk, Kind, disk, hash_into, hexadecimal};
use crate::weights::inherited::Content;
use crate::weights::json::Pairs;
use crate::weights::safetensors::{SafetensorsFile, TensorInfo, open_regular};
use crate::weights::{Dtype, Inherited, RawTensor, Sink, StoredTensor, TensorId, WeightError, WeightSource};

/// An opened checkpoint: config read, every weight known to be there with the right shape; no weight read.
#[derive(Debug)]
pub struct HfDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    config: DecoderConfig,
    raw_config: Map<String, Value>,
    shards: Vec<SafetensorsFile>,
    weights: HashMap<TensorId, Stored>,
}

/// Where a weight lies: a run of bytes in a tensor of a shard.
#[derive(Debug)]
struct Stored {
    shard: usize,
    name: String,
    begin: u64,
    dtype: Dtype,
}

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
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
const INDEX_LIMIT_BYTES: u64 = 256 << 20;

impl HfDirectory {
    /// Reads `config.json` and the header of every safetensors file, and checks one against the other.
    ///
    /// Rotary frequencies stored by old files, and a head beside tied embeddings, are passed over, as in transformers.
    ///
    /// # Errors
    /// [`WeightError::NotFound`], [`WeightError::NotADirectory`] or [`WeightError::NoWeights`] if there is nothing to
    /// read; otherwise the variant of the first broken rule of the config, the index, a header, or a tensor.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        Self::open_on(disk(), path)
    }

    /// As [`open`](Self::open), of a directory on `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, WeightError> {
        if disk.stat(path).map_err(WeightError::io(path))?.kind != Kind::Directory {
            return Err(WeightError::NotADirectory { path: path.to_owned() });
        }
        let config_path = path.join("config.json");
        let text = read_bounded(&*disk, &config_path, CONFIG_LIMIT_BYTES)?;
        let (config, raw_config) = config::parse(&config_path, &text)?;
        let shards = open_shards(&disk, path)?;
        let weights = locate(path, &config, &shards)?;
        Ok(Self { disk, path: path.to_owned(), config, raw_config, shards, weights })
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
    /// [`WeightError::Io`].
    pub fn inherited(&self) -> Result<Inherited, WeightError> {
        let mut files = Vec::new();
        for name in INHERITED_FILES {
            let path = self.path.join(name);
            if exists(&*self.disk, &path)? {
                files.push((name.to_owned(), Content::Copied(path)));
            }
        }
        Ok(Inherited { config_keys: self.raw_config.clone(), files })
    }

    /// SHA-256 of the weight files, one after the other in the order of their names, in hexadecimal; `watch` is told of
    /// every run of bytes read.
    ///
    /// # Errors
    /// [`WeightError::NotFound`] or [`WeightError::Io`] if a file can no longer be read.
    pub fn weights_sha256(&self, watch: &mut dyn FnMut(u64)) -> Result<String, WeightError> {
        let mut hash = Sha256::new();
        for shard in &self.shards {
            let file = self.disk.open(shard.path()).map_err(WeightError::io(shard.path()))?;
            hash_into(&mut hash, &*file, watch).map_err(WeightError::io(shard.path()))?;
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

/// A file that is read whole, and is no larger than any real one of its kind.
pub(crate) fn read_bounded(disk: &dyn Disk, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, WeightError> {
    let file = open_regular(disk, path)?;
    let found_bytes = file.stat().map_err(WeightError::io(path))?.size_bytes;
    if found_bytes > limit_bytes {
        return Err(WeightError::TooLarge { path: path.to_owned(), found_bytes, limit_bytes });
    }
    let mut bytes = vec![0; found_bytes as usize];
    file.read_exact_at(&mut bytes, 0).map_err(WeightError::io(path))?;
    Ok(bytes)
}

/// `model.safetensors.index.json`: which file holds each tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: Pairs<String>,
}

fn open_shards(disk: &Arc<dyn Disk>, directory: &Path) -> Result<Vec<SafetensorsFile>, WeightError> {
    let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
    match (exists(&**disk, &single)?, exists(&**disk, &index)?) {
        (true, false) => Ok(vec![SafetensorsFile::open_on(Arc::clone(disk), &single)?]),
        (false, false) => {
            let names = disk.list(directory).map_err(WeightError::io(directory))?;
            let is_pickle = |name| Path::new(name).extension().is_some_and(|e| e == "bin" || e == "pth" || e == "pt");
            Err(WeightError::NoWeights { path: directory.to_owned(), pickles: names.iter().any(is_pickle) })
        }
        (has_single, true) => {
            let shards = open_indexed(disk, directory, &index)?;
            if has_single && shards.iter().all(|shard| shard.path() != single) {
                return Err(WeightError::AmbiguousWeights { path: directory.to_owned() });
            }
            Ok(shards)
        }
    }
}

fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, WeightError> {
    match disk.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(WeightError::io(path)(error)),
    }
}

/// Opens the files that the index names, and no others, sorted by name.
fn open_indexed(disk: &Arc<dyn Disk>, directory: &Path, path: &Path) -> Result<Vec<SafetensorsFile>, WeightError> {
    let index: ShardIndex = serde_json::from_slice(&read_bounded(&**disk, path, INDEX_LIMIT_BYTES)?)
        .map_err(|source| WeightError::Malformed { path: path.to_owned(), source })?;
    if let Some(name) = index.weight_map.duplicate() {
        return Err(WeightError::DuplicateTensor { path: path.to_owned(), name: name.to_owned() });
    }
    let mut assigned: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for (name, shard) in &index.weight_map.0 {
        if !is_plain_file_name(shard) {
            return Err(WeightError::UnsafeShardName { path: path.to_owned(), shard: shard.clone() });
        }
        assigned.entry(shard).or_default().insert(name);
    }
    let mut missing = Vec::new();
    for path in assigned.keys().map(|shard| directory.join(shard)) {
        if !exists(&**disk, &path)? {
            missing.push(path);
        }
    }
    if let Some(path) = missing.first() {
        return Err(WeightError::MissingShard { path: path.clone(), missing: missing.len(), total: assigned.len() });
    }
    assigned.into_iter().map(|(shard, names)| open_assigned(disk, &directory.join(shard), &names)).collect()
}

fn open_assigned(disk: &Arc<dyn Disk>, path: &Path, names: &HashSet<&str>) -> Result<SafetensorsFile, WeightError> {
    let shard = SafetensorsFile::open_on(Arc::clone(disk), path)?;
    if let Some(name) = names.iter().filter(|name| shard.info(name).is_none()).min() {
        return Err(WeightError::NotInShard { path: path.to_owned(), name: name.to_string() });
    }
    if let Some((name, _)) = shard.tensors().find(|(name, _)| !names.contains(name)) {
        return Err(WeightError::NotInIndex { path: path.to_owned(), name: name.to_owned() });
    }
    Ok(shard)
}

/// One normal path component under the rules of Unix and of Windows. Purely of the name: caches of checkpoints are
/// full of symbolic links, which are fine.
pub(in crate::weights) fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name);
    one && !name.contains(['/', '\\', ':']) && !name.contains(char::is_control)
}

/// Finds every weight that the config calls for, and refuses what it does not.
fn locate(
    directory: &Path,
    config: &DecoderConfig,
    shards: &[SafetensorsFile],
) -> Result<HashMap<TensorId, Stored>, WeightError> {
    let shard_of: HashMap<&str, usize> =
        shards.iter().enumerate().flat_map(|(i, shard)| shard.tensors().map(move |(name, _)| (name, i))).collect();
    let layout = Layout::of(shard_of.keys().copied());
    let (mut weights, mut expected) = (HashMap::new(), HashSet::new());
    // One at a time: a config may call for more weights than memory could list.
    for id in TensorId::in_order(config) {
        let Place { name, shape, first } = Place::of(id, config, layout);
        let Some(&shard) = shard_of.get(name.as_str()) else {
            return Err(WeightError::MissingTensor { path: directory.to_owned(), name });
        };
        let dtype = checked_dtype(&shards[shard], &name, &shape)?;
        expected.insert(name.clone());
        weights.insert(id, Stored { shard, name, begin: first * dtype.size_bytes() as u64, dtype });
    }
    let unexpected = |name: &str| !expected.contains(name) && !is_ignored(name, config);
    let mut tensors = shards.iter().flat_map(|shard| shard.tensors().map(move |(name, _)| (shard.path(), name)));
    match tensors.find(|(_, name)| unexpected(name)) {
        Some((path, name)) => Err(WeightError::UnexpectedTensor { path: path.to_owned(), name: name.to_owned() }),
        None => Ok(weights),
    }
}

fn checked_dtype(shard: &SafetensorsFile, name: &str, expected: &[usize]) -> Result<Dtype, WeightError> {
    let info = shard.existing(name)?;
    if info.shape != expected {
        return Err(WeightError::ShapeMismatch {
            path: shard.path().to_owned(),
            name: name.to_owned(),
            found: info.shape.clone(),
            expected: expected.to_vec(),
        });
    }
    shard.weight_dtype(name)
}
