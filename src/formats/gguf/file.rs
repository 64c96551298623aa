//! A GGUF checkpoint as a [`WeightSource`].

mod parts;
mod rows;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::names::{Layout, Place, ROPE_FACTORS};
use super::{GgufFault, GgufVocabulary, config, dequantize};
use crate::config::DecoderConfig;
use crate::error::{FileError, FileFault, InFile};
use crate::formats::sidecar::Content;
use crate::formats::{CheckpointError, Origin, Sidecar, StoredTensor};
use crate::output::disk::{Disk, disk};
use crate::weights::GgmlKind;
use crate::weights::GgmlType;
use crate::weights::{Chunks, Dtype, LayerTensor, PackedTensor, Sink, TensorId, WeightError, WeightSource};
use parts::Part;
use rows::Rows;

/// An opened checkpoint: keys read, every weight known to be there with the right shape; no weight read.
///
/// A quantized weight is read as [`Dtype::Float32`], another as what it is. llama.cpp keeps the rows of `q_proj` and
/// `k_proj` in another order, which is undone: row `2·i + j` of a head there is row `j·head_dim/2 + i` here.
#[derive(Debug)]
pub struct GgufFile {
    disk: Arc<dyn Disk>,
    parts: Vec<Part>,
    config: DecoderConfig,
    weights: HashMap<TensorId, Stored>,
}

/// Where a weight lies.
#[derive(Debug, Clone, Copy)]
struct Stored {
    part: usize,
    ty: GgmlType,
    begin: u64,
    size_bytes: u64,
}

