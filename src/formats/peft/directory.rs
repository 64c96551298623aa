//! An adapter directory on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{Parsed, parse};
use super::fault::{PeftError, PeftFault};
use super::stacked::Stacks;
use super::{CONFIG, MODEL, PREFIX, factor_names};
use crate::config::DecoderConfig;
use crate::error::{FileError, InFile};
use crate::formats::safetensors::SafetensorsFile;
use crate::formats::{CheckpointError, Notice, Remark};
use crate::lora::{LoraAdapter, LoraConfig, LoraTarget, module_name};
use crate::output::disk::{Disk, disk};
use crate::output::read::{blake3, read_bounded};
use crate::weights::{LowRank, TensorId};

/// Size of the largest config.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// Copies of whole matrices that PEFT writes beside an adapter of the head. They are those of the base.
const COPIES: [&str; 3] = ["lm_head.base_layer.weight", "lm_head.weight", "model.embed_tokens.weight"];

/// An adapter directory, its config and the header of its factors read.
#[derive(Debug)]
pub struct PeftDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    config: LoraConfig,
    config_blake3: String,
    stacks: Stacks,
    base: Option<String>,
    factors: SafetensorsFile,
    notices: Vec<Notice>,
}

impl PeftDirectory {
    /// Opens a directory; reads no factor.
    ///
    /// # Errors
    /// [`CheckpointError::File`], [`CheckpointError::Safetensors`], [`CheckpointError::Peft`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_on(disk(), path)
    }

    /// As [`open`](Self::open), of a directory on `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, CheckpointError> {
        let config_path = path.join(CONFIG);
        let text = read_bounded(&*disk, &config_path, CONFIG_LIMIT_BYTES)?;
        let Parsed { config, stacks, base, remarks } = parse(&text).map_err(PeftError::at(&config_path))?;
        let factors = SafetensorsFile::open_on(disk.clone(), &path.join(MODEL))?;
        let mut notices: Vec<Notice> = remarks.into_iter().map(|remark| InFile::new(&config_path, remark)).collect();
        let copies = factors
            .tensors()
            .filter_map(|(name, _)| copied(name))
            .map(|name| Remark::BaseCopy { name: name.to_owned() });
        notices.extend(copies.map(|remark| InFile::new(factors.path(), remark)));
        let config_blake3 = ::blake3::hash(&text).to_hex().to_string();
        Ok(Self { disk, path: path.to_owned(), config, config_blake3, stacks, base, factors, notices })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The hyperparameters.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The base that the adapter was trained on, by the name in its config.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Findings that are not errors.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The hash of the file with the factors, BLAKE3 in hexadecimal.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn blake3(&self) -> Result<String, FileError> {
        let failed = || FileError::io(self.factors.path());
        let file = self.disk.open(self.factors.path()).map_err(failed())?;
        blake3(&*file, &mut |_| ()).map_err(failed())
    }

    /// The hash of `adapter_config.json`, BLAKE3 in hexadecimal.
    pub fn config_blake3(&self) -> &str {
        &self.config_blake3
    }

    /// Reads the adapter, in float32, for a decoder.
    ///
    /// # Errors
    /// [`CheckpointError::Peft`] if the factors are not exactly those that the config asks for in this decoder;
    /// [`CheckpointError::Safetensors`].
    pub fn read(&self, decoder: &DecoderConfig) -> Result<LoraAdapter, CheckpointError> {
        let in_config = |error| PeftError::new(self.path.join(CONFIG), PeftFault::Lora(error));
        if !self.stacks.is_empty() && decoder.moe.is_none() {
            let found = self.stacks.modules().collect::<Vec<_>>().into();
            let fault =
                PeftFault::Unsupported { key: "target_parameters", found, expected: "null: the base has no experts" };
            return Err(PeftError::new(self.path.join(CONFIG), fault).into());
        }
        let targets = self.config.targets(decoder).map_err(in_config)?;
        let mut unexpected: BTreeSet<&str> =
            self.factors.tensors().map(|(name, _)| name).filter(|name| copied(name).is_none()).collect();
        // The copies would be of another base if their shape were another: one with more tokens.
        for (name, info) in self.factors.tensors().filter(|(name, _)| copied(name).is_some()) {
            let expected = TensorId::EmbedTokens.shape(decoder);
            if info.shape != expected {
                let (name, found, axes) =
                    (name.to_owned(), info.shape.clone(), "[vocab_size, hidden_size] of the base");
                return Err(self.fault(PeftFault::Shape { name, found, expected, axes }).into());
            }
        }
        // Every shape first: a factor is read only if all fit.
        let mut found = Vec::with_capacity(targets.len());
        for target in targets {
            let module = module_name(target.id).expect("a target is a linear map");
            let [rows, columns] = target.id.shape(decoder)[..] else { unreachable!("linear maps have two axes") };
            let slice = self.stacks.slice(target.id, decoder);
            let [a, b] = slice.as_ref().map_or_else(|| factor_names(&module), |slice| slice.names.clone());
            let (num_rows, rank) = match &slice {
                Some(slice) => (slice.num_rows, target.rank * slice.num_experts),
                None => (rows, target.rank),
            };
            self.check(&a, [rank, columns], "[rank, in_features]")?;
            self.check(&b, [num_rows, rank], "[out_features, rank]")?;
            for name in [&a, &b] {
                unexpected.remove(name.as_str());
            }
            found.push((target, rows, [a, b], slice));
        }
        if let Some(name) = unexpected.first() {
            return Err(self.fault(PeftFault::UnexpectedTensor { name: (*name).to_owned() }).into());
        }
        let mut updates = BTreeMap::new();
        // Matrices of a stack read the same tensors.
        let mut stacked: BTreeMap<[String; 2], [Vec<f32>; 2]> = BTreeMap::new();
        for (LoraTarget { id, rank, scale }, rows, names, slice) in found {
            let read = || -> Result<[Vec<f32>; 2], CheckpointError> {
                let [a, b] = &names;
                Ok([self.factors.read_tensor(a)?, self.factors.read_tensor(b)?].map(|factor| factor.to_f32()))
            };
            let [a, b] = match slice {
                None => read()?,
                Some(slice) => {
                    if !stacked.contains_key(&names) {
                        stacked.insert(names.clone(), read()?);
                    }
                    let [a, b] = &stacked[&names];
                    slice.cut(a, b, rank, rows)
                }
            };
            updates.insert(id, Arc::new(LowRank { a, b, rank, scale }));
        }
        Ok(LoraAdapter::new(self.config.clone(), decoder, updates).map_err(in_config)?)
    }

    #[expect(clippy::result_large_err, reason = "called once per factor")]
    fn check(&self, name: &str, expected: [usize; 2], axes: &'static str) -> Result<(), PeftError> {
        let info =
            self.factors.info(name).ok_or_else(|| self.fault(PeftFault::MissingTensor { name: name.to_owned() }))?;
        if info.shape != expected {
            let (name, found, expected) = (name.to_owned(), info.shape.clone(), expected.to_vec());
            return Err(self.fault(PeftFault::Shape { name, found, expected, axes }));
        }
        match info.weight_dtype() {
            Some(found) if !found.is_float() => Err(self.fault(PeftFault::Dtype { name: name.to_owned(), found })),
            _ => Ok(()),
        }
    }

    fn fault(&self, fault: PeftFault) -> PeftError {
        PeftError::new(self.factors.path(), fault)
    }
}

/// The weight of the base that a tensor is a copy of.
fn copied(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).filter(|name| COPIES.contains(name))
}
