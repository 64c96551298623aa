//! A checkpoint on disk, in whichever format it lies there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::commit::FileRecord;
use super::disk::{Disk, sha256};
use super::hf::HfDirectory;
use super::{Dtype, Inherited, Lineage, RawTensor, Sink, TensorId, WeightError, WeightSource};
use crate::config::DecoderConfig;

/// An opened checkpoint of either format.
#[derive(Debug)]
pub enum Checkpoint {
    /// A Hugging Face directory.
    Hf(HfDirectory),
}

/// A tensor as a file holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredTensor {
    /// The file's name for it.
    pub name: String,
    /// The file's name for its number format.
    pub format: String,
    /// Sizes of its axes, slowest first.
    pub shape: Vec<usize>,
    /// Bytes that it takes.
    pub size_bytes: u64,
}

impl Checkpoint {
    /// Opens what lies at `path`: a Hugging Face directory.
    ///
    /// # Errors
    /// Those of [`HfDirectory::open`].
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, WeightError> {
        HfDirectory::open_on(disk, path).map(Self::Hf)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Self::Hf(directory) => directory.path(),
        }
    }

    /// The files that hold the weights.
    pub fn weight_files(&self) -> Vec<PathBuf> {
        match self {
            Self::Hf(directory) => directory.weight_files(),
        }
    }

    /// What the format is called, in words.
    pub fn format(&self) -> String {
        match self {
            Self::Hf(directory) => match directory.weight_files().len() {
                1 => "Hugging Face directory, 1 file of weights".to_owned(),
                count => format!("Hugging Face directory, {count} files of weights"),
            },
        }
    }

    /// Every tensor of its files.
    pub fn stored_tensors(&self) -> Vec<StoredTensor> {
        match self {
            Self::Hf(directory) => directory.stored_tensors(),
        }
    }

    /// What is worth knowing of it and no error.
    pub fn notices(&self) -> Vec<String> {
        match self {
            Self::Hf(directory) => directory.notices().iter().map(ToString::to_string).collect(),
        }
    }

    /// The text of its `tokenizer.json`.
    ///
    /// # Errors
    /// [`WeightError::NotFound`] if it has none; [`WeightError::Io`].
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, WeightError> {
        const LIMIT_BYTES: u64 = 256 << 20;
        match self {
            Self::Hf(directory) => {
                super::read_bounded(&**directory.disk(), &directory.path().join("tokenizer.json"), LIMIT_BYTES)
            }
        }
    }

    /// Size of the weight files.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_files().iter().filter_map(|path| self.disk().stat(path).ok()).map(|stat| stat.size_bytes).sum()
    }

    /// Name, size and hash of each weight file. `watch` is told of every run of bytes read.
    ///
    /// # Errors
    /// [`WeightError::NotFound`], [`WeightError::Io`].
    pub fn weight_records(&self, watch: &mut dyn FnMut(u64)) -> Result<Vec<FileRecord>, WeightError> {
        let record = |path: PathBuf| {
            let file = self.disk().open(&path).map_err(WeightError::io(&path))?;
            let size_bytes = file.stat().map_err(WeightError::io(&path))?.size_bytes;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let sha256 = sha256(&*file, watch).map_err(WeightError::io(&path))?;
            Ok(FileRecord { name, size_bytes, sha256 })
        };
        self.weight_files().into_iter().map(record).collect()
    }

    fn disk(&self) -> &Arc<dyn Disk> {
        match self {
            Self::Hf(directory) => directory.disk(),
        }
    }

    /// What a child has from this checkpoint besides weights.
    ///
    /// # Errors
    /// [`WeightError::Io`].
    pub fn inherited(&self) -> Result<Inherited, WeightError> {
        match self {
            Self::Hf(directory) => directory.inherited(),
        }
    }

    fn source(&self) -> &dyn WeightSource {
        match self {
            Self::Hf(directory) => directory,
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

    fn lineage(&self, id: TensorId) -> Lineage {
        self.source().lineage(id)
    }
}
