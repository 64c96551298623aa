//! The files of a checkpoint: one, or several parts of which the first has the keys.

use std::path::{Path, PathBuf};

use crate::error::{FileError, FileFault};
use crate::formats::CheckpointError;
use crate::formats::gguf::GgufFault;
use crate::formats::gguf::cursor::Cursor;
use crate::formats::gguf::failure::Failure;
use crate::formats::gguf::header::{self, Header, TensorEntry};
use crate::formats::gguf::metadata::Metadata;
use crate::formats::gguf::part_name::suffix;
use crate::output::disk::{Disk, ReadAt, Stat};
use crate::output::read::open_regular;
use crate::weights::GgmlKind;

/// A file with a checked header.
#[derive(Debug)]
pub(super) struct Part {
    pub path: PathBuf,
    stat: Stat,
    pub header: Header,
}

/// Opens the file, and the other parts if it is the first of several.
pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Vec<Part>, CheckpointError> {
    let first = Part::open(disk, path)?;
    let fault = |fault: GgufFault| Failure::at(path)(fault.into());
    let count = match first.split(disk)? {
        Some((_, count, _)) if count > 1 => count,
        _ => return Ok(vec![first]),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(stem) = name.strip_suffix(&suffix(1, count)) else { return Err(fault(GgufFault::PartName { count })) };
    let others: Vec<PathBuf> =
        (2..=count).map(|part| path.with_file_name(stem.to_owned() + &suffix(part, count))).collect();
    let missing: Vec<&PathBuf> = others.iter().filter(|path| disk.stat(path).is_err()).collect();
    if !missing.is_empty() {
        let names = missing.iter().take(5).filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let (names, missing, total) = (names.collect(), missing.len(), count as usize);
        return Err(fault(GgufFault::MissingParts { names, missing, total }));
    }
    let mut parts = vec![first];
    for path in &others {
        parts.push(Part::open(disk, path)?);
    }
    agree(disk, &parts, count)?;
    Ok(parts)
}

/// Each part is the one that its name says, and together they hold all tensors, each once.
fn agree(disk: &dyn Disk, parts: &[Part], count: u64) -> Result<(), CheckpointError> {
    for (part, expected) in parts.iter().zip(1..) {
        let (number, of, _) = part.split(disk)?.unwrap_or((0, 1, None));
        if (number + 1, of) != (expected, count) {
            let fault = GgufFault::WrongPart { found: number + 1, count: of, expected, expected_count: count };
            return Err(Failure::at(&part.path)(fault.into()));
        }
    }
    let fault = |fault: GgufFault| Failure::at(&parts[0].path)(fault.into());
    let mut names = std::collections::HashSet::new();
    for tensor in parts.iter().flat_map(|part| &part.header.tensors) {
        if !names.insert(&tensor.name) {
            return Err(fault(GgufFault::DuplicateTensor { name: tensor.name.clone() }));
        }
    }
    let found = names.len() as u64;
    match parts[0].split(disk)?.and_then(|(_, _, tensors)| tensors).filter(|expected| *expected != found) {
        Some(expected) => Err(fault(GgufFault::PartTensors { found, expected })),
        None => Ok(()),
    }
}

impl Part {
    fn open(disk: &dyn Disk, path: &Path) -> Result<Self, CheckpointError> {
        let file = open_regular(disk, path)?;
        let stat = file.stat().map_err(FileError::io(path))?;
        let header = header::read(&*file, stat.size_bytes).map_err(Failure::at(path))?;
        Ok(Self { path: path.to_owned(), stat, header })
    }

    /// Number of this part, counted from 0, of all parts, and of the tensors in all of them.
    fn split(&self, disk: &dyn Disk) -> Result<Option<(u64, u64, Option<u64>)>, CheckpointError> {
        self.with_metadata(disk, |keys| {
            let Some(count) = keys.count("split.count")? else { return Ok(None) };
            // The name gives the count in five digits.
            if count > 99_999 {
                return Err(GgufFault::PartName { count: count as u64 }.into());
            }
            let tensors = keys.count("split.tensors.count")?.map(|count| count as u64);
            Ok(Some((keys.needed_count("split.no")? as u64, count as u64, tensors)))
        })
    }

    /// Asks for keys.
    pub fn with_metadata<T>(
        &self,
        disk: &dyn Disk,
        ask: impl FnOnce(&Metadata<'_>) -> Result<T, Failure>,
    ) -> Result<T, CheckpointError> {
        let file = self.reopened(disk)?;
        let keys = Metadata { entries: &self.header.entries, file: &*file, file_bytes: self.stat.size_bytes };
        ask(&keys).map_err(Failure::at(&self.path))
    }

    /// The factors of rotary frequencies.
    pub fn read_factors(
        &self,
        disk: &dyn Disk,
        tensor: &TensorEntry,
        count: usize,
    ) -> Result<Vec<f32>, CheckpointError> {
        let fault = |fault: GgufFault| Failure::at(&self.path)(fault.into());
        if tensor.shape != [count] {
            let (name, found) = (tensor.name.clone(), tensor.shape.clone());
            return Err(fault(GgufFault::ShapeMismatch { name, found, expected: vec![count] }));
        }
        if tensor.ty.kind != GgmlKind::F32 {
            return Err(fault(GgufFault::UnknownRopeFactors));
        }
        let file = self.reopened(disk)?;
        let mut cursor = Cursor::new(&*file, self.stat.size_bytes, tensor.begin);
        let factors: Result<Vec<f32>, Failure> = (0..count).map(|_| cursor.array().map(f32::from_le_bytes)).collect();
        factors.map_err(Failure::at(&self.path))
    }

    /// The file again, if it still is the one whose header was checked.
    pub fn reopened(&self, disk: &dyn Disk) -> Result<Box<dyn ReadAt>, FileError> {
        let file = disk.open(&self.path).map_err(FileError::io(&self.path))?;
        if file.stat().map_err(FileError::io(&self.path))? != self.stat {
            return Err(FileError::new(&self.path, FileFault::Changed));
        }
        Ok(file)
    }

    /// Fills `bytes` from a place that the header says is in the file.
    pub fn read_exact_at(&self, file: &dyn ReadAt, bytes: &mut [u8], offset: u64) -> Result<(), FileError> {
        file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => FileError::new(&self.path, FileFault::Changed),
            _ => FileError::io(&self.path)(error),
        })
    }
}
