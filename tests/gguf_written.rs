//! GGUF files that are written, against those of llama.cpp's converter and the blocks of gguf-py.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use deepwide::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig};
use deepwide::formats::CheckpointError;
use deepwide::formats::HfDirectory;
use deepwide::formats::gguf::{
    GgufFileType, GgufOptions, GgufVocabulary, HfTokenizer, TokenType, gguf_size_bytes, write_gguf,
};
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use deepwide::output::disk::disk;
use deepwide::weights::{Dtype, MemoryWeights, RawTensor, TensorId, WeightSource};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const FILE_TYPES: [(&str, GgufFileType); 4] = [
    ("F32", GgufFileType::F32),
    ("F16", GgufFileType::F16),
    ("BF16", GgufFileType::Bf16),
    ("Q8_0", GgufFileType::Q8_0),
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Two tokens: the others of an embedding table are filled up.
pub fn tiny_vocabulary() -> GgufVocabulary {
    GgufVocabulary {
        model: "llama".to_owned(),
        tokens: ["a", "é"].map(str::to_owned).to_vec(),
        scores: vec![-1.5, 2.0],
        bos: Some(0),
        add_bos: Some(true),
        chat_template: Some("{{ messages }}".to_owned()),
        ..GgufVocabulary::default()
    }
}

fn options(file_type: GgufFileType) -> GgufOptions {
    GgufOptions { file_type, name: Some("tiny".to_owned()) }
}

/// A file in memory.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    largest_write: usize,
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.largest_write = self.largest_write.max(bytes.len());
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(source: &impl WeightSource, file_type: GgufFileType) -> Result<Memory, CheckpointError> {
    let mut file = Memory::default();
    let path = Path::new("tiny.gguf");
    write_gguf(source, &tiny_vocabulary(), &options(file_type), &mut file, path)?;
    let size_bytes = gguf_size_bytes(source.config(), &tiny_vocabulary(), &options(file_type), path)?;
    assert_eq!(file.bytes.len() as u64, size_bytes);
    Ok(file)
}

/// A GGUF file taken apart, by the specification and not by our reader.
struct Parsed {
    keys: BTreeMap<String, Value>,
    tensors: BTreeMap<String, (u32, Vec<u64>, Vec<u8>)>,
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        *taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let len = self.u64() as usize;
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        String::from_utf8(text.to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => json!(self.u32()),
            5 => json!(i32::from_le_bytes(self.take())),
            6 => json!(f32::from_le_bytes(self.take())),
            7 => json!(self.take::<1>() == [1]),
            8 => json!(self.text()),
            9 => {
                let (kind, count) = (self.u32(), self.u64());
                (0..count).map(|_| self.value(kind)).collect()
            }
            _ => panic!("value of type {kind}"),
        }
    }
}

fn parsed(file: &[u8]) -> Parsed {
    let mut bytes = Bytes(file);
    assert_eq!(bytes.take(), *b"GGUF");
    assert_eq!(bytes.u32(), 3);
    let (num_tensors, num_keys) = (bytes.u64(), bytes.u64());
    let mut keys = BTreeMap::new();
    for _ in 0..num_keys {
        let key = bytes.text();
        let kind = bytes.u32();
        assert_eq!(keys.insert(key, bytes.value(kind)), None);
    }
    let mut infos = Vec::new();
    for _ in 0..num_tensors {
        let name = bytes.text();
        let shape: Vec<u64> = (0..bytes.u32()).map(|_| bytes.u64()).collect();
        infos.push((name, shape, bytes.u32(), bytes.u64()));
    }
    let begin = (file.len() - bytes.0.len()).next_multiple_of(32);
    let data = &file[begin..];
    let mut end = 0;
    let mut tensors = BTreeMap::new();
    for (name, shape, kind, offset) in infos {
        assert_eq!(offset, end, "{name}");
        let numbers: u64 = shape.iter().product();
        let size_bytes = match kind {
            0 => 4 * numbers,
            1 | 30 => 2 * numbers,
            8 => numbers / 32 * 34,
            _ => panic!("tensor of type {kind}"),
        };
        end = (offset + size_bytes).next_multiple_of(32);
        let bytes = data[offset as usize..][..size_bytes as usize].to_vec();
        assert_eq!(tensors.insert(name, (kind, shape, bytes)), None);
    }
    assert_eq!(end, data.len() as u64);
    Parsed { keys, tensors }
}

