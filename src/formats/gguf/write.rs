//! Writes a source of weights as one GGUF file, tensor by tensor.
//!
//! Names, order of axes, number types and keys are those of llama.cpp's converter (`conversion/llama.py`), so that
//! llama.cpp loads the file as it loads its own. Mixtral is a `llama` with experts there; so is Mistral, whose sliding
//! window llama.cpp does not read for this architecture, and which is therefore not written.

mod encode;
mod keys;
mod number_types;
mod options;
mod quantize;
mod rope_factors;
mod tensors;

pub use options::{GgufFileType, GgufOptions};
pub(super) use rope_factors::rope_factors;

use std::io::{self, Write};
use std::path::Path;

use self::encode::Encoder;
use self::keys::header;
use self::options::ALIGNMENT;
use self::tensors::{Content, GgufTensor, tensors};
use super::GgufVocabulary;
use crate::config::DecoderConfig;
use crate::error::FileError;
use crate::formats::CheckpointError;
use crate::weights::{WeightError, WeightSource};

/// The size of the file that [`write_gguf`] writes, without reading a weight.
///
/// # Errors
/// As [`write_gguf`] before it reads.
pub fn gguf_size_bytes(
    config: &DecoderConfig,
    vocabulary: &GgufVocabulary,
    options: &GgufOptions,
    path: &Path,
) -> Result<u64, CheckpointError> {
    let tensors = tensors(config, options.file_type);
    let header = header(config, vocabulary, options, &tensors, path)?;
    Ok(header.len() as u64 + tensors.iter().map(|tensor| tensor.size_bytes().next_multiple_of(ALIGNMENT)).sum::<u64>())
}

/// Writes the weights of `source` to `file`, which is at `path`; to bring it to disk is the caller's to do. Memory is bounded by the vocabulary, one
/// piece of a weight and the rows of one attention head.
///
/// A vocabulary with fewer tokens than the embedding table has rows is filled up with unused ones.
///
/// # Errors
/// [`CheckpointError::Vocabulary`] if there are more tokens than rows, or the vocabulary breaks a rule of its own;
/// [`CheckpointError::Gguf`] if a size exceeds 32 bits; [`CheckpointError::File`]; [`CheckpointError::Weights`] if a weight
/// is not of floating-point numbers or the type cannot hold one of them, such as NaN in Q8_0, and what `source` returns.
pub fn write_gguf(
    source: &(impl WeightSource + ?Sized),
    vocabulary: &GgufVocabulary,
    options: &GgufOptions,
    file: &mut dyn Write,
    path: &Path,
) -> Result<(), CheckpointError> {
    let failed = FileError::io(path);
    let tensors = tensors(source.config(), options.file_type);
    file.write_all(&header(source.config(), vocabulary, options, &tensors, path)?).map_err(&failed)?;
    for tensor in &tensors {
        let mut out = Counted { file: &mut *file, written_bytes: 0 };
        write_tensor(source, tensor, &mut |bytes| Ok(out.write_all(bytes).map_err(&failed)?))?;
        assert_eq!(out.written_bytes, tensor.size_bytes(), "bytes of {}", tensor.name);
        file.write_all(&vec![0; padding(tensor.size_bytes())]).map_err(&failed)?;
    }
    Ok(())
}

fn write_tensor(
    source: &(impl WeightSource + ?Sized),
    tensor: &GgufTensor,
    sink: &mut crate::weights::Sink<'_>,
) -> Result<(), WeightError> {
    match &tensor.content {
        Content::Numbers(numbers) => {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            sink(&bytes)
        }
        Content::Weights { ids, head } => ids.iter().try_for_each(|&id| {
            let mut encoder = Encoder::new(id, source.dtype(id), tensor.number_type, sink)?;
            match head {
                None => source.stream(id, &mut |piece| encoder.push(piece)),
                Some(head) => {
                    let mut heads = head.interleaved(source.dtype(id));
                    source.stream(id, &mut |piece| heads.push(piece, &mut |rows| encoder.push(rows)))
                }
            }
        }),
    }
}

/// Zeros after so many bytes.
fn padding(size_bytes: u64) -> usize {
    (size_bytes.next_multiple_of(ALIGNMENT) - size_bytes) as usize
}

/// A writer that knows how much it wrote.
struct Counted<'a> {
    file: &'a mut dyn Write,
    written_bytes: u64,
}

impl Counted<'_> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written_bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}
