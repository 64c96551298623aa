//! Writes a source of weights as a checkpoint directory, in bounded memory.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config;
use super::directory::HfDirectory;
use super::names::{Layout, Place};
use super::shards::{INDEX, SINGLE};
use crate::formats::Sidecar;
use crate::formats::safetensors::{TensorSpec, safetensors_bytes, write_safetensors};
use crate::output::OutputError;
use crate::output::commit::{Existing, PartialDirectory};
use crate::output::disk::disk;
use crate::weights::Rounding;
use crate::weights::{Dtype, Strictness, TensorId, WeightError, WeightSource};

/// How to write a checkpoint directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HfOptions {
    /// The type of all numbers; `None` keeps the type and bytes of each weight.
    pub dtype: Option<Dtype>,
    /// Limit on the bytes of tensors in a file; a larger tensor gets a file of its own.
    pub max_shard_bytes: u64,
    /// Layout of the experts of a mixture.
    pub layout: Layout,
    /// How to treat values that a weight should not have.
    pub strictness: Strictness,
}

/// One file, each weight in its own type, one tensor per expert matrix.
impl Default for HfOptions {
    fn default() -> Self {
        let strictness = Strictness { allow_nonfinite: true, saturate: false };
        Self { dtype: None, max_shard_bytes: u64::MAX, layout: Layout::PerExpert, strictness }
    }
}

/// A planned checkpoint directory, with each tensor assigned to a file.
#[derive(Debug)]
pub struct HfWriter<'a, S> {
    source: &'a S,
    options: HfOptions,
    shards: Vec<Vec<Stored>>,
}

/// A tensor to write: one weight, or several concatenated.
#[derive(Debug)]
struct Stored {
    spec: TensorSpec,
    parts: Vec<TensorId>,
}

impl<'a, S: WeightSource> HfWriter<'a, S> {
    /// Plans the files for `source`; reads no weight.
    pub fn new(source: &'a S, options: HfOptions) -> Self {
        let mut tensors: Vec<Stored> = Vec::new();
        for id in TensorId::all(source.config()) {
            let Place { name, shape, first } = Place::of(id, source.config(), options.layout);
            let dtype = options.dtype.unwrap_or_else(|| source.dtype(id));
            match tensors.iter_mut().rev().take(2).find(|stored| first > 0 && stored.spec.name == name) {
                Some(stored) => stored.parts.push(id),
                None => tensors.push(Stored { spec: TensorSpec { name, dtype, shape }, parts: vec![id] }),
            }
        }
        Self { source, options, shards: shards(tensors, options.max_shard_bytes) }
    }

    /// Name and size of each weight file.
    pub fn files(&self) -> Vec<(String, u64)> {
        let size_bytes = |shard: &Vec<Stored>| safetensors_bytes(&specs(shard));
        self.shards.iter().enumerate().map(|(i, shard)| (self.shard_name(i), size_bytes(shard))).collect()
    }

    /// Writes the weights, their index if there are several files, and `config.json` with the inherited keys. `watch` is
    /// called with the size of each run of bytes written.
    ///
    /// # Errors
    /// [`OutputError::Weights`] with [`WeightError::NotFinite`], [`WeightError::Overflow`], [`WeightError::NotComputable`] or
    /// the error of the source; [`OutputError::File`].
    pub fn write(
        &self,
        partial: &mut PartialDirectory,
        inherited: &Sidecar,
        watch: &mut dyn FnMut(u64),
    ) -> Result<(), OutputError> {
        for (i, shard) in self.shards.iter().enumerate() {
            let mut file = partial.begin(&self.shard_name(i))?;
            let parts: HashMap<&str, &[TensorId]> =
                shard.iter().map(|stored| (stored.spec.name.as_str(), stored.parts.as_slice())).collect();
            write_safetensors(&mut file, &specs(shard), |spec, sink| {
                for &id in parts[spec.name.as_str()] {
                    self.stream(spec, id, &mut |piece| {
                        watch(piece.len() as u64);
                        sink(piece)
                    })?;
                }
                Ok(())
            })?;
            partial.finish(file)?;
        }
        if self.shards.len() > 1 {
            partial.write(INDEX, &text(&self.index()))?;
        }
        let main_dtype = self.options.dtype.unwrap_or_else(|| self.source.dtype(TensorId::EmbedTokens));
        let config = config::to_json(self.source.config(), main_dtype, inherited.config_keys.clone());
        Ok(partial.write("config.json", &text(&Value::Object(config)))?)
    }