#[test]
fn files_hold_what_llama_cpps_converter_writes() {
    let converted: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_slice(&std::fs::read(golden().join("gguf/converted.json")).unwrap()).unwrap();
    let names = BTreeMap::from([("F32", 0), ("F16", 1), ("Q8_0", 8), ("BF16", 30)]);
    for (model, by_type) in converted {
        let source = HfDirectory::open(&golden().join(&model)).unwrap();
        for (name, file_type) in FILE_TYPES {
            let ours = parsed(&written(&source, file_type).unwrap().bytes);
            let theirs = &by_type[name];
            for (key, value) in theirs["keys"].as_object().unwrap() {
                if !["general.name", "general.size_label"].contains(&key.as_str()) {
                    assert_eq!(ours.keys[key].as_f64(), value.as_f64(), "{model} {name} {key}");
                    assert_eq!(ours.keys[key].as_str(), value.as_str(), "{model} {name} {key}");
                }
            }
            let tensors = theirs["tensors"].as_object().unwrap();
            assert_eq!(ours.tensors.keys().collect::<Vec<_>>(), {
                let mut names: Vec<&String> = tensors.keys().collect();
                names.sort();
                names
            });
            for (tensor, (kind, shape, bytes)) in &ours.tensors {
                let expected = &tensors[tensor];
                assert_eq!(*kind, names[expected[0].as_str().unwrap()], "{model} {name} {tensor}");
                assert_eq!(json!(shape), expected[1], "{model} {name} {tensor}");
                let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(sha256, expected[2].as_str().unwrap(), "{model} {name} {tensor}");
            }
        }
    }
}

/// A decoder whose up projection is `numbers`, of 32 columns, and all else zero.
fn holding(numbers: &[f32], dtype: Dtype) -> MemoryWeights {
    let sizes = |fields: &mut DecoderFields| {
        (fields.hidden_size, fields.intermediate_size, fields.num_hidden_layers) = (32, numbers.len() / 32, 1);
        (fields.vocab_size, fields.head_dim) = (2, 8);
    };
    let config = DecoderConfig::pico().with(sizes).unwrap();
    MemoryWeights::new(config.clone(), |id| {
        let shape = id.shape(&config);
        let is_up = format!("{id:?}").contains("Up");
        let values = if is_up { numbers.to_vec() } else { vec![0.0; shape.iter().product()] };
        RawTensor::from_f32(dtype, shape, &values)
    })
}

