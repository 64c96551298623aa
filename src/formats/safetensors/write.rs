//! Writes a safetensors file piece by piece, in memory independent of the size of a tensor.

use serde_json::{Map, Value, json};

use crate::output::commit::PartialFile;
use crate::weights::{Dtype, Sink, WeightError};

/// A tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its number format.
    pub dtype: Dtype,
    /// Sizes of its axes, slowest first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Size of the tensor.
    pub fn size_bytes(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product::<u64>() * self.dtype.size_bytes() as u64
    }
}

/// Writes the header for `specs`, then calls `stream` for the bytes of each tensor.
///
/// Tensors are written in the order of `specs`, wide number types first, so each begins at a multiple of the size of its
/// numbers. The header holds `{"format": "pt"}`, without which transformers refuses the file.
///
/// # Errors
/// The error of `stream`; [`WeightError::File`].
///
/// # Panics
/// If two specs have one name or one is named `__metadata__`; if `stream` writes another size than the spec's.
pub fn write_safetensors(
    file: &mut PartialFile,
    specs: &[TensorSpec],
    stream: impl FnMut(&TensorSpec, &mut Sink<'_>) -> Result<(), WeightError>,
) -> Result<(), WeightError> {
    write_safetensors_with(file, &[], specs, stream)
}

/// As [`write_safetensors`], with `metadata` beside the format in the header.
///
/// # Errors
/// As [`write_safetensors`].
///
/// # Panics
/// As [`write_safetensors`].
pub fn write_safetensors_with(
    file: &mut PartialFile,
    metadata: &[(&str, String)],
    specs: &[TensorSpec],
    mut stream: impl FnMut(&TensorSpec, &mut Sink<'_>) -> Result<(), WeightError>,
) -> Result<(), WeightError> {
    let specs = in_file_order(specs);
    file.push(&header(&specs, metadata))?;
    for spec in specs {
        let mut streamed_bytes = 0;
        stream(spec, &mut |piece| {
            streamed_bytes += piece.len() as u64;
            Ok(file.push(piece)?)
        })?;
        assert_eq!(streamed_bytes, spec.size_bytes(), "bytes of {}", spec.name);
    }
    Ok(())
}

/// Size of the file that [`write_safetensors`] writes for `specs`.
pub fn safetensors_bytes(specs: &[TensorSpec]) -> u64 {
    header(&in_file_order(specs), &[]).len() as u64 + specs.iter().map(TensorSpec::size_bytes).sum::<u64>()
}

fn in_file_order(specs: &[TensorSpec]) -> Vec<&TensorSpec> {
    let mut specs: Vec<&TensorSpec> = specs.iter().collect();
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.dtype.size_bytes()));
    specs
}

fn header(specs: &[&TensorSpec], metadata: &[(&str, String)]) -> Vec<u8> {
    let mut entries = Map::new();
    let format = ("format".to_owned(), json!("pt"));
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
    entries.insert("__metadata__".to_owned(), [format].into_iter().chain(metadata).collect());
    let mut begin = 0;
    for spec in specs {
        let end = begin + spec.size_bytes();
        let entry = json!({"dtype": stored_name(spec.dtype), "shape": spec.shape, "data_offsets": [begin, end]});
        let previous = entries.insert(spec.name.clone(), entry);
        assert!(previous.is_none(), "tensor {:?} is announced twice", spec.name);
        begin = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

fn stored_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float64 => "F64",
        Dtype::Float32 => "F32",
        Dtype::Float16 => "F16",
        Dtype::Bfloat16 => "BF16",
        Dtype::Float8E4m3 => "F8_E4M3",
        Dtype::Float8E5m2 => "F8_E5M2",
        Dtype::Int64 => "I64",
        Dtype::Int32 => "I32",
        Dtype::Int16 => "I16",
        Dtype::Int8 => "I8",
        Dtype::Uint64 => "U64",
        Dtype::Uint32 => "U32",
        Dtype::Uint16 => "U16",
        Dtype::Uint8 => "U8",
        Dtype::Bool => "BOOL",
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ::safetensors::SafeTensors;

    use super::super::SafetensorsFile;
    use super::*;
    use crate::output::commit::{Existing, PartialDirectory};
    use crate::output::disk::disk;
    use crate::weights::RawTensor;

    fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }

    fn counted(spec: &TensorSpec) -> RawTensor {
        let values: Vec<f32> = (0..spec.shape.iter().product()).map(|i| i as f32 - 2.0).collect();
        RawTensor::from_f32(spec.dtype, spec.shape.clone(), &values)
    }

    fn written(directory: &tempfile::TempDir, specs: &[TensorSpec]) -> PathBuf {
        let out = directory.path().join("out");
        let mut partial = PartialDirectory::create(disk(), &out, Existing::Keep).unwrap();
        let mut file = partial.begin("model.safetensors").unwrap();
        write_safetensors(&mut file, specs, |spec, sink| counted(spec).bytes().chunks(7).try_for_each(sink)).unwrap();
        partial.finish(file).unwrap();
        assert_eq!(partial.files()[0].size_bytes, safetensors_bytes(specs));
        partial.commit().unwrap();
        out.join("model.safetensors")
    }

    #[test]
    fn the_safetensors_crate_and_we_read_what_we_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let specs = [
            spec("half \"quoted\"", Dtype::Float16, &[3]),
            spec("single", Dtype::Float32, &[2, 3]),
            spec("brain", Dtype::Bfloat16, &[1, 5]),
            spec("nothing", Dtype::Float32, &[0]),
            spec("scalar", Dtype::Float32, &[]),
        ];
        let path = written(&directory, &specs);
        let bytes = std::fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        let ours = SafetensorsFile::open(&path).unwrap();
        assert_eq!(theirs.len(), specs.len());
        for spec in &specs {
            let expected = counted(spec);
            assert_eq!(theirs.tensor(&spec.name).unwrap().data(), expected.bytes());
            assert_eq!(ours.read_tensor(&spec.name).unwrap(), expected);
        }
    }

    #[test]
    fn numbers_are_aligned_whatever_the_order_they_are_given_in() {
        let directory = tempfile::tempdir().unwrap();
        let specs =
            [spec("a", Dtype::Bfloat16, &[1]), spec("b", Dtype::Float32, &[1]), spec("c", Dtype::Float32, &[2])];
        let path = written(&directory, &specs);
        let header_bytes = u64::from_le_bytes(std::fs::read(&path).unwrap()[..8].try_into().unwrap());
        assert_eq!(header_bytes % 8, 0);
        let file = SafetensorsFile::open(&path).unwrap();
        let places: Vec<_> = file.tensors().map(|(name, info)| (name, info.begin)).collect();
        assert_eq!(places, [("b", 0), ("c", 4), ("a", 12)]);
    }

    #[test]
    fn a_file_of_the_safetensors_crate_keeps_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(&directory, &[spec("w", Dtype::Float32, &[2, 2])]);
        let bytes = std::fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        assert_eq!(::safetensors::serialize(theirs.tensors(), Some(metadata)).unwrap(), bytes);
    }

    #[test]
    #[should_panic(expected = "announced twice")]
    fn a_name_that_readers_take_for_metadata_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        written(&directory, &[spec("__metadata__", Dtype::Float32, &[1])]);
    }
}