    fn stream(
        &self,
        spec: &TensorSpec,
        id: TensorId,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), WeightError>,
    ) -> Result<(), WeightError> {
        let from = self.source.dtype(id);
        if from != spec.dtype && !(from.is_float() && spec.dtype.is_computed_with()) {
            let expected = "floating-point numbers to round";
            return Err(WeightError::NotComputable { id, found: from, expected });
        }
        let mut rounding = Rounding::new(id, from, spec.dtype, self.options.strictness);
        self.source.stream(id, &mut |piece| sink(rounding.round(piece)?))
    }

    fn shard_name(&self, i: usize) -> String {
        let count = self.shards.len();
        if count == 1 { SINGLE.to_owned() } else { format!("model-{:05}-of-{count:05}.safetensors", i + 1) }
    }

    fn index(&self) -> Value {
        let total_size: u64 = self.shards.iter().flatten().map(|stored| stored.spec.size_bytes()).sum();
        let weight_map: Map<String, Value> = self
            .shards
            .iter()
            .enumerate()
            .flat_map(|(i, shard)| {
                shard.iter().map(move |stored| (stored.spec.name.clone(), json!(self.shard_name(i))))
            })
            .collect();
        json!({"metadata": {"total_size": total_size}, "weight_map": weight_map})
    }
}

/// Writes `config.json` and `model.safetensors` to the new directory `out`.
///
/// Numbers are written as `dtype`, or in their own type; bytes whose type does not change are copied.
/// From `carry` come the tokenizer, the generation settings, the chat template, and the keys of `config.json` that
/// [`DecoderConfig`](crate::config::DecoderConfig) does not know.
///
/// # Errors
/// [`OutputError::Exists`] if `out` is anything but absent or an empty directory; [`OutputError::Weights`] with the
/// error of `source`; [`OutputError::File`]. `out` does not exist after an error.
pub fn write_hf_directory(
    source: &impl WeightSource,
    carry: Option<&HfDirectory>,
    dtype: Option<Dtype>,
    out: &Path,
) -> Result<(), OutputError> {
    write_hf_shards(source, carry, dtype, u64::MAX, out)
}

/// As [`write_hf_directory`], with the weights in files of at most `max_shard_bytes` bytes of tensors each, and an
/// index if that makes several. A larger tensor has a file of its own.
///
/// # Errors
/// As [`write_hf_directory`].
pub fn write_hf_shards(
    source: &impl WeightSource,
    carry: Option<&HfDirectory>,
    dtype: Option<Dtype>,
    max_shard_bytes: u64,
    out: &Path,
) -> Result<(), OutputError> {
    let disk = carry.map_or_else(disk, |parent| parent.disk().clone());
    let mut partial = PartialDirectory::create(disk.clone(), out, Existing::Keep)?;
    let inherited = carry.map_or_else(|| Ok(Sidecar::nothing()), HfDirectory::inherited)?;
    let writer = HfWriter::new(source, HfOptions { dtype, max_shard_bytes, ..HfOptions::default() });
    writer.write(&mut partial, &inherited, &mut |_| ())?;
    inherited.write(&disk, &mut partial)?;
    partial.commit()
}

/// Distributes the tensors over shards, in order.
fn shards(tensors: Vec<Stored>, max_shard_bytes: u64) -> Vec<Vec<Stored>> {
    let (mut shards, mut filled_bytes) = (vec![Vec::new()], 0u64);
    for stored in tensors {
        let shard = shards.last_mut().expect("there is always a last shard");
        let size_bytes = stored.spec.size_bytes();
        if shard.is_empty() || filled_bytes.saturating_add(size_bytes) <= max_shard_bytes {
            shard.push(stored);
            filled_bytes += size_bytes;
        } else {
            shards.push(vec![stored]);
            filled_bytes = size_bytes;
        }
    }
    shards
}

fn specs(shard: &[Stored]) -> Vec<TensorSpec> {
    shard.iter().map(|stored| stored.spec.clone()).collect()
}

