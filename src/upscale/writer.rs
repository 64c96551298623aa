//! Writes a growth as a complete directory: weights, tokenizer, configs, model card, receipt.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::UpscaleError;
use super::growth::Growth;
use super::model_card::{Finish, model_card};
use super::noise::WrittenAs;
use super::receipt::{Provenance, parents, receipt};
use super::sources::Sources;
use crate::error::FileError;
use crate::formats::gguf::{GgufFileType, GgufOptions, GgufVocabulary, gguf_size_bytes, write_gguf};
use crate::formats::hf::{HfOptions, HfWriter, Layout};
use crate::formats::{Checkpoint, CheckpointError, Sidecar};
use crate::growth::Grown;
use crate::output::commit::{PartialDirectory, PartialFile};
use crate::output::disk::Disk;
use crate::output::receipt::RECEIPT;
use crate::weights::{Dtype, Finite, WeightSource};

/// Size of the small files beside the weights, at most.
const SLACK_BYTES: u64 = 1 << 20;

/// How weights are written.
#[derive(Debug, Clone)]
pub enum OutputFormat {
    /// Safetensors, with config and tokenizer beside them.
    Hf(HfOptions),
    /// One GGUF file.
    Gguf {
        /// The number type of the matrices.
        file_type: GgufFileType,
        /// Write infinities and NaN instead of refusing them.
        allow_nonfinite: bool,
    },
}

/// Writes a growth. Creating one reads headers and tokenizers only.
pub struct GrowthWriter<'a> {
    sources: &'a Sources,
    growth: &'a Growth<'a>,
    written_as: WrittenAs,
    weights: Weights<'a>,
}

enum Weights<'a> {
    Hf {
        writer: HfWriter<'a, Grown<&'a Checkpoint>>,
        sidecar: Sidecar,
        layout: Layout,
    },
    Gguf {
        source: Finite<&'a Grown<&'a Checkpoint>>,
        vocabulary: Box<GgufVocabulary>,
        options: GgufOptions,
        name: String,
    },
}

impl<'a> GrowthWriter<'a> {
    /// Prepares a growth of `sources` for a directory called `name`.
    ///
    /// # Errors
    /// If the tokenizer cannot be read, or has no form in GGUF.
    pub fn new(
        disk: &dyn Disk,
        sources: &'a Sources,
        growth: &'a Growth<'a>,
        format: OutputFormat,
        name: &str,
    ) -> Result<Self, UpscaleError> {
        let written_as = match &format {
            OutputFormat::Hf(options) => options.dtype.map_or(WrittenAs::Stored, WrittenAs::Float),
            OutputFormat::Gguf { file_type: GgufFileType::F32, .. } => WrittenAs::Float(Dtype::Float32),
            OutputFormat::Gguf { file_type: GgufFileType::F16, .. } => WrittenAs::Float(Dtype::Float16),
            OutputFormat::Gguf { file_type: GgufFileType::Bf16, .. } => WrittenAs::Float(Dtype::Bfloat16),
            OutputFormat::Gguf { file_type, .. } => WrittenAs::Blocks(*file_type),
        };
        let weights = match format {
            OutputFormat::Hf(options) => Weights::Hf {
                layout: options.layout,
                writer: HfWriter::new(&growth.source, options),
                sidecar: sources.sidecar(disk)?,
            },
            OutputFormat::Gguf { file_type, allow_nonfinite } => Weights::Gguf {
                source: Finite::new(&growth.source, allow_nonfinite),
                vocabulary: Box::new(sources.gguf_vocabulary(disk)?),
                options: GgufOptions { file_type, name: Some(name.to_owned()) },
                name: format!("{name}-{}.gguf", file_type.name()),
            },
        };
        Ok(Self { sources, growth, written_as, weights })
    }

    /// What the format cannot express, what the output lacks, and what was asked for in vain.
    pub fn warnings(&self) -> Vec<String> {
        let config = self.growth.source.config();
        let mut warnings = Vec::new();
        match &self.weights {
            Weights::Gguf { .. } => {
                let window = config.sliding_window.filter(|window| *window < config.max_position_embeddings);
                let lost =
                    |window| format!("llama.cpp reads no sliding window of a Mistral: that of {window} tokens is lost");
                warnings.extend(window.map(lost));
            }
            Weights::Hf { sidecar, layout, .. } => {
                if !sidecar.has_tokenizer() {
                    let none = "the base has no tokenizer.json and no tokenizer.model: the result has no tokenizer";
                    warnings.push(none.to_owned());
                }
                if *layout == Layout::Fused && config.moe.is_none() {
                    warnings.push("a fused layout of experts was asked for, but the result has no experts".to_owned());
                }
            }
        }
        warnings.extend(self.growth.noise.as_ref().and_then(|noise| noise.warning(self.written_as)));
        warnings
    }

