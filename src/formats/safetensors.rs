//! Safetensors files, read strictly and written as a stream.
//!
//! [`SafetensorsFile::open`] reads the header alone and refuses whatever the format forbids or leaves open, so
//! that reading a tensor afterwards can only fail if the disk does. Bytes are read where they are asked for, never
//! mapped: a file that is cut short meanwhile is an error and not a signal. What the names mean belongs to
//! [`crate::formats::hf`].

mod entries;
mod header;
mod other_formats;
mod write;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use entries::MOST_TENSORS;
pub use header::TensorInfo;
pub use write::{TensorSpec, safetensors_bytes, write_safetensors};

use crate::error::{FileError, FileFault};
use crate::output::disk::{Disk, ReadAt, Stat, disk, open_regular};
use crate::weights::{Dtype, PIECE_NUMBERS, RawTensor, Sink, WeightError};

/// A file with a checked header. It is opened anew for each tensor: a checkpoint may have more files than a process may
/// hold open.
#[derive(Debug)]
pub struct SafetensorsFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    stat: Stat,
    data_start: u64,
    tensors: Vec<(String, TensorInfo)>,
    metadata: Vec<(String, String)>,
    /// Places in `tensors`, in the order of the names.
    by_name: Vec<u32>,
}

impl SafetensorsFile {
    /// Opens the file and checks its header; reads no tensor.
    ///
    /// # Errors
    /// [`WeightError::File`]; one of
    /// [`WeightError::LfsPointer`], [`WeightError::NotWeights`], [`WeightError::Pickle`], [`WeightError::Gguf`] for a
    /// file that is something else; otherwise the variant of the first broken rule of the header.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        Self::open_on(disk(), path)
    }

    /// As [`open`](Self::open), of a file on `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, WeightError> {
        let file = open_regular(&*disk, path)?;
        let stat = file.stat().map_err(FileError::io(path))?;
        let header::Header { data_start, tensors, by_name, metadata } = header::read(path, &*file, stat.size_bytes)?;
        Ok(Self { disk, path: path.to_owned(), stat, data_start, tensors, metadata, by_name })
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
        let place = self.by_name.binary_search_by(|&i| self.tensors[i as usize].0.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[place] as usize].1)
    }

    /// All bytes of a tensor.
    ///
    /// # Errors
    /// [`WeightError::MissingTensor`] if there is none of this name; [`WeightError::File`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, WeightError> {
        let info = self.existing(name)?;
        self.read_data(info.begin..info.end)
    }

    /// The bytes of a tensor from `range.start` to before `range.end`, counted from its first.
    ///
    /// # Errors
    /// [`WeightError::MissingTensor`] if there is none of this name; [`WeightError::File`].
    ///
    /// # Panics
    /// If the range does not lie within the tensor.
    pub fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, WeightError> {
        let info = self.existing(name)?;
        let size_bytes = info.end - info.begin;
        assert!(range.start <= range.end && range.end <= size_bytes, "{range:?} of {size_bytes} bytes");
        self.read_data(info.begin + range.start..info.begin + range.end)
    }

    /// A tensor with its type and shape.
    ///
    /// # Errors
    /// [`WeightError::MissingTensor`], [`WeightError::UnsupportedDtype`] or [`WeightError::File`].
    pub fn read_tensor(&self, name: &str) -> Result<RawTensor, WeightError> {
        let dtype = self.weight_dtype(name)?;
        Ok(RawTensor::new(dtype, self.existing(name)?.shape.clone(), self.read(name)?))
    }

    pub(super) fn weight_dtype(&self, name: &str) -> Result<Dtype, WeightError> {
        let info = self.existing(name)?;
        let unsupported =
            |found| WeightError::UnsupportedDtype { path: self.path.clone(), name: name.to_owned(), found };
        info.weight_dtype().ok_or_else(|| unsupported(info.dtype))
    }

    pub(super) fn existing(&self, name: &str) -> Result<&TensorInfo, WeightError> {
        self.info(name).ok_or_else(|| WeightError::MissingTensor { path: self.path.clone(), name: name.to_owned() })
    }

    /// Hands the bytes of a tensor, from `range.start` to before `range.end`, to `sink` in pieces of [`PIECE_NUMBERS`]
    /// numbers of `dtype`.
    pub(super) fn stream_range(
        &self,
        name: &str,
        range: Range<u64>,
        dtype: Dtype,
        sink: &mut Sink<'_>,
    ) -> Result<(), WeightError> {
        let start = self.data_start + self.existing(name)?.begin;
        let file = self.reopened()?;
        let mut buffer = vec![0; (PIECE_NUMBERS * dtype.size_bytes()).min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            let piece = &mut buffer[..(PIECE_NUMBERS * dtype.size_bytes()).min((range.end - at) as usize)];
            self.read_exact_at(&*file, piece, start + at)?;
            sink(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn read_data(&self, range: Range<u64>) -> Result<Vec<u8>, WeightError> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|error| FileError::io(&self.path)(io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
        let mut bytes = vec![0; length];
        self.read_exact_at(&*self.reopened()?, &mut bytes, self.data_start + range.start)?;
        Ok(bytes)
    }

    /// The file again, if it still is the one whose header was checked.
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
