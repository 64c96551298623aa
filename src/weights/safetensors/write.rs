//! Writes a safetensors file tensor by tensor: memory is bounded by the largest one.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::weights::{Dtype, RawTensor, WeightError};

/// The announcement of a tensor that will be written.
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
    /// Bytes that the tensor takes.
    pub fn size_bytes(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product::<u64>() * self.dtype.size_bytes() as u64
    }
}

/// Writes the header for `specs`, then asks `tensor` for each in turn and writes it.
///
/// The order is that of `specs`, wide numbers before narrow ones: every tensor begins at a multiple of the size
/// of its numbers. The header carries `{"format": "pt"}`, without which transformers refuses the file.
///
/// # Errors
/// What `tensor` returns; [`WeightError::Io`].
///
/// # Panics
/// If two specs have one name or one is called `__metadata__`; if a tensor is not what its spec announced.
pub fn write_safetensors(
    path: &Path,
    specs: &[TensorSpec],
    mut tensor: impl FnMut(&TensorSpec) -> Result<RawTensor, WeightError>,
) -> Result<(), WeightError> {
    let mut specs: Vec<&TensorSpec> = specs.iter().collect();
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.dtype.size_bytes()));
    let mut file = File::create(path).map_err(WeightError::io(path))?;
    file.write_all(&header(&specs)).map_err(WeightError::io(path))?;
    for spec in specs {
        let tensor = tensor(spec)?;
        assert_eq!((tensor.dtype(), tensor.shape()), (spec.dtype, spec.shape.as_slice()), "{}", spec.name);
        file.write_all(tensor.bytes()).map_err(WeightError::io(path))?;
    }
    Ok(())
}

fn header(specs: &[&TensorSpec]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
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

    fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }

    fn counted(spec: &TensorSpec) -> RawTensor {
        let values: Vec<f32> = (0..spec.shape.iter().product()).map(|i| i as f32 - 2.0).collect();
        RawTensor::from_f32(spec.dtype, spec.shape.clone(), &values)
    }

    fn written(directory: &tempfile::TempDir, specs: &[TensorSpec]) -> PathBuf {
        let path = directory.path().join("model.safetensors");
        write_safetensors(&path, specs, |spec| Ok(counted(spec))).unwrap();
        path
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