fn text(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::path::PathBuf;

    use ::safetensors::tensor::TensorView;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig};
    use crate::error::{FileError, FileFault};
    use crate::formats::safetensors::SafetensorsFile;
    use crate::weights::{LayerTensor, MemoryWeights, Projection, RawTensor, Sink};

    fn config(model_type: ModelType, change: impl FnOnce(&mut DecoderFields)) -> DecoderConfig {
        let moe = MoeConfig { num_local_experts: 3, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
        let small = |fields: &mut DecoderFields| {
            fields.model_type = model_type;
            fields.moe = (model_type == ModelType::Mixtral).then_some(moe);
            (fields.vocab_size, fields.hidden_size, fields.intermediate_size) = (11, 8, 6);
            (fields.num_hidden_layers, fields.head_dim) = (3, 6);
            change(fields);
        };
        DecoderConfig::pico().with(small).unwrap()
    }

    fn random(config: DecoderConfig, dtype: Dtype) -> MemoryWeights {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        MemoryWeights::new(config.clone(), |id| {
            let shape = id.shape(&config);
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
            RawTensor::from_f32(dtype, shape, &values)
        })
    }

    fn assert_same_weights(a: &impl WeightSource, b: &impl WeightSource) {
        assert_eq!(a.config(), b.config());
        for id in TensorId::all(a.config()) {
            assert_eq!(a.read(id).unwrap(), b.read(id).unwrap(), "{id:?}");
        }
    }

    fn files(directory: &Path) -> HashMap<PathBuf, Vec<u8>> {
        let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| (PathBuf::from(path.file_name().unwrap()), fs::read(&path).unwrap())).collect()
    }

    #[test]
    fn a_round_trip_keeps_every_bit_of_every_family_and_type() {
        let root = tempfile::tempdir().unwrap();
        for model_type in [ModelType::Llama, ModelType::Mistral, ModelType::Mixtral] {
            for (tied, dtype) in [true, false]
                .into_iter()
                .flat_map(|tied| [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16].map(|dtype| (tied, dtype)))
            {
                let config = config(model_type, |fields| fields.tie_word_embeddings = tied);
                let weights = random(config, dtype);
                let (first, second) = (root.path().join("first"), root.path().join("second"));
                write_hf_directory(&weights, None, None, &first).unwrap();
                let read = HfDirectory::open(&first).unwrap();
                assert_same_weights(&weights, &read);
                write_hf_directory(&read, Some(&read), None, &second).unwrap();
                assert_eq!(files(&first), files(&second));
                fs::remove_dir_all(&first).unwrap();
                fs::remove_dir_all(&second).unwrap();
            }
        }
    }

    #[test]
    fn shards_hold_what_one_file_holds() {
        let root = tempfile::tempdir().unwrap();
        let weights = random(config(ModelType::Mixtral, |_| ()), Dtype::Float32);
        for max_shard_bytes in [0, 500, 3000] {
            let out = root.path().join(max_shard_bytes.to_string());
            write_hf_shards(&weights, None, None, max_shard_bytes, &out).unwrap();
            assert_same_weights(&weights, &HfDirectory::open(&out).unwrap());
            let files = files(&out);
            let index: Value = serde_json::from_slice(&files[Path::new(INDEX)]).unwrap();
            let tensors = TensorId::all(weights.config());
            let total: usize = tensors.iter().map(|&id| weights.read(id).unwrap().bytes().len()).sum();
            assert_eq!(index["metadata"]["total_size"], total);
            assert_eq!(index["weight_map"].as_object().unwrap().len(), tensors.len());
            let shards = files.len() - 2;
            assert!(files.contains_key(Path::new(&format!("model-{shards:05}-of-{shards:05}.safetensors"))));
            assert!(if max_shard_bytes == 0 { shards == tensors.len() } else { shards < tensors.len() });
        }
    }

    #[test]
    fn experts_fused_into_one_tensor_read_as_experts_apart() {
        let root = tempfile::tempdir().unwrap();
        let weights = random(config(ModelType::Mixtral, |_| ()), Dtype::Bfloat16);
        write_hf_directory(&weights, None, None, root.path()).unwrap();
        let config = weights.config();
        let mut tensors: Vec<(String, RawTensor)> = Vec::new();
        for id in TensorId::all(config) {
            let TensorId::Layer(layer, tensor) = id else {
                tensors.push((id.to_string(), weights.read(id).unwrap()));
                continue;
            };
            let fused = |parts: &[Projection], shape: [usize; 3]| {
                let expert = |(e, p)| weights.read(TensorId::Layer(layer, LayerTensor::Expert(e, p))).unwrap();
                let order = (0..3).flat_map(|e| parts.iter().map(move |&p| (e, p)));
                RawTensor::new(Dtype::Bfloat16, shape.to_vec(), order.flat_map(|ep| expert(ep).into_bytes()).collect())
            };
            let name = |suffix: &str| format!("model.layers.{layer}.{suffix}");
            match tensor {
                LayerTensor::Expert(0, Projection::Up) => tensors
                    .push((name("mlp.experts.gate_up_proj"), fused(&[Projection::Gate, Projection::Up], [3, 12, 8]))),
                LayerTensor::Expert(0, Projection::Down) => {
                    tensors.push((name("mlp.experts.down_proj"), fused(&[Projection::Down], [3, 8, 6])));
                }
                LayerTensor::Expert(..) => {}
                LayerTensor::Router => tensors.push((name("mlp.gate.weight"), weights.read(id).unwrap())),
                _ => tensors.push((id.to_string(), weights.read(id).unwrap())),
            }
        }
        let views = tensors.iter().map(|(name, tensor)| {
            (name, TensorView::new(::safetensors::Dtype::BF16, tensor.shape().to_vec(), tensor.bytes()).unwrap())
        });
        ::safetensors::serialize_to_file(views, None, &root.path().join(SINGLE)).unwrap();
        let read = HfDirectory::open(root.path()).unwrap();
        assert_same_weights(&weights, &read);

        // And written so, it is those very tensors.
        let out = root.path().join("out");
        let mut partial = PartialDirectory::create(disk(), &out, Existing::Keep).unwrap();
        let options = HfOptions { layout: Layout::Fused, ..HfOptions::default() };
        HfWriter::new(&weights, options).write(&mut partial, &Sidecar::nothing(), &mut |_| ()).unwrap();
        partial.commit().unwrap();
        let written = SafetensorsFile::open(&out.join(SINGLE)).unwrap();
        assert_eq!(written.tensors().count(), tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!(&written.read_tensor(name).unwrap(), tensor, "{name}");
        }
    }

    #[test]
    fn another_type_is_the_source_rounded() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let weights = random(config(ModelType::Llama, |_| ()), Dtype::Float32);
        write_hf_directory(&weights, None, Some(Dtype::Bfloat16), &out).unwrap();
        let read = HfDirectory::open(&out).unwrap();
        assert_eq!(read.raw_config()["dtype"], "bfloat16");
        for id in TensorId::all(weights.config()) {
            assert_eq!(read.read(id).unwrap(), weights.read(id).unwrap().cast(Dtype::Bfloat16));
        }
    }

    #[test]
    fn a_grown_model_inherits_the_tokenizer_and_the_keys_of_its_parent() {
        let root = tempfile::tempdir().unwrap();
        let (parent, child) = (root.path().join("parent"), root.path().join("child"));
        write_hf_directory(&random(config(ModelType::Llama, |_| ()), Dtype::Float32), None, None, &parent).unwrap();
        fs::write(parent.join("tokenizer.json"), "{}").unwrap();
        fs::write(parent.join("README.md"), "the parent's card").unwrap();
        let text = fs::read_to_string(parent.join("config.json")).unwrap();
        fs::write(parent.join("config.json"), text.replacen('{', "{\"transformers_version\": \"4.40.0\",", 1)).unwrap();
        let deeper = random(config(ModelType::Llama, |fields| fields.num_hidden_layers = 5), Dtype::Float32);
        write_hf_directory(&deeper, Some(&HfDirectory::open(&parent).unwrap()), None, &child).unwrap();
        let read = HfDirectory::open(&child).unwrap();
        assert_eq!(read.config().num_hidden_layers, 5);
        assert_eq!(read.raw_config()["transformers_version"], "4.40.0");
        assert!(child.join("tokenizer.json").is_file() && !child.join("README.md").exists());
    }

    #[test]
    fn a_source_that_fails_midway_leaves_nothing() {
        struct Failing(MemoryWeights);
        impl WeightSource for Failing {
            fn config(&self) -> &DecoderConfig {
                self.0.config()
            }
            fn dtype(&self, id: TensorId) -> Dtype {
                self.0.dtype(id)
            }
            fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
                if id == TensorId::Norm {
                    return Err(FileError::new("gone", FileFault::NotFound).into());
                }
                self.0.stream(id, sink)
            }
        }
        let root = tempfile::tempdir().unwrap();
        let weights = Failing(random(config(ModelType::Llama, |_| ()), Dtype::Float32));
        let error = write_hf_directory(&weights, None, None, &root.path().join("out")).unwrap_err();
        assert!(matches!(error, OutputError::File(_)), "{error}");
        assert!(files(root.path()).is_empty());
    }

    #[test]
    fn the_hash_of_the_weights_is_that_of_the_files_in_order() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let weights = random(config(ModelType::Llama, |_| ()), Dtype::Float32);
        write_hf_shards(&weights, None, None, 2000, &out).unwrap();
        let mut shards: Vec<_> =
            files(&out).into_iter().filter(|(name, _)| name.extension().unwrap() == "safetensors").collect();
        shards.sort();
        assert!(shards.len() > 1);
        let bytes: Vec<u8> = shards.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(HfDirectory::open(&out).unwrap().weights_sha256(&mut |_| ()).unwrap(), expected);
    }
}
