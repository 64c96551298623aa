//! Small sound checkpoints, and ways to break them.

use std::fs;
use std::path::Path;

use deepwide::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig};
use deepwide::formats::hf::write_hf_shards;
use deepwide::formats::write_hf_directory;
use deepwide::weights::{Dtype, MemoryWeights, RawTensor};
use serde_json::Value;

pub const CONFIG: &str = "config.json";
pub const WEIGHTS: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
pub const FIRST_SHARD: &str = "model-00001-of-00003.safetensors";
pub const SECOND_SHARD: &str = "model-00002-of-00003.safetensors";

fn small(model_type: ModelType, change: fn(&mut DecoderFields)) -> MemoryWeights {
    let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
    let config = DecoderConfig::pico().with(|fields| {
        fields.model_type = model_type;
        fields.moe = (model_type == ModelType::Mixtral).then_some(moe);
        (fields.vocab_size, fields.hidden_size, fields.intermediate_size) = (8, 4, 6);
        (fields.num_hidden_layers, fields.head_dim) = (2, 2);
        change(fields);
    });
    let config = config.unwrap();
    MemoryWeights::new(config.clone(), |id| {
        let shape = id.shape(&config);
        let values = vec![0.5; shape.iter().product()];
        RawTensor::from_f32(Dtype::Float32, shape, &values)
    })
}

/// A Llama of two layers with tied embeddings, all weights 0.5.
pub fn small_llama() -> MemoryWeights {
    small(ModelType::Llama, |_| ())
}

pub fn llama(out: &Path) {
    write_hf_directory(&small_llama(), None, None, out).unwrap();
}

/// With an untied head that equals the embeddings.
pub fn untied(out: &Path) {
    let weights = small(ModelType::Llama, |fields| fields.tie_word_embeddings = false);
    write_hf_directory(&weights, None, None, out).unwrap();
}

pub fn mixtral(out: &Path) {
    write_hf_directory(&small(ModelType::Mixtral, |_| ()), None, None, out).unwrap();
}

/// The same Llama in three files.
pub fn sharded(out: &Path) {
    write_hf_shards(&small_llama(), None, None, 700, out).unwrap();
    assert!(out.join(FIRST_SHARD).exists());
}

/// The Llama with these bytes in place of its weights.
pub fn file(out: &Path, bytes: &[u8]) {
    llama(out);
    fs::write(out.join(WEIGHTS), bytes).unwrap();
}

/// The Llama with a file of this header in place of its weights.
pub fn header(out: &Path, header: &str, data: &[u8]) {
    file(out, &file_of(header.as_bytes(), data));
}

/// The same; `E` in the entries stands for two numbers in the first 8 bytes.
pub fn one_tensor(out: &Path, entries: &str, data: &[u8]) {
    let entry = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    header(out, &format!("{{{}}}", entries.replace("OFFSETS", "data_offsets").replace('E', entry)), data);
}

pub fn file_of(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// Changes the text of a header and its length accordingly.
pub fn edit_header(directory: &Path, file: &str, old: &str, new: &str) {
    let path = directory.join(file);
    let bytes = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..end]).unwrap();
    assert!(header.contains(old), "{old} is not in {header}");
    fs::write(path, file_of(header.replacen(old, new, 1).as_bytes(), &bytes[end..])).unwrap();
}

pub fn edit(directory: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = directory.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Extends a file to this size without writing.
pub fn stretch(path: &Path, size_bytes: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(size_bytes).unwrap();
}
