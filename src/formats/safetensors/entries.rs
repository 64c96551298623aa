//! Parses the JSON object of a safetensors header entry by entry. A bad entry is refused before it is stored, so memory
//! is bounded by the accepted entries.

use std::fmt;

use ::safetensors::Dtype as StoredDtype;
use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::fault::SafetensorsFault;
use super::tensor_info::TensorInfo;

/// Limit on the tensors of a file, and of a checkpoint.
pub(crate) const MOST_TENSORS: usize = 1_000_000;
/// Limit on the bytes of a tensor's name.
const LONGEST_NAME: usize = 4096;
/// Limit on the axes of a tensor, as in tensor libraries.
const MOST_AXES: usize = 8;
/// The only key that is not a tensor.
const METADATA: &str = "__metadata__";

/// Tensors and metadata, in the order of the text.
#[derive(Default)]
pub(super) struct Entries {
    pub tensors: Vec<(String, TensorInfo)>,
    pub metadata: Vec<(String, String)>,
}

/// Parses the object `json`. Duplicate names are left to the caller.
pub(super) fn parse(json: &[u8]) -> Result<Entries, SafetensorsFault> {
    let mut state = State::default();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = HeaderSeed(&mut state).deserialize(&mut deserializer);
    let (entries, count) =
        read.and_then(|read| deserializer.end().map(|()| read)).map_err(|source| state.error(source))?;
    let too_many = |what, found| SafetensorsFault::TooMany { what, found, limit: MOST_TENSORS };
    match count {
        Count { tensors, .. } if tensors > MOST_TENSORS => Err(too_many("tensors", tensors)),
        Count { metadata, .. } if metadata > MOST_TENSORS => Err(too_many("keys in __metadata__", metadata)),
        _ => Ok(entries),
    }
}

/// Number of entries, stored or not.
#[derive(Default)]
struct Count {
    tensors: usize,
    metadata: usize,
}

/// The entry that is being parsed, and the rule that it breaks.
#[derive(Default)]
struct State {
    broken: Option<SafetensorsFault>,
    entry: Option<String>,
}

impl State {
    fn breaks<E: de::Error>(&mut self, error: SafetensorsFault) -> E {
        self.broken = Some(error);
        E::custom("a broken rule")
    }

    fn error(self, source: serde_json::Error) -> SafetensorsFault {
        match (self.broken, self.entry) {
            (Some(error), _) => error,
            (None, Some(name)) if source.is_data() && name == METADATA => SafetensorsFault::BadMetadata(source),
            (None, Some(name)) if source.is_data() => SafetensorsFault::BadTensorEntry { name, source },
            _ => SafetensorsFault::Malformed(source),
        }
    }
}

struct HeaderSeed<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = (Entries, Count);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = (Entries, Count);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let state = self.0;
        let (mut entries, mut count, mut seen_metadata) = (Entries::default(), Count::default(), false);
        while let Some(name) = map.next_key_seed(NameSeed(state))? {
            if name == METADATA {
                if std::mem::replace(&mut seen_metadata, true) {
                    return Err(state.breaks(SafetensorsFault::DuplicateTensor { name }));
                }
                state.entry = Some(name);
                count.metadata = map.next_value_seed(MetadataSeed(&mut entries.metadata))?;
                continue;
            }
            count.tensors += 1;
            if count.tensors > MOST_TENSORS {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match map.next_value_seed(InfoSeed(state, &name)) {
                Ok(info) => entries.tensors.push((name, info)),
                Err(error) => {
                    state.entry = Some(name);
                    return Err(error);
                }
            }
            state.entry = None;
        }
        Ok((entries, count))
    }
}

struct NameSeed<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the name of a tensor")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<String, E> {
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
            let shown = name.chars().take(LONGEST_NAME).collect();
            let (found_bytes, limit_bytes) = (name.len(), LONGEST_NAME);
            return Err(self.0.breaks(SafetensorsFault::BadTensorName { name: shown, found_bytes, limit_bytes }));
        }
        Ok(name.to_owned())
    }
}

