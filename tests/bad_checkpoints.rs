//! Checkpoints that are wrong in one way each: every one is refused, with the file, what was found and what was
//! expected.

use std::fs;
use std::path::Path;

use deepwide::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig};
use deepwide::weights::safetensors::SafetensorsFile;
use deepwide::weights::{
    Dtype, ErrorKind, HfDirectory, MemoryWeights, RawTensor, WeightError, WeightSource, hf::write_hf_shards,
    write_hf_directory,
};
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const FIRST_SHARD: &str = "model-00001-of-00003.safetensors";

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

fn write_llama(out: &Path) {
    write_hf_directory(&small(ModelType::Llama, |_| ()), None, None, out).unwrap();
}

fn write_mixtral(out: &Path) {
    write_hf_directory(&small(ModelType::Mixtral, |_| ()), None, None, out).unwrap();
}

fn write_sharded(out: &Path) {
    write_hf_shards(&small(ModelType::Llama, |_| ()), None, None, 700, out).unwrap();
    assert!(out.join(FIRST_SHARD).exists());
}

fn edit(directory: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = directory.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn set(directory: &Path, key: &str, value: Value) {
    edit(directory, "config.json", |config| config[key] = value);
}

fn unset(directory: &Path, keys: &[&str]) {
    edit(directory, "config.json", |config| {
        keys.iter().for_each(|key| assert!(config.as_object_mut().unwrap().remove(*key).is_some()));
    });
}

/// Changes the text of a header and keeps its length right.
fn edit_header(directory: &Path, file: &str, old: &str, new: &str) {
    let path = directory.join(file);
    let bytes = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..end]).unwrap();
    assert!(header.contains(old), "{old} is not in {header}");
    fs::write(path, file_of(&header.replacen(old, new, 1), &bytes[end..])).unwrap();
}

fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// One way for a checkpoint to be wrong: the variant that names it, the kind, and what the message says.
struct Case {
    sound: fn(&Path),
    broken: fn(&Path),
    variant: &'static str,
    kind: ErrorKind,
    says: &'static [&'static str],
}

