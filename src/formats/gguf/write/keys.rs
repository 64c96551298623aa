//! The part of a GGUF file before the tensors: keys, and where each tensor lies.

use std::path::Path;

use super::options::{ALIGNMENT, GgufOptions};
use super::tensors::GgufTensor;
use crate::config::{DecoderConfig, RopeScaling};
use crate::error::InFile;
use crate::formats::CheckpointError;
use crate::formats::gguf::{GgufFault, GgufVocabulary, VocabularyError};

/// Everything up to the first tensor, padding included.
pub(super) fn header(
    config: &DecoderConfig,
    vocabulary: &GgufVocabulary,
    options: &GgufOptions,
    tensors: &[GgufTensor],
    path: &Path,
) -> Result<Vec<u8>, CheckpointError> {
    config.computable().map_err(|error| InFile::new(path, Box::new(GgufFault::Config(error))))?;
    let of_vocabulary = |fault: VocabularyError| InFile::new(path, fault);
    let vocabulary = vocabulary.filled_up_to(config.vocab_size).map_err(of_vocabulary)?;
    vocabulary.checked().map_err(of_vocabulary)?;
    let mut keys = Keys { bytes: Vec::new(), count: 0 };
    keys.general(options);
    keys.decoder(config, path)?;
    keys.tokenizer(&vocabulary);
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend(keys.count.to_le_bytes());
    header.append(&mut keys.bytes);
    let mut offset = 0u64;
    for tensor in tensors {
        string(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        header.extend(tensor.shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
        header.extend(tensor.number_type.number().to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += tensor.size_bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(header)
}

/// A value, with the number that GGUF gives its type.
enum Entry<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [String]),
    Floats(&'a [f32]),
    Integers(Vec<i32>),
}

struct Keys {
    bytes: Vec<u8>,
    count: u64,
}

impl Keys {
    fn general(&mut self, options: &GgufOptions) {
        self.set("general.architecture", Entry::Text("llama"));
        self.set("general.type", Entry::Text("model"));
        if let Some(name) = &options.name {
            self.set("general.name", Entry::Text(name));
        }
        self.set("general.file_type", Entry::U32(options.file_type.number()));
        self.set("general.quantization_version", Entry::U32(2));
    }

    fn decoder(&mut self, config: &DecoderConfig, path: &Path) -> Result<(), CheckpointError> {
        let mut sizes = vec![
            ("llama.vocab_size", config.vocab_size),
            ("llama.context_length", config.max_position_embeddings),
            ("llama.embedding_length", config.hidden_size),
            ("llama.block_count", config.num_hidden_layers),
            ("llama.feed_forward_length", config.intermediate_size),
            ("llama.attention.head_count", config.num_attention_heads),
            ("llama.attention.head_count_kv", config.num_key_value_heads),
            ("llama.attention.key_length", config.head_dim),
            ("llama.attention.value_length", config.head_dim),
            ("llama.rope.dimension_count", config.head_dim),
        ];
        if let Some(moe) = config.moe {
            sizes.extend([
                ("llama.expert_count", moe.num_local_experts),
                ("llama.expert_used_count", moe.num_experts_per_tok),
            ]);
        }
        for (key, found) in sizes {
            let too_large = |_| InFile::new(path, Box::new(GgufFault::TooLarge { key, found }));
            self.set(key, Entry::U32(u32::try_from(found).map_err(too_large)?));
        }
        self.set("llama.rope.freq_base", Entry::F32(config.rope_theta as f32));
        self.set("llama.attention.layer_norm_rms_epsilon", Entry::F32(config.rms_norm_eps as f32));
        match config.rope_scaling {
            RopeScaling::Linear { factor } => {
                self.set("llama.rope.scaling.type", Entry::Text("linear"));
                self.set("llama.rope.scaling.factor", Entry::F32(factor as f32));
            }
            scaling @ RopeScaling::Yarn { .. } => {
                let fault = GgufFault::RopeScaling { found: serde_json::json!(scaling).to_string() };
                return Err(InFile::new(path, Box::new(fault)).into());
            }
            // Llama 3's factors are a tensor; dynamic scaling only applies beyond the context.
            RopeScaling::Default | RopeScaling::Llama3 { .. } | RopeScaling::Dynamic { .. } => {}
        }
        Ok(())
    }

    fn tokenizer(&mut self, vocabulary: &GgufVocabulary) {
        self.set("tokenizer.ggml.model", Entry::Text(&vocabulary.model));
        if let Some(pre) = &vocabulary.pre {
            self.set("tokenizer.ggml.pre", Entry::Text(pre));
        }
        self.set("tokenizer.ggml.tokens", Entry::Texts(&vocabulary.tokens));
        if !vocabulary.scores.is_empty() {
            self.set("tokenizer.ggml.scores", Entry::Floats(&vocabulary.scores));
        }
        if !vocabulary.token_types.is_empty() {
            let numbers = vocabulary.token_types.iter().map(|kind| *kind as i32).collect();
            self.set("tokenizer.ggml.token_type", Entry::Integers(numbers));
        }
        if !vocabulary.merges.is_empty() {
            self.set("tokenizer.ggml.merges", Entry::Texts(&vocabulary.merges));
        }
        for (key, id) in [
            ("tokenizer.ggml.bos_token_id", vocabulary.bos),
            ("tokenizer.ggml.eos_token_id", vocabulary.eos),
            ("tokenizer.ggml.eot_token_id", vocabulary.eot),
            ("tokenizer.ggml.eom_token_id", vocabulary.eom),
            ("tokenizer.ggml.unknown_token_id", vocabulary.unk),
            ("tokenizer.ggml.padding_token_id", vocabulary.pad),
        ] {
            if let Some(id) = id {
                self.set(key, Entry::U32(id));
            }
        }
        for (key, asked) in [
            ("tokenizer.ggml.add_bos_token", vocabulary.add_bos),
            ("tokenizer.ggml.add_eos_token", vocabulary.add_eos),
            ("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix),
        ] {
            if let Some(asked) = asked {
                self.set(key, Entry::Bool(asked));
            }
        }
        let templates = &vocabulary.named_chat_templates;
        if !templates.is_empty() {
            let names: Vec<String> = templates.keys().cloned().collect();
            self.set("tokenizer.chat_templates", Entry::Texts(&names));
        }
        for (name, template) in templates {
            self.set(&format!("tokenizer.chat_template.{name}"), Entry::Text(template));
        }
        for (key, text) in [
            ("tokenizer.chat_template", &vocabulary.chat_template),
            ("tokenizer.huggingface.json", &vocabulary.huggingface_json),
        ] {
            if let Some(text) = text {
                self.set(key, Entry::Text(text));
            }
        }
    }

    fn set(&mut self, key: &str, value: Entry<'_>) {
        self.count += 1;
        let bytes = &mut self.bytes;
        string(bytes, key);
        bytes.extend(value.type_number().to_le_bytes());
        match value {
            Entry::U32(number) => bytes.extend(number.to_le_bytes()),
            Entry::F32(number) => bytes.extend(number.to_le_bytes()),
            Entry::Bool(is) => bytes.push(u8::from(is)),
            Entry::Text(text) => string(bytes, text),
            Entry::Texts(texts) => {
                array(bytes, 8, texts.len());
                texts.iter().for_each(|text| string(bytes, text));
            }
            Entry::Floats(numbers) => {
                array(bytes, 6, numbers.len());
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
            Entry::Integers(numbers) => {
                array(bytes, 5, numbers.len());
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
    }
}

impl Entry<'_> {
    fn type_number(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::Floats(_) | Self::Integers(_) => 9,
        }
    }
}

fn array(bytes: &mut Vec<u8>, type_number: u32, len: usize) {
    bytes.extend(type_number.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
