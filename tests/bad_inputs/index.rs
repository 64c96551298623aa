//! Rows of the index and the directory, and further tests of them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use deepwide::formats::HfDirectory;
use deepwide::formats::safetensors::SafetensorsFile;
use deepwide::output::receipt::RECEIPT;
use deepwide::weights::{TensorId, WeightSource};
use serde_json::{Map, Value, json};

use super::safetensors::{link, pipe};
use super::*;

fn assign(directory: &Path, tensor: &str, shard: &str) {
    edit(directory, INDEX, |index| index["weight_map"][tensor] = json!(shard));
}

fn with_shard_name(directory: &Path, name: &str) {
    sharded(directory);
    assign(directory, "model.norm.weight", name);
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    vec![
        refused("B1", "all shards but one missing", |d| { sharded(d); (0..9).for_each(|i| assign(d, &format!("{i}"), &format!("gone-{i}.safetensors"))) }, "MissingShard"),
        refused("B2", "a shard above the directory", |d| with_shard_name(d, "../evil.safetensors"), "UnsafeShardName"),
        refused("B2", "a shard at an absolute path", |d| with_shard_name(d, "/etc/passwd"), "UnsafeShardName"),
        refused("B2", "a shard on a Windows drive", |d| with_shard_name(d, "C:\\evil"), "UnsafeShardName"),
        refused("B2", "a shard in the folder of a Windows drive", |d| with_shard_name(d, "C:evil"), "UnsafeShardName"),
        refused("B2", "a shard on a Windows server", |d| with_shard_name(d, "\\\\server\\share"), "UnsafeShardName"),
        refused("B2", "a shard that Windows takes for a device", |d| with_shard_name(d, "CON.safetensors"), "UnsafeShardName"),
        refused("B2", "a shard whose last dot Windows drops", |d| with_shard_name(d, "model.safetensors."), "UnsafeShardName"),
        refused("B3", "a shard without a name", |d| with_shard_name(d, ""), "UnsafeShardName"),
        refused("B3", "a shard that is the directory", |d| with_shard_name(d, "."), "UnsafeShardName"),
        refused("B3", "a shard with NUL in its name", |d| with_shard_name(d, "a\0b"), "UnsafeShardName"),
        refused("B3", "a shard in a folder of the directory", |d| with_shard_name(d, "sub/a.safetensors"), "UnsafeShardName"),
        accepted("B4", "a shard that is a link out of the directory", |d| { sharded(d); fs::rename(d.join(FIRST_SHARD), d.with_extension("blob")).unwrap(); link("../checkpoint.blob", &d.join(FIRST_SHARD)) }, 0, "the caches of the hub are made of such links"),
        refused("B5", "a shard that is a link to a device", |d| { sharded(d); fs::remove_file(d.join(FIRST_SHARD)).unwrap(); link("/dev/zero", &d.join(FIRST_SHARD)) }, "NotAFile"),
        refused("B5", "a shard that is a link to itself", |d| { sharded(d); fs::remove_file(d.join(FIRST_SHARD)).unwrap(); link(FIRST_SHARD, &d.join(FIRST_SHARD)) }, "Io"),
        refused("B5", "a shard that is a link to nothing", |d| { sharded(d); fs::remove_file(d.join(FIRST_SHARD)).unwrap(); link("gone", &d.join(FIRST_SHARD)) }, "MissingShard"),
        refused("B5", "a shard that is a pipe", |d| { sharded(d); fs::remove_file(d.join(FIRST_SHARD)).unwrap(); pipe(&d.join(FIRST_SHARD)) }, "NotAFile"),
        refused("B6", "a tensor that its shard lacks", |d| { sharded(d); assign(d, "model.norm.weight", FIRST_SHARD) }, "NotInShard"),
        refused("B7", "a tensor that the index lacks", |d| { sharded(d); edit(d, INDEX, |i| assert!(i["weight_map"].as_object_mut().unwrap().remove("model.embed_tokens.weight").is_some())) }, "NotInIndex"),
        refused("B8", "a tensor in two shards", |d| { sharded(d); edit_header(d, SECOND_SHARD, "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"); edit(d, INDEX, |i| assert!(i["weight_map"].as_object_mut().unwrap().remove("model.layers.0.mlp.up_proj.weight").is_some())) }, "InOtherShard"),
        refused("B9", "a tensor twice in the index", |d| { sharded(d); let text = fs::read_to_string(d.join(INDEX)).unwrap(); fs::write(d.join(INDEX), text.replacen("\"model.norm.weight\"", "\"model.embed_tokens.weight\"", 1)).unwrap() }, "DuplicateTensor"),
        refused("B10", "an index beside a file that it does not name", |d| { sharded(d); fs::write(d.join(WEIGHTS), "").unwrap() }, "AmbiguousWeights"),
        accepted("B10", "an index that names the one file", |d| { llama(d); let names = |f: &str| SafetensorsFile::open(&d.join(f)).unwrap().tensors().map(|(name, _)| (name.to_owned(), json!(f))).collect::<Map<_, _>>(); fs::write(d.join(INDEX), json!({"weight_map": names(WEIGHTS)}).to_string()).unwrap() }, 0, "they agree"),
        accepted("B11", "a wrong total_size", |d| { sharded(d); edit(d, INDEX, |i| i["metadata"]["total_size"] = json!(u64::MAX)) }, 1, "nothing relies on it, and a child gets its own"),
        accepted("B11", "a total_size that is no size", |d| { sharded(d); edit(d, INDEX, |i| i["metadata"]["total_size"] = json!([-1, {"a": 2}])) }, 0, "nothing relies on it"),
        refused("B12", "one of three shards missing", |d| { sharded(d); fs::remove_file(d.join(FIRST_SHARD)).unwrap() }, "MissingShard"),
        refused("B12", "shards without an index", |d| { sharded(d); fs::remove_file(d.join(INDEX)).unwrap() }, "NoWeights"),
        refused("B13", "PyTorch pickles only", |d| { llama(d); fs::rename(d.join(WEIGHTS), d.join("pytorch_model.bin")).unwrap() }, "NoWeights"),
        refused("B13", "no weights at all", |d| { llama(d); fs::remove_file(d.join(WEIGHTS)).unwrap() }, "NoWeights"),
        refused("B14", "GGUF beside safetensors", |d| { llama(d); fs::write(d.join("model-q4.gguf"), "GGUF").unwrap() }, "TwoFormats"),
        refused("B14", "GGUF only", |d| { llama(d); fs::rename(d.join(WEIGHTS), d.join("model-q4.GGUF")).unwrap() }, "NoWeights"),
        refused("B17", "no config.json", |d| { llama(d); fs::remove_file(d.join(CONFIG)).unwrap() }, "NotFound"),
        refused("B17", "a directory for config.json", |d| { llama(d); fs::remove_file(d.join(CONFIG)).unwrap(); fs::create_dir(d.join(CONFIG)).unwrap() }, "NotAFile"),
        refused("B17", "nothing at the path", |_| (), "NotFound"),
        refused("B17", "a file for the directory", |d| fs::write(d, "").unwrap(), "NotADirectory"),
        refused("B17", "a pipe for the directory", pipe, "NotADirectory"),
        refused("B19", "an index of 2 GB", |d| { sharded(d); stretch(&d.join(INDEX), 2 << 30) }, "TooLarge"),
        refused("B19", "an index of lists in one another, 1,000,000 deep", |d| { sharded(d); fs::write(d.join(INDEX), format!("{{\"weight_map\":{}", "[".repeat(1_000_000))).unwrap() }, "Malformed"),
        refused("B19", "the same in a key that is not read", |d| { sharded(d); fs::write(d.join(INDEX), format!("{{\"x\":{}", "[".repeat(1_000_000))).unwrap() }, "Malformed"),
        refused("B19", "an index of 1,000,001 tensors", |d| { sharded(d); fs::write(d.join(INDEX), format!("{{\"weight_map\":{{{}\"\":\"\"}}}}", "\"\":\"\",".repeat(1_000_000))).unwrap() }, "TooMany"),
        refused("B19", "an index whose map is a list", |d| { sharded(d); fs::write(d.join(INDEX), "{\"weight_map\":[1]}").unwrap() }, "Malformed"),
        refused("B19", "an index without a map", |d| { sharded(d); fs::write(d.join(INDEX), "{}").unwrap() }, "Malformed"),
        accepted("B20", "a file whose name is not UTF-8 beside the weights", |d| { use std::os::unix::ffi::OsStrExt; llama(d); fs::write(d.join(std::ffi::OsStr::from_bytes(b"\xff.md")), "").unwrap() }, 0, "names are not made text"),
        refused("B20", "the same in GGUF", |d| { use std::os::unix::ffi::OsStrExt; llama(d); fs::write(d.join(std::ffi::OsStr::from_bytes(b"\xff.gguf")), "").unwrap() }, "TwoFormats"),
    ]
}