    /// The distance between 1 and the next number of the type that weights are rounded to; `None` if each keeps its type.
    pub fn rounds_to(&self) -> Option<f64> {
        match self.written_as {
            WrittenAs::Float(Dtype::Float16) => Some(2f64.powi(-10)),
            WrittenAs::Float(Dtype::Bfloat16) => Some(2f64.powi(-7)),
            WrittenAs::Blocks(file_type) => file_type.levels().map(|levels| 1.0 / f64::from(levels)),
            WrittenAs::Float(_) | WrittenAs::Stored => None,
        }
    }

    /// Name and size of each file of weights.
    ///
    /// # Errors
    /// If the model has no form in GGUF.
    pub fn files(&self) -> Result<Vec<(String, u64)>, CheckpointError> {
        match &self.weights {
            Weights::Hf { writer, .. } => Ok(writer.files()),
            Weights::Gguf { source, vocabulary, options, name } => {
                let bytes = gguf_size_bytes(source.config(), vocabulary, options, Path::new(name))?;
                Ok(vec![(name.clone(), bytes)])
            }
        }
    }

    /// Upper bound of the size of all other files.
    ///
    /// # Errors
    /// If a file of the parent cannot be read.
    pub fn other_bytes(&self, disk: &dyn Disk) -> Result<u64, FileError> {
        match &self.weights {
            Weights::Hf { sidecar, .. } => Ok(sidecar.size_bytes(disk)? + SLACK_BYTES),
            Weights::Gguf { .. } => Ok(SLACK_BYTES),
        }
    }

    /// Bytes that [`write`](Self::write) reports to `watch`, of which `weight_bytes` are written.
    pub fn watched_bytes(&self, weight_bytes: u64) -> u64 {
        weight_bytes + self.sources.bases.iter().map(Checkpoint::weight_bytes).sum::<u64>()
    }

    /// Writes and commits the directory, and hashes the parents on another thread. `watch` receives the size of each chunk of
    /// weights written or hashed.
    ///
    /// # Errors
    /// [`CheckpointError`]; the directory is then removed, unless it is complete: see [`PartialDirectory::commit`].
    pub fn write(
        &self,
        disk: &Arc<dyn Disk>,
        mut partial: PartialDirectory,
        provenance: &Provenance,
        watch: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CheckpointError> {
        let (parents, written) = std::thread::scope(|scope| {
            let parents = scope.spawn(|| parents(self.sources, &mut |bytes| watch(bytes)));
            let written = self.write_weights(disk, &mut partial, watch);
            (parents.join().expect("hashing does not panic"), written)
        });
        written?;
        let mut receipt = receipt(parents?, self.growth, provenance);
        for (name, bytes) in &self.growth.configs {
            partial.write(name, bytes)?;
        }
        let library = match self.weights {
            Weights::Hf { .. } => "transformers",
            Weights::Gguf { .. } => "gguf",
        };
        let finish = match self.written_as {
            WrittenAs::Blocks(file_type) => Finish::Quantized(file_type.name()),
            WrittenAs::Stored | WrittenAs::Float(_) => Finish::Stored,
        };
        partial.write("README.md", model_card(self.sources, self.growth, library, finish)?.as_bytes())?;
        receipt["files"] = json!(partial.files());
        partial.write(RECEIPT, format!("{receipt:#}\n").as_bytes())?;
        Ok(partial.commit()?)
    }

    fn write_weights(
        &self,
        disk: &Arc<dyn Disk>,
        partial: &mut PartialDirectory,
        watch: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CheckpointError> {
        match &self.weights {
            Weights::Hf { writer, sidecar, .. } => {
                writer.write(partial, sidecar, &mut |bytes| watch(bytes))?;
                Ok(sidecar.write(disk, partial)?)
            }
            Weights::Gguf { source, vocabulary, options, name } => {
                let mut file = partial.begin(name)?;
                let path = file.path().to_owned();
                write_gguf(source, vocabulary, options, &mut Watched { file: &mut file, watch }, &path)?;
                Ok(partial.finish(file)?)
            }
        }
    }
}

/// A file that reports the bytes written to it.
struct Watched<'a> {
    file: &'a mut PartialFile,
    watch: &'a (dyn Fn(u64) + Sync),
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
