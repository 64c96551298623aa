//! Llama in candle-transformers: dense from safetensors, or quantized from GGUF.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde_json::Value;

/// A model with its K/V cache. Clones share tensors.
#[derive(Clone)]
pub struct Model {
    weights: Weights,
    /// Tokens read per sequence.
    position: usize,
}

#[derive(Clone)]
enum Weights {
    Dense { llama: Llama, cache: Cache, config: Config, dtype: DType },
    Quantized(ModelWeights),
}

impl Model {
    /// Loads a GGUF file, or a Hugging Face directory in `dtype`.
    pub fn open(path: &str, dtype: &str) -> Result<Self, Box<dyn Error>> {
        let path = Path::new(path);
        let weights = if path.is_dir() { Weights::dense(path, dtype)? } else { Weights::quantized(path)? };
        Ok(Self { weights, position: 0 })
    }

    /// Clears the K/V cache.
    pub fn clear(&mut self) -> Result<(), Box<dyn Error>> {
        self.position = 0;
        match &mut self.weights {
            Weights::Dense { cache, config, dtype, .. } => *cache = Cache::new(true, *dtype, config, &Device::Cpu)?,
            Weights::Quantized(model) => model.clear_kv_cache(),
        }
        Ok(())
    }

    /// Reads one row of ids per sequence. Returns the logits of the last position, `[sequences, vocabulary]`.
    pub fn forward(&mut self, ids: &[Vec<u32>]) -> Result<Tensor, Box<dyn Error>> {
        let (batch, length) = (ids.len(), ids[0].len());
        let ids = Tensor::from_vec(ids.concat(), (batch, length), &Device::Cpu)?;
        let logits = match &mut self.weights {
            Weights::Dense { llama, cache, .. } => llama.forward(&ids, self.position, cache)?,
            Weights::Quantized(model) => model.forward(&ids, self.position)?,
        };
        self.position += length;
        Ok(logits)
    }
}

impl Weights {
    fn dense(folder: &Path, dtype: &str) -> Result<Self, Box<dyn Error>> {
        let mut config: Value = serde_json::from_reader(File::open(folder.join("config.json"))?)?;
        if let Some(theta) = config["rope_parameters"].get("rope_theta").cloned() {
            config["rope_theta"] = theta; // candle reads only the older key
        }
        let config = serde_json::from_value::<LlamaConfig>(config)?.into_config(false);
        let dtype = match dtype {
            "float32" => DType::F32,
            "bfloat16" => DType::BF16,
            other => return Err(format!("unknown dtype {other:?}").into()),
        };
        let mut files = Vec::<PathBuf>::new();
        for entry in std::fs::read_dir(folder)? {
            files.push(entry?.path());
        }
        files.retain(|file| file.extension().is_some_and(|e| e == "safetensors"));
        // SAFETY: the files are mapped; nothing writes them while the comparison runs.
        let tensors = unsafe { VarBuilder::from_mmaped_safetensors(&files, dtype, &Device::Cpu)? };
        let llama = Llama::load(tensors, &config)?;
        let cache = Cache::new(true, dtype, &config, &Device::Cpu)?;
        Ok(Self::Dense { llama, cache, config, dtype })
    }

    fn quantized(path: &Path) -> Result<Self, Box<dyn Error>> {
        let mut file = File::open(path)?;
        let content = gguf_file::Content::read(&mut file)?;
        Ok(Self::Quantized(ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?))
    }
}