#[test]
fn files_that_the_index_does_not_name_are_not_read() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    sharded(&directory);
    fs::write(directory.join("model-00004-of-00004.safetensors"), "stray").unwrap();
    HfDirectory::open(&directory).unwrap();
}

/// B20.
#[test]
fn a_directory_whose_name_is_not_utf_8_is_read() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    sharded(&directory);
    HfDirectory::open(&directory).unwrap().read(TensorId::Norm).unwrap();
    fs::remove_file(directory.join(INDEX)).unwrap();
    assert!(HfDirectory::open(&directory).unwrap_err().to_string().contains(r"\xFF\xFE"));
}

/// B18: on a case-insensitive disk, one of two such files would overwrite the other.
#[test]
fn written_file_names_differ_in_more_than_case() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    sharded(&directory);
    let names: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .chain([RECEIPT.to_owned()])
        .collect();
    assert_eq!(names.iter().map(|name| name.to_lowercase()).collect::<HashSet<_>>().len(), names.len());
}

/// A checkpoint with one file per tensor, more than a process may open.
pub fn five_thousand_shards(directory: &Path) {
    llama(directory);
    fs::remove_file(directory.join(WEIGHTS)).unwrap();
    edit(directory, CONFIG, |config| config["num_hidden_layers"] = json!(556));
    let config = small_llama().config().with(|fields| fields.num_hidden_layers = 556).unwrap();
    let ids = TensorId::all(&config);
    assert!(ids.len() > 5000);
    let mut weight_map = Map::new();
    for (i, &id) in ids.iter().enumerate() {
        let (name, shape) = (id.to_string(), id.shape(&config));
        let data = vec![0; 4 * shape.iter().product::<usize>()];
        let header = json!({&name: {"dtype": "F32", "shape": shape, "data_offsets": [0, data.len()]}});
        let shard = format!("model-{:05}-of-{:05}.safetensors", i + 1, ids.len());
        fs::write(directory.join(&shard), file_of(header.to_string().as_bytes(), &data)).unwrap();
        weight_map.insert(name, Value::from(shard));
    }
    fs::write(directory.join(INDEX), json!({"weight_map": weight_map}).to_string()).unwrap();
}