#[test]
fn blocks_and_brain_floats_are_those_of_gguf_py_to_the_bit() {
    let file = std::fs::read(golden().join("gguf/q8_0.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let bytes = |name: &str| file.tensor(name).unwrap().data().to_vec();
    let numbers = RawTensor::new(Dtype::Float32, vec![bytes("numbers").len() / 4], bytes("numbers")).to_f32();
    let source = holding(&numbers, Dtype::Float32);
    for (name, file_type) in [("q8_0", GgufFileType::Q8_0), ("bf16", GgufFileType::Bf16)] {
        let ours = parsed(&written(&source, file_type).unwrap().bytes);
        assert_eq!(ours.tensors["blk.0.ffn_up.weight"].2, bytes(name), "{name}");
    }
    let is_tie = |row: &[f32]| row.iter().filter(|&x| (x / row[0] * 127.0).fract().abs() == 0.5).count();
    assert!(numbers.chunks(32).skip(40).take(40).map(is_tie).sum::<usize>() > 400, "few ties would prove little");
}

#[test]
fn a_number_that_the_type_cannot_hold_is_refused() {
    let refusal = |number: f32, file_type| {
        let mut numbers = [1.0; 64];
        numbers[40] = number;
        written(&holding(&numbers, Dtype::Float32), file_type).err().map(|error| error.to_string())
    };
    for (number, file_type, told) in [
        (f32::NAN, GgufFileType::Q8_0, "holds NaN, which Q8_0 cannot"),
        (f32::INFINITY, GgufFileType::Q8_0, "holds inf, which Q8_0 cannot"),
        (9e6, GgufFileType::Q8_0, "holds 9000000, which Q8_0 cannot"),
        (-70000.0, GgufFileType::F16, "holds -70000, which F16 cannot"),
        (f32::MAX, GgufFileType::Bf16, "which BF16 cannot"),
    ] {
        let error = refusal(number, file_type).unwrap();
        assert!(error.contains("model.layers.0.mlp.up_proj.weight") && error.contains(told), "{error}");
    }
    assert_eq!(refusal(8e6, GgufFileType::Q8_0), None);
    assert_eq!(refusal(65504.0, GgufFileType::F16), None);
    let integers = MemoryWeights::new(DecoderConfig::pico(), |id| {
        let shape = id.shape(&DecoderConfig::pico());
        RawTensor::new(Dtype::Int8, shape.clone(), vec![0; shape.iter().product()])
    });
    let error = written(&integers, GgufFileType::F16).err().unwrap().to_string();
    assert!(error.contains("model.embed_tokens.weight is int8"), "{error}");
}

#[test]
fn the_vocabulary_is_written_and_filled_up_to_the_embedding_table() {
    let source = holding(&[0.0; 32], Dtype::Float32);
    let config = source.config().with(|fields| fields.vocab_size = 4).unwrap();
    let source = MemoryWeights::untrained(config, 0.02, 1);
    let keys = parsed(&written(&source, GgufFileType::F16).unwrap().bytes).keys;
    assert_eq!(keys["tokenizer.ggml.tokens"], json!(["a", "é", "[PAD2]", "[PAD3]"]));
    assert_eq!(keys["tokenizer.ggml.scores"], json!([-1.5, 2.0, -10000.0, -10000.0]));
    let unused = TokenType::Unused as i32;
    assert_eq!(keys["tokenizer.ggml.token_type"], json!([1, 1, unused, unused]));
    assert_eq!(
        (&keys["tokenizer.ggml.bos_token_id"], &keys["tokenizer.ggml.add_bos_token"]),
        (&json!(0), &json!(true))
    );
    assert_eq!((&keys["general.name"], &keys["tokenizer.chat_template"]), (&json!("tiny"), &json!("{{ messages }}")));
    assert!(!keys.contains_key("tokenizer.ggml.merges") && !keys.contains_key("tokenizer.ggml.eos_token_id"));
    let narrow = source.config().with(|fields| fields.vocab_size = 1).unwrap();
    let error =
        gguf_size_bytes(&narrow, &tiny_vocabulary(), &options(GgufFileType::F16), Path::new("x.gguf")).unwrap_err();
    assert!(
        error.to_string().starts_with("\"x.gguf\": the vocabulary has 2 tokens, expected at most the 1"),
        "{error}"
    );
}

#[test]
fn memory_is_bounded_by_a_piece_of_a_weight() {
    let moe = MoeConfig { num_local_experts: 3, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
    let sizes = |fields: &mut DecoderFields| {
        (fields.hidden_size, fields.intermediate_size, fields.num_hidden_layers) = (512, 2048, 1);
        (fields.model_type, fields.moe) = (ModelType::Mixtral, Some(moe));
    };
    let source = MemoryWeights::untrained(DecoderConfig::pico().with(sizes).unwrap(), 0.02, 3);
    for (_, file_type) in FILE_TYPES {
        let file = written(&source, file_type).unwrap();
        assert!(file.bytes.len() > 3 * 2048 * 512 && file.largest_write <= 1 << 20, "{}", file.largest_write);
    }
}

#[test]
fn a_count_beyond_32_bits_is_refused() {
    let config = DecoderConfig::pico().with(|fields| fields.max_position_embeddings = 1 << 32).unwrap();
    let error =
        gguf_size_bytes(&config, &tiny_vocabulary(), &options(GgufFileType::F16), Path::new("x.gguf")).unwrap_err();
    assert!(error.to_string().contains("llama.context_length would be 4294967296"), "{error}");
}

#[test]
fn a_full_disk_is_told_with_the_path() {
    struct Full(u64);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let source = holding(&[0.0; 64], Dtype::Bfloat16);
    let path = Path::new("out.gguf");
    let size_bytes = gguf_size_bytes(source.config(), &tiny_vocabulary(), &options(GgufFileType::F16), path).unwrap();
    let write = |space| write_gguf(&source, &tiny_vocabulary(), &options(GgufFileType::F16), &mut Full(space), path);
    write(size_bytes).unwrap();
    for space in [0, 100, size_bytes / 2, size_bytes - 1] {
        let result = write(space);
        assert!(matches!(result, Err(CheckpointError::File(error)) if error.path == Path::new("out.gguf")), "{space}");
    }
}

#[test]
fn a_file_of_the_disk_holds_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    let source = HfDirectory::open(&golden().join("mixtral_4x2")).unwrap();
    let mut file = disk().create(&path).unwrap();
    write_gguf(&source, &tiny_vocabulary(), &options(GgufFileType::Q8_0), &mut *file, &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), written(&source, GgufFileType::Q8_0).unwrap().bytes);
    assert_eq!(TensorId::all(source.config()).len(), 3 + 2 * (7 + 12));
}

/// For `tests/golden/gguf/check_written_gguf.py`: the tiny models, and, if `smollm2` lies in the folder, it and its
/// children.
#[test]
#[ignore = "writes files for tests/golden/gguf/check_written_gguf.py, which needs transformers and llama.cpp"]
fn write_gguf_files_for_llama_cpp_to_check() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = root.join("gguf");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    println!("{}", folder.display());
    let write = |source: &dyn WeightSource, vocabulary: &GgufVocabulary, name: &str| {
        for (kind, file_type) in FILE_TYPES {
            let path = folder.join(format!("{name}-{kind}.gguf"));
            let mut file = disk().create(&path).unwrap();
            write_gguf(source, vocabulary, &options(file_type), &mut *file, &path).unwrap();
        }
    };
    // llama.cpp wants merges and an end of text.
    let vocabulary = GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: Some("gpt-2".to_owned()),
        tokens: ["<end>", "a", "b", "ab"].map(str::to_owned).to_vec(),
        token_types: [TokenType::Control, TokenType::Normal, TokenType::Normal, TokenType::Normal].to_vec(),
        merges: vec!["a b".to_owned()],
        bos: Some(0),
        eos: Some(0),
        ..GgufVocabulary::default()
    };
    let llamas = ["llama_mha", "llama_gqa_tied", "llama_head_dim", "llama_llama3_rope", "llama_linear_rope"];
    for name in llamas.into_iter().chain(["mistral_full", "mixtral_4x2", "mixtral_8x2_fused", "mixtral_4x1"]) {
        write(&HfDirectory::open(&golden().join(name)).unwrap(), &vocabulary, name);
    }
    let Ok(smollm2) = HfDirectory::open(&root.join("smollm2")) else { return };
    let vocabulary = GgufVocabulary::from_hf(&HfTokenizer::open_on(&*disk(), smollm2.path()).unwrap()).unwrap();
    write(&smollm2, &vocabulary, "smollm2");
    let deep = LayerPlan::depth_up_scaling(smollm2.config().num_hidden_layers, 8).unwrap();
    write(&Grown::new(&smollm2, GrowthPlan::Splice(deep)).unwrap(), &vocabulary, "smollm2_dus");
    let init = ExpertInit::Drop { ratio: 0.5 };
    let wide = UpcyclePlan { init, ..UpcyclePlan::new(8, 2) };
    write(&Grown::new(&smollm2, GrowthPlan::Upcycle(wide)).unwrap(), &vocabulary, "smollm2_8x2");
}
