//! The keys of a GGUF file. Numbers are kept in memory; text and arrays are validated, and read from the file on demand.

use std::collections::HashMap;

use super::GgufFault;
use super::cursor::Cursor;
use super::failure::Failure;
use crate::output::disk::ReadAt;

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Entry {
    Unsigned(u64, ValueType),
    Signed(i64, ValueType),
    Float(f64, ValueType),
    Bool(bool),
    /// UTF-8 in the file.
    Text {
        begin: u64,
        length: u64,
    },
    /// Values in the file.
    Array {
        element: ValueType,
        begin: u64,
        count: u64,
    },
}

/// The types of values, with the numbers that GGUF gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Failure> {
        let (offset, found) = (cursor.offset(), cursor.u32()?);
        Self::ALL.get(found as usize).copied().ok_or_else(|| GgufFault::ValueType { offset, found }.into())
    }

    pub fn name(self) -> &'static str {
        const NAMES: [&str; 13] =
            ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"];
        NAMES[self as usize]
    }

    /// Bytes of a value; of text and arrays, the least.
    fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }
}

impl Entry {
    pub fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Failure> {
        let ty = ValueType::read(cursor)?;
        Ok(match ty {
            ValueType::U8 => Self::Unsigned(cursor.array::<1>()?[0].into(), ty),
            ValueType::U16 => Self::Unsigned(u16::from_le_bytes(cursor.array()?).into(), ty),
            ValueType::U32 => Self::Unsigned(cursor.u32()?.into(), ty),
            ValueType::U64 => Self::Unsigned(cursor.u64()?, ty),
            ValueType::I8 => Self::Signed(i8::from_le_bytes(cursor.array()?).into(), ty),
            ValueType::I16 => Self::Signed(i16::from_le_bytes(cursor.array()?).into(), ty),
            ValueType::I32 => Self::Signed(i32::from_le_bytes(cursor.array()?).into(), ty),
            ValueType::I64 => Self::Signed(i64::from_le_bytes(cursor.array()?), ty),
            ValueType::F32 => Self::Float(shortest(f32::from_le_bytes(cursor.array()?)), ty),
            ValueType::F64 => Self::Float(f64::from_le_bytes(cursor.array()?), ty),
            ValueType::Bool => Self::Bool(truth(cursor)?),
            ValueType::Text => {
                let length = cursor.text_length()?;
                let begin = cursor.offset();
                cursor.pass_text(length)?;
                Self::Text { begin, length }
            }
            ValueType::Array => Self::read_array(cursor, key)?,
        })
    }

    fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Failure> {
        let offset = cursor.offset();
        let (element, count) = (ValueType::read(cursor)?, cursor.u64()?);
        if element == ValueType::Array {
            return Err(GgufFault::NestedArray { key: key.to_owned() }.into());
        }
        let (begin, left) = (cursor.offset(), cursor.left());
        if count.checked_mul(element.least_bytes()).is_none_or(|bytes| bytes > left) {
            return Err(GgufFault::ArrayBeyondFile { offset, count, element: element.name(), left }.into());
        }
        match element {
            ValueType::Text => {
                for _ in 0..count {
                    let length = cursor.text_length()?;
                    cursor.pass_text(length)?;
                }
            }
            ValueType::Bool => (0..count).try_for_each(|_| truth(cursor).map(drop))?,
            _ => cursor.skip(count * element.least_bytes()),
        }
        Ok(Self::Array { element, begin, count })
    }

    /// Its type, in words.
    pub fn kind(&self) -> String {
        match self {
            Self::Unsigned(_, ty) | Self::Signed(_, ty) | Self::Float(_, ty) => ty.name().to_owned(),
            Self::Bool(_) => "bool".to_owned(),
            Self::Text { .. } => "string".to_owned(),
            Self::Array { element, .. } => format!("array of {}", element.name()),
        }
    }
}

fn truth(cursor: &mut Cursor<'_>) -> Result<bool, Failure> {
    let offset = cursor.offset();
    match cursor.array::<1>()? {
        [found @ 0..=1] => Ok(found == 1),
        [found] => Err(GgufFault::Bool { offset, found }.into()),
    }
}

