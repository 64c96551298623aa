//! The header of a GGUF file: counts, keys and the table of tensors, and the rules that tie them to the bytes after.
//!
//! Every count is checked against the remaining bytes before anything is allocated, and multiplications are checked for
//! overflow, which has caused bugs in llama.cpp.

use std::collections::{HashMap, HashSet};

use super::GgufFault;
use super::cursor::Cursor;
use super::failure::Failure;
use super::metadata::{Entry, ValueType};
use super::type_names::unread_name;
use crate::output::disk::ReadAt;
use crate::weights::GgmlType;

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub entries: HashMap<String, Entry>,
    pub tensors: Vec<TensorEntry>,
}

/// What the table says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorEntry {
    pub name: String,
    pub ty: GgmlType,
    /// Sizes of the axes, slowest first: the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// First byte, counted from the beginning of the file.
    pub begin: u64,
    pub size_bytes: u64,
}

const LEAST_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
const LEAST_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;
const KEY_LIMIT: u64 = 1 << 16;
const TENSOR_LIMIT: u64 = 1 << 18;
const DEFAULT_ALIGNMENT: u64 = 32;

/// Reads the header of a file of so many bytes.
pub(super) fn read(file: &dyn ReadAt, file_bytes: u64) -> Result<Header, Failure> {
    let mut cursor = Cursor::new(file, file_bytes, 0);
    let version = magic_and_version(&mut cursor)?;
    let (tensor_count, key_count) = (cursor.u64()?, cursor.u64()?);
    let left = cursor.left();
    let exceeds = |count: u64, least: u64, limit| u128::from(count) * u128::from(least) > left.into() || count > limit;
    if exceeds(tensor_count, LEAST_TENSOR_BYTES, TENSOR_LIMIT) {
        let needed = u128::from(tensor_count) * u128::from(LEAST_TENSOR_BYTES);
        return Err(GgufFault::TooManyTensors { count: tensor_count, needed, left, limit: TENSOR_LIMIT }.into());
    }
    if exceeds(key_count, LEAST_KEY_BYTES, KEY_LIMIT) {
        let needed = u128::from(key_count) * u128::from(LEAST_KEY_BYTES);
        return Err(GgufFault::TooManyKeys { count: key_count, needed, left, limit: KEY_LIMIT }.into());
    }
    let entries = keys(&mut cursor, key_count)?;
    let alignment = alignment(&entries)?;
    let tensors = table(&mut cursor, tensor_count, alignment)?;
    let data_start = cursor.offset().next_multiple_of(alignment);
    Ok(Header { version, entries, tensors: placed(tensors, data_start, file_bytes)? })
}

fn magic_and_version(cursor: &mut Cursor<'_>) -> Result<u32, Failure> {
    let found = cursor.take(cursor.left().min(4) as usize)?.to_vec();
    match found.as_slice() {
        b"GGUF" => {}
        b"FUGG" => return Err(GgufFault::BigEndian.into()),
        _ => return Err(GgufFault::NotGguf { found }.into()),
    }
    match cursor.u32()? {
        version @ 2..=3 => Ok(version),
        found if found != 0 && found & 0xffff == 0 => Err(GgufFault::BigEndian.into()),
        found => Err(GgufFault::Version { found }.into()),
    }
}

fn keys(cursor: &mut Cursor<'_>, count: u64) -> Result<HashMap<String, Entry>, Failure> {
    let mut entries = HashMap::new();
    for index in 0..count {
        cursor.place = format!("key {} of {count}", index + 1);
        let (offset, length) = (cursor.offset(), cursor.text_length()?);
        if !(1..=0xffff).contains(&length) {
            return Err(GgufFault::KeyLength { offset, length }.into());
        }
        let key = cursor.text(length)?;
        if !key.is_ascii() {
            return Err(GgufFault::KeyNotAscii { key }.into());
        }
        let entry = Entry::read(cursor, &key)?;
        if entries.contains_key(&key) {
            return Err(GgufFault::DuplicateKey { key }.into());
        }
        entries.insert(key, entry);
    }
    Ok(entries)
}

