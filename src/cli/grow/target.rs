//! What is written: a Hugging Face directory, or a GGUF file.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::super::failure::Failure;
use super::args::{GgufArg, GrowArgs, LayoutArg, OutType};
use crate::formats::gguf::{GgufFileType, GgufOptions, GgufVocabulary, gguf_size_bytes, write_gguf};
use crate::formats::hf::{HfOptions, HfWriter, Layout};
use crate::formats::{Checkpoint, CheckpointError, Sidecar};
use crate::growth::Grown;
use crate::output::commit::{PartialDirectory, PartialFile};
use crate::output::disk::Disk;
use crate::upscale::{Growth, Sources};
use crate::weights::{Dtype, Finite, Strictness, WeightSource};

/// The weights of an output, planned and not read yet.
pub(super) enum Target<'a> {
    /// Safetensors, config, tokenizer.
    Hf { writer: HfWriter<'a, Grown<&'a Checkpoint>>, inherited: Sidecar },
    /// All in one file.
    Gguf {
        source: Finite<&'a Grown<&'a Checkpoint>>,
        vocabulary: Box<GgufVocabulary>,
        options: GgufOptions,
        name: String,
    },
}

impl<'a> Target<'a> {
    /// Plans the files for what was asked.
    pub fn new(args: &GrowArgs, disk: &dyn Disk, sources: &Sources, growth: &'a Growth<'a>) -> Result<Self, Failure> {
        match args.out_type {
            OutType::Hf => {
                let options = HfOptions {
                    dtype: args.dtype.map(|dtype| dtype.dtype()),
                    max_shard_bytes: args.out_shard_size,
                    layout: match args.moe_layout {
                        LayoutArg::V4 => Layout::PerExpert,
                        LayoutArg::V5 => Layout::Fused,
                    },
                    strictness: Strictness { allow_nonfinite: args.allow_nonfinite, saturate: args.saturate },
                };
                Ok(Self::Hf { writer: HfWriter::new(&growth.source, options), inherited: sources.sidecar(disk)? })
            }
            OutType::Gguf(number_type) => {
                if let Some(option) = args.hf_options() {
                    return Err(Failure::usage(format_args!(
                        "{option} beside --out-type gguf: expected it with Hugging Face's format alone"
                    )));
                }
                let (file_type, suffix) = match number_type {
                    GgufArg::F32 => (GgufFileType::F32, "F32"),
                    GgufArg::F16 => (GgufFileType::F16, "F16"),
                    GgufArg::Bf16 => (GgufFileType::Bf16, "BF16"),
                    GgufArg::Q8_0 => (GgufFileType::Q8_0, "Q8_0"),
                };
                let stem = args.out.file_name().map(|name| name.to_string_lossy().into_owned());
                let stem = stem.unwrap_or_else(|| "model".to_owned());
                Ok(Self::Gguf {
                    source: Finite::new(&growth.source, args.allow_nonfinite),
                    vocabulary: Box::new(sources.gguf_vocabulary(disk)?),
                    options: GgufOptions { file_type, name: Some(stem.clone()) },
                    name: format!("{stem}-{suffix}.gguf"),
                })
            }
        }
    }

    /// What the format cannot say, and what would lie in vain in it or is missed there.
    pub fn warnings(&self, args: &GrowArgs, growth: &Growth<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        match self {
            Self::Gguf { source, .. } => {
                let config = source.config();
                let window = config.sliding_window.filter(|window| *window < config.max_position_embeddings);
                let lost =
                    |window| format!("llama.cpp reads no sliding window of a Mistral: that of {window} tokens is lost");
                warnings.extend(window.map(lost));
            }
            Self::Hf { inherited, .. } => {
                if !inherited.has_tokenizer() {
                    let none = "the base has no tokenizer.json and no tokenizer.model: the result has no tokenizer";
                    warnings.push(none.to_owned());
                }
                if args.moe_layout != LayoutArg::V4 && growth.source.config().moe.is_none() {
                    warnings.push("--moe-layout v5 says how experts are stored, and there are none".to_owned());
                }
            }
        }
        warnings
    }

    /// The library that loads it, as the hub calls it.
    pub fn library_name(&self) -> &'static str {
        match self {
            Self::Hf { .. } => "transformers",
            Self::Gguf { .. } => "gguf",
        }
    }

    /// The distance between 1 and the next number of the type that weights are rounded to; `None` if each keeps its type.
    pub fn rounds_to(&self, args: &GrowArgs) -> Option<f64> {
        match (self, args.dtype.map(|dtype| dtype.dtype()), args.out_type) {
            (Self::Hf { .. }, Some(Dtype::Bfloat16), _) => Some(2f64.powi(-7)),
            (Self::Hf { .. }, Some(Dtype::Float16), _) => Some(2f64.powi(-10)),
            (Self::Gguf { .. }, _, OutType::Gguf(GgufArg::F16)) => Some(2f64.powi(-10)),
            (Self::Gguf { .. }, _, OutType::Gguf(GgufArg::Bf16 | GgufArg::Q8_0)) => Some(2f64.powi(-7)),
            _ => None,
        }
    }

    /// Name and size of each file of weights.
    pub fn files(&self) -> Result<Vec<(String, u64)>, Failure> {
        match self {
            Self::Hf { writer, .. } => Ok(writer.files()),
            Self::Gguf { source, vocabulary, options, name } => {
                let bytes = gguf_size_bytes(source.config(), vocabulary, options, Path::new(name))?;
                Ok(vec![(name.clone(), bytes)])
            }
        }
    }

    /// Bytes of the files that are inherited beside them.
    pub fn inherited_bytes(&self, disk: &dyn Disk) -> Result<u64, Failure> {
        match self {
            Self::Hf { inherited, .. } => Ok(inherited.size_bytes(disk)?),
            Self::Gguf { .. } => Ok(0),
        }
    }

    /// Writes them, and what is inherited. `watch` is told of every run of bytes of weights.
    pub fn write(
        &self,
        disk: &Arc<dyn Disk>,
        partial: &mut PartialDirectory,
        watch: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), CheckpointError> {
        match self {
            Self::Hf { writer, inherited } => {
                writer.write(partial, inherited, watch)?;
                Ok(inherited.write(disk, partial)?)
            }
            Self::Gguf { source, vocabulary, options, name } => {
                let mut file = partial.begin(name)?;
                let path = file.path().to_owned();
                write_gguf(source, vocabulary, options, &mut Watched { file: &mut file, watch }, &path)?;
                Ok(partial.finish(file)?)
            }
        }
    }
}

/// A file that tells of what is written to it.
struct Watched<'a> {
    file: &'a mut PartialFile,
    watch: &'a mut (dyn FnMut(u64) + Send),
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        (self.watch)(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
