//! Safetensors files, read strictly and written as a stream.
//!
//! [`SafetensorsFile::open`] reads only the header and refuses everything that the format forbids or leaves open, so a
//! later read of a tensor can only fail if the disk does. Bytes are read on demand and never memory-mapped: a file that
//! is truncated meanwhile is an error and not a signal. The meaning of the names belongs to [`crate::formats::hf`].

mod entries;
mod fault;
mod header;
mod other_formats;
mod tensor_info;
mod write;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use entries::MOST_TENSORS;
pub use fault::{SafetensorsError, SafetensorsFault};
pub use tensor_info::TensorInfo;
pub use write::{TensorSpec, safetensors_bytes, write_safetensors, write_safetensors_with};

use crate::error::{FileError, FileFault};
use crate::output::disk::{Disk, ReadAt, Stat, disk};
use crate::output::read::open_regular;
use crate::weights::{Dtype, PIECE_NUMBERS, RawTensor, Sink, WeightError};

/// A file with a checked header. It is opened again for each read: a checkpoint may have more files than a process may
/// hold open.
#[derive(Debug)]
pub struct SafetensorsFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    stat: Stat,
    data_start: u64,
    tensors: Vec<(String, TensorInfo)>,
    metadata: Vec<(String, String)>,
    /// Indices into `tensors`, in the order of the names.
    by_name: Vec<u32>,
}

impl SafetensorsFile {
    /// Opens the file and checks its header; reads no tensor.
    ///
    /// # Errors
    /// The first rule that the file breaks.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        Self::open_on(disk(), path)
    }

    /// As [`open`](Self::open), of a file on `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, SafetensorsError> {
        let file = open_regular(&*disk, path)?;
        let stat = file.stat().map_err(FileError::io(path))?;
        let header = header::read(&*file, stat.size_bytes).map_err(SafetensorsError::at(path))?;
        let header::Header { data_start, tensors, by_name, metadata } = header;
        Ok(Self { disk, path: path.to_owned(), stat, data_start, tensors, metadata, by_name })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of the bytes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The strings under `__metadata__`, in the order of the header.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Type, shape and position of a tensor, if the file has it.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        let place = self.by_name.binary_search_by(|&i| self.tensors[i as usize].0.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[place] as usize].1)
    }

    /// All bytes of a tensor.
    ///
    /// # Errors
    /// [`SafetensorsFault::MissingTensor`]; [`SafetensorsFault::File`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, SafetensorsError> {
        Ok(self.read_bytes(self.existing(name)?.span())?)
    }

    /// The bytes `range` of a tensor, counted from its first.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If the range does not lie within the tensor.
    pub fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, SafetensorsError> {
        let span = self.existing(name)?.span();
        let size_bytes = span.end - span.start;
        assert!(range.start <= range.end && range.end <= size_bytes, "{range:?} of {size_bytes} bytes");
        Ok(self.read_bytes(span.start + range.start..span.start + range.end)?)
    }

    /// A tensor with its type and shape.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`SafetensorsFault::UnsupportedDtype`].
    pub fn read_tensor(&self, name: &str) -> Result<RawTensor, SafetensorsError> {
        let info = self.existing(name)?;
        let dtype = info.weight_dtype().ok_or_else(|| {
            let fault = SafetensorsFault::UnsupportedDtype { name: name.to_owned(), found: info.dtype };
            SafetensorsError::new(&self.path, fault)
        })?;
        Ok(RawTensor::new(dtype, info.shape.clone(), self.read_bytes(info.span())?))
    }

    fn existing(&self, name: &str) -> Result<&TensorInfo, SafetensorsError> {
        let missing = || SafetensorsFault::MissingTensor { name: name.to_owned() };
        self.info(name).ok_or_else(|| SafetensorsError::new(&self.path, missing()))
    }

    /// The bytes `range` of the data, counted from the end of the header.
    pub(super) fn read_bytes(&self, range: Range<u64>) -> Result<Vec<u8>, FileError> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|error| FileError::io(&self.path)(io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
        let mut bytes = vec![0; length];
        self.read_exact_at(&*self.reopened()?, &mut bytes, self.data_start + range.start)?;
        Ok(bytes)
    }

    /// Hands the bytes `range` of the data to `sink`, in pieces of [`PIECE_NUMBERS`] numbers of `dtype`.
    pub(super) fn stream_bytes(&self, range: Range<u64>, dtype: Dtype, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let piece_bytes = (PIECE_NUMBERS * dtype.size_bytes()) as u64;
        let file = self.reopened()?;
        let mut buffer = vec![0; piece_bytes.min(range.end - range.start) as usize];
        let mut at = range.start;
        while at < range.end {
            let piece = &mut buffer[..piece_bytes.min(range.end - at) as usize];
            self.read_exact_at(&*file, piece, self.data_start + at)?;
            sink(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// The file, if it still is the one whose header was checked.
    fn reopened(&self) -> Result<Box<dyn ReadAt>, FileError> {
        let file = self.disk.open(&self.path).map_err(FileError::io(&self.path))?;
        if file.stat().map_err(FileError::io(&self.path))? != self.stat {
            return Err(FileError::new(&self.path, FileFault::Changed));
        }
        Ok(file)
    }

    fn read_exact_at(&self, file: &dyn ReadAt, bytes: &mut [u8], offset: u64) -> Result<(), FileError> {
        file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            // The header was checked against the size of the file.
            io::ErrorKind::UnexpectedEof => FileError::new(&self.path, FileFault::Changed),
            _ => FileError::io(&self.path)(error),
        })
    }
}