/// Fills the list and returns the number of keys.
struct MetadataSeed<'s>(&'s mut Vec<(String, String)>);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        while self.0.len() < MOST_TENSORS {
            match map.next_entry()? {
                Some(entry) => self.0.push(entry),
                None => return Ok(self.0.len()),
            }
        }
        let mut count = self.0.len();
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Dtype,
    Shape,
    DataOffsets,
}

struct InfoSeed<'s, 'n>(&'s mut State, &'n str);

impl<'de> DeserializeSeed<'de> for InfoSeed<'_, '_> {
    type Value = TensorInfo;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TensorInfo, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for InfoSeed<'_, '_> {
    type Value = TensorInfo;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TensorInfo, A::Error> {
        let Self(state, name) = self;
        let name = name.to_owned();
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<Key>()? {
            let twice = match key {
                Key::Dtype => dtype.replace(map.next_value::<DtypeName>()?).map(|_| "dtype"),
                Key::Shape => shape.replace(map.next_value::<Shape>()?).map(|_| "shape"),
                Key::DataOffsets => offsets.replace(map.next_value::<(u64, u64)>()?).map(|_| "data_offsets"),
            };
            if let Some(key) = twice {
                return Err(state.breaks(SafetensorsFault::DuplicateKey { name, key: key.to_owned() }));
            }
        }
        let dtype = match dtype.ok_or_else(|| de::Error::missing_field("dtype"))? {
            DtypeName::Known(dtype) => dtype,
            DtypeName::Unknown(dtype) => {
                return Err(state.breaks(SafetensorsFault::UnknownDtype { name, dtype }));
            }
        };
        let Shape { sizes: shape, rank } = shape.ok_or_else(|| de::Error::missing_field("shape"))?;
        if rank > MOST_AXES {
            return Err(state.breaks(SafetensorsFault::TooManyAxes { name, found: rank, limit: MOST_AXES }));
        }
        let (begin, end) = offsets.ok_or_else(|| de::Error::missing_field("data_offsets"))?;
        let info = TensorInfo { dtype, shape, begin, end };
        fits(name, &info).map_err(|error| state.breaks(error))?;
        Ok(info)
    }
}

enum DtypeName {
    Known(StoredDtype),
    /// Truncated.
    Unknown(String),
}

impl<'de> Deserialize<'de> for DtypeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DtypeVisitor)
    }
}

struct DtypeVisitor;

impl Visitor<'_> for DtypeVisitor {
    type Value = DtypeName;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<DtypeName, E> {
        let known = StoredDtype::deserialize(StrDeserializer::<de::value::Error>::new(text));
        Ok(known.map_or_else(|_| DtypeName::Unknown(text.chars().take(LONGEST_NAME).collect()), DtypeName::Known))
    }
}

/// The first sizes, and the number of axes.
struct Shape {
    sizes: Vec<usize>,
    rank: usize,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut shape = Shape { sizes: Vec::new(), rank: 0 };
        while let Some(size) = seq.next_element()? {
            if shape.rank < MOST_AXES {
                shape.sizes.push(size);
            }
            shape.rank += 1;
        }
        Ok(shape)
    }
}

/// Checks the span of a tensor against its shape and type.
fn fits(name: String, info: &TensorInfo) -> Result<(), SafetensorsFault> {
    let TensorInfo { begin, end, .. } = *info;
    if begin > end {
        return Err(SafetensorsFault::OffsetsOutOfOrder { name, begin, end });
    }
    // Overflow is checked without the axes of size 0, so that the order of the axes does not matter.
    let product = |floor: usize| {
        let bits = info.dtype.bitsize() as u64;
        info.shape.iter().try_fold(bits, |product, &size| product.checked_mul(size.max(floor) as u64))
    };
    let (Some(_), Some(bits)) = (product(1), product(0)) else {
        return Err(SafetensorsFault::SizeOverflow { name, shape: info.shape.clone() });
    };
    if !bits.is_multiple_of(8) {
        return Err(SafetensorsFault::PartialByte { name, bits });
    }
    let (found_bytes, expected_bytes) = (end - begin, bits / 8);
    if found_bytes != expected_bytes {
        return Err(SafetensorsFault::SizeMismatch { name, found_bytes, expected_bytes });
    }
    Ok(())
}
