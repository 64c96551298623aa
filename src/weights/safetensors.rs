//! Safetensors files, read strictly and written as a stream.
//!
//! [`SafetensorsFile::open`] reads the header alone and refuses whatever the format forbids or leaves open, so
//! that reading a tensor afterwards can only fail if the disk does. Bytes are read where they are asked for, never
//! mapped: a file that is cut short meanwhile is an error and not a signal. What the names mean belongs to
//! [`super::hf`].

mod header;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use header::TensorInfo;
pub use write::{TensorSpec, write_safetensors};

use super::{Dtype, RawTensor, WeightError};

/// An open file with a checked header.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    tensors: Vec<(String, TensorInfo)>,
    metadata: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl SafetensorsFile {
    /// Opens the file and checks its header; reads no tensor.
    ///
    /// # Errors
    /// [`WeightError::NotFound`], [`WeightError::NotAFile`] or [`WeightError::Io`]; one of
    /// [`WeightError::LfsPointer`], [`WeightError::HtmlPage`], [`WeightError::Pickle`], [`WeightError::Gguf`] for a
    /// file that is something else; otherwise the variant of the first broken rule of the header.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        let file = open_regular(path)?;
        let header = header::read(path, &file)?;
        let index = header.tensors.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        let header::Header { data_start, tensors, metadata } = header;
        Ok(Self { path: path.to_owned(), file, data_start, tensors, metadata, index })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor, in the order of the bytes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The strings under `__metadata__`, in the order of the header.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Type, shape and place of a tensor, if the file has it.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i].1)
    }

    /// All bytes of a tensor.
    ///
    /// # Errors
    /// [`WeightError::MissingTensor`] if there is none of this name; [`WeightError::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, WeightError> {
        let info = self.existing(name)?;
        self.read_data(info.begin..info.end)
    }

    /// The bytes of a tensor from `range.start` to before `range.end`, counted from its first.
    ///
    /// # Errors
    /// [`WeightError::MissingTensor`] if there is none of this name; [`WeightError::Io`].
    ///
    /// # Panics
    /// If the range does not lie within the tensor.
    pub fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, WeightError> {
        let info = self.existing(name)?;
        let size_bytes = info.end - info.begin;
        assert!(range.start <= range.end && range.end <= size_bytes, "{range:?} of {size_bytes} bytes");
        self.read_data(info.begin + range.start..info.begin + range.end)
    }

    /// A tensor of floating-point numbers.
    ///
    /// # Errors
    /// [`WeightError::MissingTensor`], [`WeightError::UnsupportedDtype`] or [`WeightError::Io`].
    pub fn read_tensor(&self, name: &str) -> Result<RawTensor, WeightError> {
        let dtype = self.float_dtype(name)?;
        Ok(RawTensor::new(dtype, self.existing(name)?.shape.clone(), self.read(name)?))
    }

    pub(super) fn float_dtype(&self, name: &str) -> Result<Dtype, WeightError> {
        let info = self.existing(name)?;
        let unsupported =
            |found| WeightError::UnsupportedDtype { path: self.path.clone(), name: name.to_owned(), found };
        info.float_dtype().ok_or_else(|| unsupported(info.dtype))
    }

    pub(super) fn existing(&self, name: &str) -> Result<&TensorInfo, WeightError> {
        self.info(name).ok_or_else(|| WeightError::MissingTensor { path: self.path.clone(), name: name.to_owned() })
    }

    fn read_data(&self, range: Range<u64>) -> Result<Vec<u8>, WeightError> {
        let io_error = WeightError::io(&self.path);
        let length = usize::try_from(range.end - range.start)
            .map_err(|error| io_error(io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &self.path, &mut bytes, self.data_start + range.start).map_err(io_error)?;
        Ok(bytes)
    }
}

fn open_regular(path: &Path) -> Result<File, WeightError> {
    // Asked before opening, which would wait for a writer if this is a pipe.
    let metadata = std::fs::metadata(path).map_err(WeightError::io(path))?;
    if !metadata.is_file() {
        return Err(WeightError::NotAFile { path: path.to_owned() });
    }
    File::open(path).map_err(WeightError::io(path))
}

#[cfg(unix)]
fn read_exact_at(file: &File, _path: &Path, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Opens the file anew: a shared cursor would mix up the readers of two threads.
#[cfg(not(unix))]
fn read_exact_at(_file: &File, path: &Path, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}