impl GgufFile {
    /// Reads the header of the file, and of the others if it is the first of several parts.
    ///
    /// # Errors
    /// [`CheckpointError::File`]; [`GgufFault::MissingParts`] if a
    /// part is not there; [`CheckpointError::Gguf`] with the first broken rule; [`GgufFault::Config`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_on(disk(), path)
    }

    /// As [`open`](Self::open), of a file on `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, CheckpointError> {
        let parts = parts::open(&*disk, path)?;
        let fault = |fault: GgufFault| Failure::at(path)(fault.into());
        let table: HashMap<&str, (usize, usize)> = parts
            .iter()
            .enumerate()
            .flat_map(|(p, part)| {
                part.header.tensors.iter().enumerate().map(move |(t, tensor)| (&*tensor.name, (p, t)))
            })
            .collect();
        let tensor = |(part, index): (usize, usize)| &parts[part].header.tensors[index];
        let embeddings = table.get("token_embd.weight").and_then(|&at| tensor(at).shape.first().copied());
        let config = parts[0]
            .with_metadata(&*disk, |keys| config::fields(keys, embeddings, !table.contains_key("output.weight")))?;
        let mut config = DecoderConfig::new(config).map_err(|error| fault(GgufFault::Config(error)))?;
        if let Some(&at) = table.get(ROPE_FACTORS) {
            let factors = parts[at.0].read_factors(&*disk, tensor(at), config.head_dim / 2)?;
            config = config::with_rope_factors(&config, &factors).map_err(fault)?;
        }
        let weights = locate(&config, &parts, &table).map_err(fault)?;
        Ok(Self { disk, parts, config, weights })
    }

    /// The disk that it lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The file, or its first part.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// Version of the format.
    pub fn version(&self) -> u32 {
        self.parts[0].header.version
    }

    /// The files that hold the weights: one, or all parts.
    pub fn weight_files(&self) -> Vec<PathBuf> {
        self.parts.iter().map(|part| part.path.clone()).collect()
    }

    /// Every tensor of those files.
    pub fn stored_tensors(&self) -> Vec<StoredTensor> {
        let tensors = self.parts.iter().flat_map(|part| &part.header.tensors);
        tensors
            .map(|tensor| StoredTensor {
                name: tensor.name.clone(),
                format: tensor.ty.name.to_owned(),
                shape: tensor.shape.clone(),
                size_bytes: tensor.size_bytes,
            })
            .collect()
    }

    /// The type in which the file has a weight.
    ///
    /// # Panics
    /// If `id` is not in [`TensorId::all`] of the config.
    pub fn ggml_type(&self, id: TensorId) -> GgmlType {
        self.weights[&id].ty
    }

    /// Where the file comes from, as far as it says.
    ///
    /// # Errors
    /// [`CheckpointError::File`].
    pub fn origin(&self) -> Result<Origin, CheckpointError> {
        self.parts[0].with_metadata(&*self.disk, super::general_keys::origin)
    }

    /// What llama.cpp calls the number types of the file together, if the file says which: `Q4_K - Medium`.
    ///
    /// # Errors
    /// [`CheckpointError::File`].
    pub fn file_type(&self) -> Result<Option<&'static str>, CheckpointError> {
        self.parts[0].with_metadata(&*self.disk, super::general_keys::file_type)
    }

    /// The vocabulary, if the file has one.
    ///
    /// # Errors
    /// [`CheckpointError::Gguf`] if a key has another type than it should; [`CheckpointError::File`].
    pub fn vocabulary(&self) -> Result<Option<GgufVocabulary>, CheckpointError> {
        self.parts[0].with_metadata(&*self.disk, super::vocabulary_keys::read)
    }

    /// Findings that are not errors: ids of special tokens that name no token.
    pub fn notices(&self) -> Vec<String> {
        let Ok(Some(vocabulary)) = self.vocabulary() else { return Vec::new() };
        let (path, count) = (self.path(), vocabulary.tokens.len());
        let notice = |(key, id): &(&str, i64)| {
            let id = if *id == i64::from(u32::MAX) { -1 } else { *id };
            format!("{path:?}: {key} is {id}, which names none of the {count} tokens: ignored")
        };
        vocabulary.ignored_ids.iter().map(notice).collect()
    }

    /// The text of `tokenizer.json`: the one that the file carries, or one made of its vocabulary.
    ///
    /// # Errors
    /// [`CheckpointError::File`] if the file has no vocabulary; [`CheckpointError::Vocabulary`] if it breaks a rule; as
    /// [`vocabulary`](Self::vocabulary).
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        let files = match self.vocabulary()? {
            Some(vocabulary) => self.tokenizer_files(&vocabulary)?,
            None => Vec::new(),
        };
        let found = files.into_iter().find(|(name, _)| name == "tokenizer.json");
        found
            .map(|(_, text)| text)
            .ok_or_else(|| FileError::new(self.path().join("tokenizer.json"), FileFault::NotFound).into())
    }

    /// What a child has from this checkpoint besides weights: the ids of tokens with a meaning, and the files of the
    /// tokenizer.
    ///
    /// # Errors
    /// As [`tokenizer_json`](Self::tokenizer_json), but none for a file without a vocabulary.
    pub fn inherited(&self) -> Result<Sidecar, CheckpointError> {
        let Some(vocabulary) = self.vocabulary()? else { return Ok(Sidecar::nothing()) };
        let ids =
            [("bos_token_id", vocabulary.bos), ("eos_token_id", vocabulary.eos), ("pad_token_id", vocabulary.pad)];
        let config_keys: Map<String, Value> = ids.into_iter().map(|(key, id)| (key.to_owned(), json!(id))).collect();
        let files = self.tokenizer_files(&vocabulary)?;
        Ok(Sidecar { config_keys, files: files.into_iter().map(|(name, text)| (name, Content::Made(text))).collect() })
    }

    fn tokenizer_files(&self, vocabulary: &GgufVocabulary) -> Result<Vec<(String, Vec<u8>)>, CheckpointError> {
        let files = vocabulary.tokenizer_files().map_err(InFile::at(self.path()))?;
        Ok(files.into_iter().map(|file| (file.name, file.text.into_bytes())).collect())
    }

    /// The blocks of a quantized weight as they are, whole rows in the order of [`TensorId::shape`]; `None` for one that
    /// is not quantized.
    ///
    /// # Errors
    /// [`WeightError::File`] if the file can no longer be read.
    ///
    /// # Panics
    /// If `id` is not in [`TensorId::all`] of the config.
    pub fn read_packed(&self, id: TensorId) -> Result<Option<(GgmlType, Vec<u8>)>, WeightError> {
        let Stored { part, ty, size_bytes, .. } = self.weights[&id];
        if ty.block_numbers == 1 {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        self.rows(id).each(&self.parts[part], &*self.disk, &mut |run| {
            bytes.extend_from_slice(run);
            Ok(())
        })?;
        Ok(Some((ty, bytes)))
    }

    fn rows(&self, id: TensorId) -> Rows {
        let Stored { ty, begin, size_bytes, .. } = self.weights[&id];
        let head_dim = match id {
            TensorId::Layer(_, LayerTensor::QProj | LayerTensor::KProj) => Some(self.config.head_dim),
            _ => None,
        };
        Rows { begin, size_bytes, block_bytes: ty.block_bytes, rows: id.shape(&self.config)[0], head_dim }
    }
}