/// The shortest decimal that rounds to the number, which is what stood in `config.json`: 1e-5 and not
/// 9.999999747378752e-6.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

/// The keys of a file, and the file itself for what is not held.
pub(super) struct Metadata<'a> {
    pub entries: &'a HashMap<String, Entry>,
    pub file: &'a dyn ReadAt,
    pub file_bytes: u64,
}

impl Metadata<'_> {
    /// A key that need not be there, as what `want` makes of it.
    fn get<T>(
        &self,
        key: &str,
        expected: &'static str,
        want: impl FnOnce(Entry) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(&entry) = self.entries.get(key) else { return Ok(None) };
        let wrong = || GgufFault::WrongType { key: key.to_owned(), found: entry.kind(), expected };
        want(entry).map(Some).ok_or_else(|| wrong().into())
    }

    /// A count, of whichever type of integer.
    pub fn count(&self, key: &str) -> Result<Option<usize>, Failure> {
        self.get(key, "an integer that is not negative", |entry| match entry {
            Entry::Unsigned(value, _) => usize::try_from(value).ok(),
            Entry::Signed(value, _) => usize::try_from(value).ok(),
            _ => None,
        })
    }

    /// A count that must be there.
    pub fn needed_count(&self, key: &str) -> Result<usize, Failure> {
        self.count(key)?.ok_or_else(|| GgufFault::MissingKey { key: key.to_owned() }.into())
    }

    /// A token id, which may name no token.
    pub fn id(&self, key: &str) -> Result<Option<i64>, Failure> {
        self.get(key, "an integer of at most 32 bits", |entry| match entry {
            Entry::Unsigned(value, _) => u32::try_from(value).ok().map(i64::from),
            Entry::Signed(value, _) => i32::try_from(value).ok().map(i64::from),
            _ => None,
        })
    }

    /// A real number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, Failure> {
        self.get(key, "a floating-point number", |entry| match entry {
            Entry::Float(value, _) => Some(value),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Failure> {
        self.get(key, "a bool", |entry| match entry {
            Entry::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// Text, read from the file.
    pub fn text(&self, key: &str) -> Result<Option<String>, Failure> {
        let place = self.get(key, "a string", |entry| match entry {
            Entry::Text { begin, length } => Some((begin, length)),
            _ => None,
        })?;
        place.map(|(begin, length)| self.cursor(begin).text(length)).transpose()
    }

    /// An array of text, read from the file; empty if there is none.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, Failure> {
        self.array(key, ValueType::Text, "an array of string", |cursor| {
            let length = cursor.text_length()?;
            cursor.text(length)
        })
    }

    /// An array of f32, read from the file; empty if there is none.
    pub fn floats(&self, key: &str) -> Result<Vec<f32>, Failure> {
        self.array(key, ValueType::F32, "an array of f32", |cursor| cursor.array().map(f32::from_le_bytes))
    }

    /// An array of i32, read from the file; empty if there is none.
    pub fn integers(&self, key: &str) -> Result<Vec<i32>, Failure> {
        self.array(key, ValueType::I32, "an array of i32", |cursor| cursor.array().map(i32::from_le_bytes))
    }

    /// Length of an array of any type, if there is one.
    pub fn array_length(&self, key: &str) -> Result<Option<usize>, Failure> {
        self.get(key, "an array", |entry| match entry {
            Entry::Array { count, .. } => usize::try_from(count).ok(),
            _ => None,
        })
    }

    fn array<T>(
        &self,
        key: &str,
        wanted: ValueType,
        expected: &'static str,
        mut one: impl FnMut(&mut Cursor<'_>) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let place = self.get(key, expected, |entry| match entry {
            Entry::Array { element, begin, count } if element == wanted => Some((begin, count)),
            _ => None,
        })?;
        let Some((begin, count)) = place else { return Ok(Vec::new()) };
        let mut cursor = self.cursor(begin);
        (0..count).map(|_| one(&mut cursor)).collect()
    }

    fn cursor(&self, begin: u64) -> Cursor<'_> {
        Cursor::new(self.file, self.file_bytes, begin)
    }
}