const fn invalid(sound: fn(&Path), broken: fn(&Path), variant: &'static str, says: &'static [&'static str]) -> Case {
    Case { sound, broken, variant, kind: ErrorKind::Invalid, says }
}

const fn absent(sound: fn(&Path), broken: fn(&Path), variant: &'static str, says: &'static [&'static str]) -> Case {
    Case { sound, broken, variant, kind: ErrorKind::NotFound, says }
}

#[rustfmt::skip]
const DIRECTORIES: [Case; 53] = [
    absent(write_llama, |d| fs::remove_dir_all(d).unwrap(), "NotFound", &["checkpoint", "does not exist"]),
    invalid(write_llama, |d| { fs::remove_dir_all(d).unwrap(); fs::write(d, "").unwrap() }, "NotADirectory", &["checkpoint", "expected a directory"]),
    absent(write_llama, |d| fs::remove_file(d.join("config.json")).unwrap(), "NotFound", &["config.json", "does not exist"]),
    invalid(write_llama, |d| { fs::remove_file(d.join("config.json")).unwrap(); fs::create_dir(d.join("config.json")).unwrap() }, "NotAFile", &["config.json"]),
    invalid(write_llama, |d| { fs::remove_file(d.join(WEIGHTS)).unwrap(); fs::create_dir(d.join(WEIGHTS)).unwrap() }, "NotAFile", &[WEIGHTS]),
    invalid(write_llama, |d| fs::File::options().write(true).open(d.join("config.json")).unwrap().set_len(17 << 20).unwrap(), "TooLarge", &["config.json", "17825792", "16777216"]),
    absent(write_llama, |d| fs::remove_file(d.join(WEIGHTS)).unwrap(), "NoWeights", &["checkpoint", WEIGHTS, INDEX]),
    absent(write_llama, |d| fs::rename(d.join(WEIGHTS), d.join("pytorch_model.bin")).unwrap(), "NoWeights", &["checkpoint", "only PyTorch pickles"]),

    invalid(write_llama, |d| fs::write(d.join("config.json"), "").unwrap(), "Malformed", &["config.json", "EOF", "line 1"]),
    invalid(write_llama, |d| fs::write(d.join("config.json"), "[1]").unwrap(), "Malformed", &["config.json", "expected a map"]),
    invalid(write_llama, |d| unset(d, &["hidden_size"]), "Malformed", &["config.json", "missing field `hidden_size`"]),
    invalid(write_llama, |d| set(d, "hidden_size", json!("4")), "Malformed", &["config.json", "string \"4\"", "expected usize"]),
    invalid(write_llama, |d| set(d, "num_hidden_layers", json!(-1)), "Malformed", &["config.json", "-1", "expected usize"]),
    invalid(write_llama, |d| set(d, "num_hidden_layers", json!(1.5)), "Malformed", &["config.json", "1.5", "expected usize"]),
    invalid(write_llama, |d| { let text = fs::read_to_string(d.join("config.json")).unwrap(); fs::write(d.join("config.json"), text.replacen('{', "{\"hidden_size\": 5,", 1)).unwrap() }, "Malformed", &["config.json", "duplicate field `hidden_size`"]),
    invalid(write_llama, |d| { let text = fs::read_to_string(d.join("config.json")).unwrap(); fs::write(d.join("config.json"), text.replace("10000.0", "1e400")).unwrap() }, "Malformed", &["config.json", "number out of range"]),
    invalid(write_llama, |d| set(d, "model_type", json!("gpt2")), "Unsupported", &["config.json", "model_type is \"gpt2\"", "\"mixtral\""]),
    invalid(write_llama, |d| unset(d, &["model_type"]), "Unsupported", &["config.json", "model_type is null"]),
    invalid(write_llama, |d| set(d, "architectures", json!(["SolarForCausalLM"])), "Unsupported", &["config.json", "SolarForCausalLM", "expected LlamaForCausalLM"]),
    invalid(write_llama, |d| set(d, "hidden_act", json!("gelu")), "Unsupported", &["config.json", "hidden_act is \"gelu\"", "expected \"silu\""]),
    invalid(write_llama, |d| set(d, "attention_bias", json!(true)), "Unsupported", &["config.json", "attention_bias is true", "expected false"]),
    invalid(write_llama, |d| set(d, "mlp_bias", json!(true)), "Unsupported", &["config.json", "mlp_bias is true", "expected false"]),
    invalid(write_llama, |d| set(d, "partial_rotary_factor", json!(0.5)), "Unsupported", &["config.json", "partial_rotary_factor is 0.5", "expected 1"]),
    invalid(write_llama, |d| set(d, "quantization_config", json!({"quant_method": "gptq"})), "Unsupported", &["config.json", "quantization_config", "gptq", "expected none"]),
    invalid(write_llama, |d| set(d, "layer_types", json!(["sliding_attention", "full_attention"])), "Unsupported", &["config.json", "layer_types", "sliding_attention"]),
    invalid(write_llama, |d| set(d, "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 32})), "Unsupported", &["config.json", "rope_type is \"yarn\"", "\"linear\""]),
    invalid(write_llama, |d| set(d, "rope_scaling", json!({"type": "dynamic", "factor": 4.0})), "Unsupported", &["config.json", "rope_type is \"dynamic\""]),
    invalid(write_llama, |d| set(d, "rope_parameters", json!({"full_attention": {"rope_theta": 1e6}})), "Unsupported", &["config.json", "rope_parameters", "full_attention"]),
    invalid(write_llama, |d| set(d, "rope_scaling", json!({"factor": 4.0})), "MissingKey", &["config.json", "rope_type", "rope_scaling"]),
    invalid(write_llama, |d| set(d, "rope_scaling", json!({"rope_type": "llama3", "factor": 4.0})), "MissingKey", &["config.json", "low_freq_factor", "rope_scaling"]),
    invalid(write_llama, |d| set(d, "rope_theta", json!(5e5)), "KeysDisagree", &["config.json", "rope_theta is 500000", "rope_parameters.rope_theta is 10000"]),
    invalid(write_llama, |d| set(d, "rope_scaling", json!({"rope_type": "linear", "factor": 4.0})), "KeysDisagree", &["config.json", "Default", "Linear"]),
    invalid(write_llama, |d| { unset(d, &["head_dim"]); set(d, "hidden_size", json!(6)) }, "NoHeadDim", &["config.json", "hidden_size 6", "num_attention_heads 4"]),
    invalid(write_llama, |d| set(d, "num_key_value_heads", json!(3)), "Config", &["config.json", "num_attention_heads 4", "num_key_value_heads 3"]),
    invalid(write_llama, |d| { unset(d, &["rope_parameters"]); set(d, "rope_theta", json!(0)) }, "Config", &["config.json", "rope_theta is 0"]),
    invalid(write_llama, |d| set(d, "sliding_window", json!(4)), "Config", &["config.json", "sliding_window 4"]),
    invalid(write_mixtral, |d| set(d, "num_experts_per_tok", json!(5)), "Config", &["config.json", "num_experts_per_tok 5", "num_local_experts 4"]),
    invalid(write_mixtral, |d| set(d, "num_local_experts", json!(1u64 << 40)), "Unsupported", &["config.json", "1099511627776", "65536"]),

    invalid(write_llama, |d| set(d, "vocab_size", json!(9)), "ShapeMismatch", &[WEIGHTS, "model.embed_tokens.weight", "[8, 4]", "expected [9, 4]"]),
    invalid(write_llama, |d| set(d, "num_hidden_layers", json!(1)), "UnexpectedTensor", &[WEIGHTS, "model.layers.1."]),
    invalid(write_llama, |d| set(d, "num_hidden_layers", json!(1u64 << 40)), "MissingTensor", &["checkpoint", "model.layers.2.input_layernorm.weight"]),
    invalid(write_llama, |d| set(d, "tie_word_embeddings", json!(false)), "MissingTensor", &["checkpoint", "lm_head.weight"]),
    invalid(write_mixtral, |d| edit_header(d, WEIGHTS, "experts.3.w2.weight", "experts.4.w2.weight"), "MissingTensor", &["model.layers.0.block_sparse_moe.experts.3.w2.weight"]),
    invalid(write_llama, |d| edit_header(d, WEIGHTS, "\"F32\",\"shape\":[8,4]", "\"I64\",\"shape\":[8,2]"), "ShapeMismatch", &[WEIGHTS, "[8, 2]", "expected [8, 4]"]),

    invalid(write_sharded, |d| edit(d, INDEX, |i| i["weight_map"]["model.norm.weight"] = json!("../evil.safetensors")), "UnsafeShardName", &[INDEX, "../evil.safetensors", "plain file name"]),
    invalid(write_sharded, |d| edit(d, INDEX, |i| i["weight_map"]["model.norm.weight"] = json!("C:\\evil")), "UnsafeShardName", &[INDEX, "C:"]),
    invalid(write_sharded, |d| edit(d, INDEX, |i| i["weight_map"]["model.norm.weight"] = json!("")), "UnsafeShardName", &[INDEX, "\"\""]),
    invalid(write_sharded, |d| { let text = fs::read_to_string(d.join(INDEX)).unwrap(); fs::write(d.join(INDEX), text.replacen("\"model.norm.weight\"", "\"model.embed_tokens.weight\"", 1)).unwrap() }, "DuplicateTensor", &[INDEX, "model.embed_tokens.weight"]),
    absent(write_sharded, |d| fs::remove_file(d.join(FIRST_SHARD)).unwrap(), "MissingShard", &[FIRST_SHARD, "1 of 3"]),
    invalid(write_sharded, |d| edit(d, INDEX, |i| i["weight_map"]["model.norm.weight"] = json!(FIRST_SHARD)), "NotInShard", &[FIRST_SHARD, "model.norm.weight"]),
    invalid(write_sharded, |d| edit(d, INDEX, |i| assert!(i["weight_map"].as_object_mut().unwrap().remove("model.embed_tokens.weight").is_some())), "NotInIndex", &[FIRST_SHARD, "model.embed_tokens.weight"]),
    invalid(write_sharded, |d| fs::write(d.join(WEIGHTS), "").unwrap(), "AmbiguousWeights", &["checkpoint", "index"]),
    invalid(write_sharded, |d| edit(d, INDEX, |i| *i = json!({"weight_map": [1]})), "Malformed", &[INDEX, "expected an object"]),
];

fn variant_of(error: &WeightError) -> String {
    format!("{error:?}").split([' ', '{']).next().unwrap().to_owned()
}

fn assert_refused(error: &WeightError, variant: &str, kind: ErrorKind, says: &[&str]) {
    let message = error.to_string();
    assert_eq!(variant_of(error), variant, "{message}");
    assert_eq!(error.kind(), kind, "{message}");
    for part in says {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(!message.ends_with('.'), "{message}");
}

#[test]
fn a_directory_that_breaks_one_rule_is_refused_by_that_rule() {
    for (i, case) in DIRECTORIES.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("checkpoint");
        (case.sound)(&directory);
        HfDirectory::open(&directory).unwrap_or_else(|error| panic!("case {i} is broken beforehand: {error}"));
        (case.broken)(&directory);
        match HfDirectory::open(&directory) {
            Err(error) => assert_refused(&error, case.variant, case.kind, case.says),
            Ok(_) => panic!("case {i}, {}, was accepted", case.variant),
        }
    }
}

#[test]
fn a_file_that_breaks_one_rule_is_refused_by_that_rule() {
    let entry = |name: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let one =
        |entries: &[String], data_bytes: usize| file_of(&format!("{{{}}}", entries.join(",")), &vec![0; data_bytes]);
    let (a, b) = (entry("a", "[2]", 0, 8), entry("b", "[1]", 8, 12));
    let deep = "[".repeat(100_000);
    let sparse = |header_bytes: u64| [&header_bytes.to_le_bytes()[..], &[b'{'; 72]].concat();
    #[rustfmt::skip]
    let cases: Vec<(Vec<u8>, &str, &[&str])> = vec![
        (vec![], "TooShort", &["0 bytes", "at least 10"]),
        (vec![0; 7], "TooShort", &["7 bytes"]),
        (sparse(i64::MAX as u64), "HeaderTooLong", &["9223372036854775807", "100000000"]),
        (sparse(99_999_999), "HeaderBeyondFile", &["99999999", "72"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec(), "LfsPointer", &["git lfs pull"]),
        (b"<!DOCTYPE html>\n<title>Sign in</title>".to_vec(), "HtmlPage", &["HTML"]),
        (b"\n<HTML><body>404</body></html>".to_vec(), "HtmlPage", &["HTML"]),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00".to_vec(), "Pickle", &["never read"]),
        (b"\x80\x02}q\x00(X\x06\x00\x00\x00weight".to_vec(), "Pickle", &["never read"]),
        (b"GGUF\x03\x00\x00\x00\x01\x00\x00\x00".to_vec(), "Gguf", &["GGUF"]),
        (file_of(" {}", &[]), "HeaderNotObject", &["0x20", "`{`"]),
        (file_of("[]", &[]), "HeaderNotObject", &["0x5b"]),
        (file_of("{}\0\0", &[]), "Malformed", &["trailing characters"]),
        (file_of("{\"a\":1}", &[]), "Malformed", &["expected an object"]),
        (file_of(&format!("{{\"a\":{{\"shape\":{deep}"), &[]), "Malformed", &["recursion limit"]),
        (one(&[a.clone(), a.clone()], 8), "DuplicateTensor", &["\"a\"", "twice"]),
        (one(&[a.clone(), a.replace("\"a\"", "\"\\u0061\"")], 8), "DuplicateTensor", &["\"a\"", "twice"]),
        (one(&[a.replace("\"shape\"", "\"dtype\":\"F16\",\"shape\"")], 8), "DuplicateKey", &["\"dtype\"", "\"a\""]),
        (one(&[a.replace("\"shape\":[2],", "")], 8), "BadTensorEntry", &["\"a\"", "missing field `shape`"]),
        (one(&[a.replace("\"shape\"", "\"stride\":1,\"shape\"")], 8), "BadTensorEntry", &["unknown field `stride`"]),
        (one(&[a.replace("[0,8]", "[0,8e0]")], 8), "BadTensorEntry", &["8.0", "expected u64"]),
        (one(&[a.replace("[0,8]", "[-1,8]")], 8), "BadTensorEntry", &["-1", "expected u64"]),
        (one(&[a.replace("[0,8]", "[0,18446744073709551616]")], 8), "BadTensorEntry", &["expected u64"]),
        (one(&[a.clone(), "\"__metadata__\":{\"format\":1}".to_owned()], 8), "BadTensorEntry", &["__metadata__", "expected a string"]),
        (one(&[a.replace("F32", "F4_X")], 8), "UnknownDtype", &["\"a\"", "\"F4_X\""]),
        (one(&[a.replace("F32", "f32")], 8), "UnknownDtype", &["\"f32\""]),
        (one(&[a.replace("[0,8]", "[10,4]")], 8), "OffsetsOutOfOrder", &["\"a\"", "[10, 4]"]),
        (one(&[a.clone(), entry("b", "[1]", 4, 8)], 8), "Overlap", &["\"b\"", "4", "8"]),
        (one(&[a.clone(), entry("b", "[1]", 12, 16)], 16), "Hole", &["\"b\"", "12", "expected 8"]),
        (one(&[entry("b", "[1]", 4, 8)], 8), "Hole", &["\"b\"", "4", "expected 0"]),
        (one(&[a.clone(), b.clone()], 11), "Truncated", &["11 bytes", "expected 12"]),
        (one(&[entry("a", "[2305843009213693951]", 0, 2305843009213693951).replace("F32", "U8")], 8), "Truncated", &["8 bytes", "expected 2305843009213693951"]),
        (one(&[a.clone(), b.clone()], 13), "TrailingBytes", &["13 bytes", "expected 12"]),
        (one(&[a.replace("[2]", "[4294967296,4294967296]")], 8), "SizeOverflow", &["\"a\"", "[4294967296, 4294967296]"]),
        (one(&[entry("a", "[0,18446744073709551615]", 0, 0)], 0), "SizeOverflow", &["\"a\""]),
        (one(&[entry("a", "[18446744073709551615,0]", 0, 0)], 0), "SizeOverflow", &["\"a\""]),
        (one(&[a.replace("[2]", "[3]")], 8), "SizeMismatch", &["\"a\"", "8 bytes", "expected 12"]),
        (one(&[a.replace("F32\",\"shape\":[2]", "F4\",\"shape\":[15]")], 8), "PartialByte", &["\"a\"", "60 bits"]),
    ];
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(WEIGHTS);
    fs::write(&path, one(&[b.clone(), a.clone()], 12)).unwrap();
    SafetensorsFile::open(&path).expect("the unbroken file is sound, whatever the order of its header");
    for (bytes, variant, says) in cases {
        fs::write(&path, &bytes).unwrap();
        match SafetensorsFile::open(&path) {
            Err(error) => assert_refused(&error, variant, ErrorKind::Invalid, &[says, &[WEIGHTS]].concat()),
            Ok(_) => panic!("{variant}: accepted {}", bytes.escape_ascii()),
        }
    }
}

#[test]
fn what_changes_nothing_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let untied = small(ModelType::Llama, |fields| fields.tie_word_embeddings = false);
    write_hf_directory(&untied, None, None, root.path()).unwrap();
    set(root.path(), "tie_word_embeddings", json!(true));
    assert!(HfDirectory::open(root.path()).unwrap().config().tie_word_embeddings);
    edit_header(root.path(), WEIGHTS, "\"lm_head.weight\"", "\"model.layers.0.self_attn.rotary_emb.inv_freq\"");
    HfDirectory::open(root.path()).unwrap();
    edit_header(root.path(), WEIGHTS, "rotary_emb.inv_freq", "q_norm.weight");
    assert!(matches!(HfDirectory::open(root.path()), Err(WeightError::UnexpectedTensor { .. })));
}

#[test]
fn files_that_the_index_does_not_name_are_not_read() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    write_sharded(&directory);
    fs::write(directory.join("model-00004-of-00004.safetensors"), "stray").unwrap();
    HfDirectory::open(&directory).unwrap();
}

#[cfg(unix)]
#[test]
fn shards_may_be_symbolic_links_out_of_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    write_sharded(&directory);
    let blob = root.path().join("blob");
    fs::rename(directory.join(FIRST_SHARD), &blob).unwrap();
    std::os::unix::fs::symlink(&blob, directory.join(FIRST_SHARD)).unwrap();
    HfDirectory::open(&directory).unwrap();
}

#[test]
fn output_never_mixes_with_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("checkpoint");
    write_llama(&out);
    let before = fs::read(out.join(WEIGHTS)).unwrap();
    let error = write_hf_directory(&small(ModelType::Mistral, |_| ()), None, None, &out).unwrap_err();
    assert_refused(
        &error,
        "OutputExists",
        ErrorKind::Invalid,
        &["checkpoint", "expected nothing or an empty directory"],
    );
    assert_eq!(fs::read(out.join(WEIGHTS)).unwrap(), before);
    let error =
        write_hf_directory(&small(ModelType::Llama, |_| ()), None, None, &root.path().join("no/where")).unwrap_err();
    assert_refused(&error, "NotFound", ErrorKind::NotFound, &["no", "does not exist"]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}