impl WeightSource for GgufFile {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        match self.weights[&id].ty.kind {
            GgmlKind::F16 => Dtype::Float16,
            GgmlKind::BF16 => Dtype::Bfloat16,
            _ => Dtype::Float32,
        }
    }

    fn packed_type(&self, id: TensorId) -> Option<GgmlType> {
        Some(self.ggml_type(id)).filter(|ty| ty.block_numbers > 1)
    }

    fn packed(&self, id: TensorId) -> Result<Option<PackedTensor>, WeightError> {
        Ok(self.read_packed(id)?.map(|(ty, bytes)| PackedTensor { ty, bytes }))
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let Stored { part, ty, .. } = self.weights[&id];
        let part = &self.parts[part];
        let mut pieces = Chunks::new(self.dtype(id), sink);
        let (mut values, mut bytes, mut place) = (Vec::new(), Vec::new(), 0);
        self.rows(id).each(part, &*self.disk, &mut |run| {
            if ty.block_numbers == 1 {
                return pieces.push(run);
            }
            values.clear();
            bytes.clear();
            dequantize(ty, run, &mut values);
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                let (path, name) = (part.path.clone(), self.name(id));
                let (index, value) = (place + index as u64, values[index]);
                return Err(WeightError::Undecodable { path, name, index, value });
            }
            place += values.len() as u64;
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            pieces.push(&bytes)
        })?;
        pieces.finish()
    }
}

impl GgufFile {
    fn name(&self, id: TensorId) -> String {
        let names = self.parts.iter().flat_map(|part| part.header.tensors.iter().map(|tensor| &*tensor.name));
        Place::of(id, &self.config, Layout::of(names)).name
    }
}

/// Finds every weight that the config calls for, and refuses what it does not.
fn locate(
    config: &DecoderConfig,
    parts: &[Part],
    table: &HashMap<&str, (usize, usize)>,
) -> Result<HashMap<TensorId, Stored>, GgufFault> {
    let layout = Layout::of(table.keys().copied());
    let (mut weights, mut expected) = (HashMap::new(), HashSet::from([ROPE_FACTORS.to_owned()]));
    // One at a time: a config may call for more weights than memory could list.
    for id in TensorId::in_order(config) {
        let Place { name, shape, slice, slices } = Place::of(id, config, layout);
        let Some(&(part, index)) = table.get(&*name) else {
            return Err(GgufFault::MissingTensor { name, blocks: config.num_hidden_layers });
        };
        let tensor = &parts[part].header.tensors[index];
        if tensor.shape != shape {
            return Err(GgufFault::ShapeMismatch { name, found: tensor.shape.clone(), expected: shape });
        }
        let size_bytes = tensor.size_bytes / slices as u64;
        let begin = tensor.begin + slice as u64 * size_bytes;
        weights.insert(id, Stored { part, ty: tensor.ty, begin, size_bytes });
        expected.insert(name);
    }
    match table.keys().filter(|name| !expected.contains(**name)).min() {
        Some(name) => Err(GgufFault::UnexpectedTensor { name: (*name).to_owned() }),
        None => Ok(weights),
    }
}
