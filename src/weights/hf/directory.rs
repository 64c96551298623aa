//! A checkpoint directory on disk as a [`WeightSource`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::config;
use super::names::{Layout, Place, is_ignored};
use crate::config::DecoderConfig;
use crate::weights::json::Pairs;
use crate::weights::safetensors::SafetensorsFile;
use crate::weights::{Dtype, RawTensor, TensorId, WeightError, WeightSource};

/// An opened checkpoint: config read, every weight known to be there with the right shape; no weight read.
#[derive(Debug)]
pub struct HfDirectory {
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
        if !std::fs::metadata(path).map_err(WeightError::io(path))?.is_dir() {
            return Err(WeightError::NotADirectory { path: path.to_owned() });
        }
        let config_path = path.join("config.json");
        let (config, raw_config) = config::parse(&config_path, &read_bounded(&config_path, CONFIG_LIMIT_BYTES)?)?;
        let shards = open_shards(path)?;
        let weights = locate(path, &config, &shards)?;
        Ok(Self { path: path.to_owned(), config, raw_config, shards, weights })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json` as it stands, with the keys that [`DecoderConfig`] does not know.
    pub fn raw_config(&self) -> &Map<String, Value> {
        &self.raw_config
    }

    /// SHA-256 of the weight files, one after the other in the order of their names, in hexadecimal.
    ///
    /// # Errors
    /// [`WeightError::NotFound`] or [`WeightError::Io`] if a file can no longer be read.
    pub fn weights_sha256(&self) -> Result<String, WeightError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for shard in &self.shards {
            let mut file = File::open(shard.path()).map_err(WeightError::io(shard.path()))?;
            loop {
                match file.read(&mut buffer).map_err(WeightError::io(shard.path()))? {
                    0 => break,
                    n => hash.update(&buffer[..n]),
                }
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl WeightSource for HfDirectory {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.weights[&id].dtype
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        let Stored { shard, name, begin, dtype } = &self.weights[&id];
        let shape = id.shape(&self.config);
        let size_bytes = (shape.iter().product::<usize>() * dtype.size_bytes()) as u64;
        let bytes = self.shards[*shard].read_range(name, *begin..begin + size_bytes)?;
        Ok(RawTensor::new(*dtype, shape, bytes))
    }
}

fn read_bounded(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, WeightError> {
    let metadata = std::fs::metadata(path).map_err(WeightError::io(path))?;
    if !metadata.is_file() {
        return Err(WeightError::NotAFile { path: path.to_owned() });
    }
    if metadata.len() > limit_bytes {
        return Err(WeightError::TooLarge { path: path.to_owned(), found_bytes: metadata.len(), limit_bytes });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(WeightError::io(path))?;
    file.take(limit_bytes).read_to_end(&mut bytes).map_err(WeightError::io(path))?;
    Ok(bytes)
}

/// `model.safetensors.index.json`: which file holds each tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: Pairs<String>,
}

fn open_shards(directory: &Path) -> Result<Vec<SafetensorsFile>, WeightError> {
    let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
    match (single.exists(), index.exists()) {
        (true, false) => Ok(vec![SafetensorsFile::open(&single)?]),
        (false, false) => Err(WeightError::NoWeights { path: directory.to_owned(), pickles: has_pickles(directory) }),
        (has_single, true) => {
            let shards = open_indexed(directory, &index)?;
            if has_single && shards.iter().all(|shard| shard.path() != single) {
                return Err(WeightError::AmbiguousWeights { path: directory.to_owned() });
            }
            Ok(shards)
        }
    }
}

fn has_pickles(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|e| e == "bin" || e == "pth"))
}

/// Opens the files that the index names, and no others, sorted by name.
fn open_indexed(directory: &Path, path: &Path) -> Result<Vec<SafetensorsFile>, WeightError> {
    let index: ShardIndex = serde_json::from_slice(&read_bounded(path, INDEX_LIMIT_BYTES)?)
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
    let mut missing = assigned.keys().map(|shard| directory.join(shard)).filter(|path| !path.exists());
    if let Some(path) = missing.next() {
        return Err(WeightError::MissingShard { path, missing: 1 + missing.count(), total: assigned.len() });
    }
    assigned.into_iter().map(|(shard, names)| open_assigned(&directory.join(shard), &names)).collect()
}

fn open_assigned(path: &Path, names: &HashSet<&str>) -> Result<SafetensorsFile, WeightError> {
    let shard = SafetensorsFile::open(path)?;
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
fn is_plain_file_name(name: &str) -> bool {
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
    shard.float_dtype(name)
}