fn alignment(entries: &HashMap<String, Entry>) -> Result<u64, Failure> {
    match entries.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Entry::Unsigned(value @ 8..=65536, ValueType::U32)) if value.is_power_of_two() => Ok(value),
        Some(&Entry::Unsigned(value, ValueType::U32)) => Err(GgufFault::Alignment { found: value.to_string() }.into()),
        Some(entry) => Err(GgufFault::Alignment { found: format!("of type {}", entry.kind()) }.into()),
    }
}

/// The tensors, with `begin` still counted from the first.
fn table(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<TensorEntry>, Failure> {
    let (mut tensors, mut names, mut expected) = (Vec::new(), HashSet::new(), 0u64);
    for index in 0..count {
        cursor.place = format!("tensor {} of {count}", index + 1);
        let tensor = table_entry(cursor, index)?;
        let TensorEntry { name, begin, size_bytes, .. } = &tensor;
        if !names.insert(name.clone()) {
            return Err(GgufFault::DuplicateTensor { name: name.clone() }.into());
        }
        if !begin.is_multiple_of(alignment) {
            return Err(GgufFault::Unaligned { name: name.clone(), offset: *begin, alignment }.into());
        }
        if *begin != expected {
            return Err(GgufFault::OutOfPlace { name: name.clone(), offset: *begin, expected }.into());
        }
        let end = begin.checked_add(*size_bytes).and_then(|end| end.checked_next_multiple_of(alignment));
        expected = end
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| GgufFault::SizeOverflow { name: name.clone() })?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn table_entry(cursor: &mut Cursor<'_>, index: u64) -> Result<TensorEntry, Failure> {
    let length = cursor.text_length()?;
    if !(1..=63).contains(&length) {
        return Err(GgufFault::TensorNameLength { index, length }.into());
    }
    let name = cursor.text(length)?;
    let axes = cursor.u32()?;
    if axes > 4 {
        return Err(GgufFault::TooManyAxes { name, found: axes }.into());
    }
    let mut sizes = Vec::new();
    for axis in 0..axes {
        match cursor.u64()? {
            found if found == 0 || found > i64::MAX as u64 => {
                return Err(GgufFault::AxisSize { name, axis, found }.into());
            }
            size => sizes.push(size),
        }
    }
    let (number, begin) = (cursor.u32()?, cursor.u64()?);
    let Some(ty) = GgmlType::from_number(number) else {
        return Err(match unread_name(number) {
            Some(found) => GgufFault::UnreadType { name, found }.into(),
            None => GgufFault::UnknownType { name, number }.into(),
        });
    };
    let columns = sizes.first().copied().unwrap_or(1);
    if !columns.is_multiple_of(ty.block_numbers as u64) {
        return Err(GgufFault::PartialBlock { name, columns, ty: ty.name, block_numbers: ty.block_numbers }.into());
    }
    // Both the numbers and their bytes: what is dequantized takes more than what is stored.
    let numbers = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let fits = |numbers: &u64| numbers.checked_mul(8).is_some_and(|bytes| i64::try_from(bytes).is_ok());
    let Some(numbers) = numbers.filter(fits) else { return Err(GgufFault::SizeOverflow { name }.into()) };
    let shape = sizes.iter().rev().map(|&size| size as usize).collect();
    Ok(TensorEntry { name, ty, shape, begin, size_bytes: ty.size_bytes(numbers) })
}

fn placed(mut tensors: Vec<TensorEntry>, data_start: u64, file_bytes: u64) -> Result<Vec<TensorEntry>, Failure> {
    for tensor in &mut tensors {
        let end = tensor.begin.saturating_add(data_start).saturating_add(tensor.size_bytes);
        if end > file_bytes {
            return Err(GgufFault::BeyondFile { name: tensor.name.clone(), end, file_bytes }.into());
        }
        tensor.begin += data_start;
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests;
