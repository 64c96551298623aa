//! Rows of the safetensors format, and further tests of it.

use std::fs;
use std::path::Path;

use deepwide::formats::HfDirectory;
use deepwide::formats::safetensors::SafetensorsFile;
use deepwide::weights::{Dtype, TensorId, WeightSource};

use super::*;

const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

/// Entries of tensors of one byte, without a gap.
fn many(count: usize) -> String {
    let entries: Vec<String> =
        (0..count).map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, i + 1)).collect();
    entries.join(",")
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    vec![
        refused("A1", "an empty file", |d| file(d, b""), "TooShort"),
        refused("A2", "7 bytes", |d| file(d, &[0; 7]), "TooShort"),
        refused("A3", "a header of 2^63 - 1 bytes", |d| file(d, &[&i64::MAX.to_le_bytes()[..], &[b'{'; 72]].concat()), "HeaderTooLong"),
        refused("A4", "a header of 99,999,999 bytes in a file of 80", |d| file(d, &[&99_999_999u64.to_le_bytes()[..], &[b'{'; 72]].concat()), "HeaderBeyondFile"),
        refused("A5", "a header of 100,000,001 bytes, all there", |d| { file(d, &[&100_000_001u64.to_le_bytes()[..], b"{}"].concat()); stretch(&d.join(WEIGHTS), 100_000_009) }, "HeaderTooLong"),
        refused("A6", "a Git LFS pointer", |d| file(d, LFS.as_bytes()), "LfsPointer"),
        refused("A6", "a Git LFS pointer with an escape sequence for its hash", |d| file(d, LFS.replace("sha256", "\u{1b}[2J").as_bytes()), "LfsPointer"),
        refused("A7", "an HTML page", |d| file(d, b"<!DOCTYPE html>\n<title>Sign in</title>"), "NotWeights"),
        refused("A7", "an HTML page in capitals after a blank line", |d| file(d, b"\n<HTML><body>404</body></html>"), "NotWeights"),
        refused("A7", "what an object store answers", |d| file(d, b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>"), "NotWeights"),
        refused("A7", "what an API answers", |d| file(d, b"{\"error\":\"Repository not found\"}"), "NotWeights"),
        refused("A7", "what the hub answers", |d| file(d, b"Entry not found"), "NotWeights"),
        refused("A8", "a PyTorch checkpoint, zipped", |d| file(d, b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00"), "Pickle"),
        refused("A8", "a PyTorch checkpoint, bare", |d| file(d, b"\x80\x02}q\x00(X\x06\x00\x00\x00weight"), "Pickle"),
        refused("A9", "a GGUF file", |d| file(d, b"GGUF\x03\x00\x00\x00\x01\x00\x00\x00"), "Gguf"),
        refused("A10", "a file cut short after a tensor", |d| one_tensor(d, r#""a":E,"b":{"dtype":"F32","shape":[1],"OFFSETS":[8,12]}"#, &[0; 11]), "Truncated"),
        refused("A10", "a file cut short in its first tensor", |d| one_tensor(d, r#""a":E"#, &[0; 7]), "Truncated"),
        refused("A11", "bytes after the last tensor", |d| one_tensor(d, r#""a":E"#, &[0; 9]), "TrailingBytes"),
        refused("A12", "a space before the header's brace", |d| header(d, " {}", &[]), "HeaderNotObject"),
        refused("A12", "a byte order mark before it", |d| header(d, "\u{feff}{}", &[]), "HeaderNotObject"),
        refused("A13", "a header that is a list", |d| header(d, "[]", &[]), "HeaderNotObject"),
        refused("A13", "a header that is null", |d| header(d, "null", &[]), "HeaderNotObject"),
        refused("A13", "a header that is a string", |d| header(d, "\"x\"", &[]), "HeaderNotObject"),
        refused("A13", "an entry that is a number", |d| header(d, "{\"a\":1}", &[]), "BadTensorEntry"),
        refused("A13", "two objects", |d| header(d, "{}{}", &[]), "Malformed"),
        refused("A14", "a name that is not UTF-8", |d| file(d, &file_of(b"{\"a\xff\":{}}", &[])), "Malformed"),
        refused("A15", "a header padded with NUL", |d| header(d, "{}\0\0\0\0\0\0", &[]), "NulPadding"),
        refused("A16", "lists in one another, 100,000 deep, for a shape", |d| header(d, &format!("{{\"a\":{{\"shape\":{}", "[".repeat(100_000)), &[]), "BadTensorEntry"),
        refused("A16", "objects in one another, 100,000 deep", |d| header(d, &"{\"a\":".repeat(100_000), &[]), "BadTensorEntry"),
        refused("A17", "two entries of one name", |d| one_tensor(d, r#""a":E,"a":{"dtype":"BF16","shape":[4],"OFFSETS":[0,8]}"#, &[0; 8]), "DuplicateTensor"),
        refused("A17", "two entries of metadata", |d| one_tensor(d, r#""__metadata__":{},"a":E,"__metadata__":{}"#, &[0; 8]), "DuplicateTensor"),
        refused("A18", "a key twice in an entry", |d| one_tensor(d, r#""a":{"dtype":"F16","dtype":"F32","shape":[2],"OFFSETS":[0,8]}"#, &[0; 8]), "DuplicateKey"),
        refused("A18", "a key twice in the metadata", |d| one_tensor(d, r#""__metadata__":{"format":"pt","format":"np"},"a":E"#, &[0; 8]), "DuplicateKey"),
        refused("A19", "one name in two spellings", |d| one_tensor(d, r#""a":E,"\u0061":E"#, &[0; 8]), "DuplicateTensor"),
        refused("A20", "a tensor that ends before it begins", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[2],"OFFSETS":[10,4]}"#, &[0; 8]), "OffsetsOutOfOrder"),
        refused("A21", "an offset below zero", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[2],"OFFSETS":[-1,8]}"#, &[0; 8]), "BadTensorEntry"),
        refused("A21", "an offset with an exponent", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[2],"OFFSETS":[0,8e0]}"#, &[0; 8]), "BadTensorEntry"),
        refused("A21", "three offsets", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[2],"OFFSETS":[0,8,9]}"#, &[0; 8]), "Malformed"),
        refused("A22", "an offset of 2^64", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[2],"OFFSETS":[0,18446744073709551616]}"#, &[0; 8]), "BadTensorEntry"),
        refused("A23", "two tensors that share bytes", |d| one_tensor(d, r#""a":E,"b":{"dtype":"F32","shape":[1],"OFFSETS":[4,8]}"#, &[0; 8]), "Overlap"),
        refused("A24", "a hole between two tensors", |d| one_tensor(d, r#""a":E,"b":{"dtype":"F32","shape":[1],"OFFSETS":[12,16]}"#, &[0; 16]), "Hole"),
        refused("A24", "a hole before the first tensor", |d| one_tensor(d, r#""b":{"dtype":"F32","shape":[1],"OFFSETS":[4,8]}"#, &[0; 8]), "Hole"),
        refused("A25", "8 tensors of 2^61 - 1 bytes", |d| {
            let size = (1u64 << 61) - 1;
            let entries: Vec<String> = (0..8).map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{},{}]}}"#, i * size, (i + 1) * size)).collect();
            header(d, &format!("{{{}}}", entries.join(",")), &[0; 8]);
        }, "Truncated"),
        refused("A26", "a shape of 2^64 numbers", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[4294967296,4294967296],"OFFSETS":[0,8]}"#, &[0; 8]), "SizeOverflow"),
        refused("A27", "an empty axis before one of 2^64 - 1", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[0,18446744073709551615],"OFFSETS":[0,0]}"#, &[]), "SizeOverflow"),
        refused("A27", "an empty axis after one of 2^64 - 1", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[18446744073709551615,0],"OFFSETS":[0,0]}"#, &[]), "SizeOverflow"),
        refused("A28", "a span that is not the size", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[3],"OFFSETS":[0,8]}"#, &[0; 8]), "SizeMismatch"),
        refused("A29", "an unknown type", |d| one_tensor(d, r#""a":{"dtype":"F4_X","shape":[2],"OFFSETS":[0,8]}"#, &[0; 8]), "UnknownDtype"),
        refused("A29", "a type in lower case", |d| one_tensor(d, r#""a":{"dtype":"f32","shape":[2],"OFFSETS":[0,8]}"#, &[0; 8]), "UnknownDtype"),
        refused("A30", "15 numbers of 4 bits", |d| one_tensor(d, r#""a":{"dtype":"F4","shape":[15],"OFFSETS":[0,8]}"#, &[0; 8]), "PartialByte"),
        refused("A30", "a weight of 4-bit numbers", |d| { llama(d); edit_header(d, WEIGHTS, r#""F32","shape":[8,4]"#, r#""F4","shape":[8,32]"#); edit(d, CONFIG, |c| c["hidden_size"] = 32.into()) }, "UnsupportedDtype"),
        refused("A31", "5,000 axes", |d| one_tensor(d, &format!(r#""a":{{"dtype":"F32","shape":[{}2],"OFFSETS":[0,8]}}"#, "1,".repeat(4999)), &[0; 8]), "TooManyAxes"),
        refused("A32", "1,000,001 tensors", |d| header(d, &format!("{{{}}}", many(1_000_001)), &vec![0; 1_000_001]), "TooMany"),
        refused("A32", "1,000,001 strings of metadata", |d| header(d, &format!(r#"{{"__metadata__":{{{}"":""}}}}"#, r#""":"","#.repeat(1_000_000)), &[]), "TooMany"),
        refused("A33", "a tensor without a name", |d| one_tensor(d, r#""":E"#, &[0; 8]), "BadTensorName"),
        refused("A33", "a name of 4,097 bytes", |d| one_tensor(d, &format!(r#""{}":E"#, "x".repeat(4097)), &[0; 8]), "BadTensorName"),
        refused("A33", "a name with NUL", |d| one_tensor(d, r#""a\u0000":E"#, &[0; 8]), "BadTensorName"),
        refused("A33", "a name that colours the terminal", |d| one_tensor(d, r#""\u001b[31mred":E"#, &[0; 8]), "BadTensorName"),
        refused("A33", "a name of two lines", |d| one_tensor(d, r#""a\nb":E"#, &[0; 8]), "BadTensorName"),
        refused("A33", "a name that turns the direction of writing", |d| { llama(d); edit_header(d, WEIGHTS, "layers.1.mlp.up_proj", "layers.1.\\u202eevil") }, "MissingTensor"),
        // Names are never used as paths, and other programs write names with slashes.
        refused("A33", "a name that leads out, which is only one that no decoder has", |d| { untied(d); edit(d, CONFIG, |c| c["tie_word_embeddings"] = true.into()); edit_header(d, WEIGHTS, "lm_head.weight", "../../evil") }, "UnexpectedTensor"),
        refused("A34", "metadata that is a number", |d| one_tensor(d, r#""a":E,"__metadata__":{"format":1}"#, &[0; 8]), "BadMetadata"),
        refused("A34", "metadata that is a list", |d| one_tensor(d, r#""a":E,"__metadata__":[]"#, &[0; 8]), "BadMetadata"),
        refused("A34", "an entry without a shape", |d| one_tensor(d, r#""a":{"dtype":"F32","OFFSETS":[0,8]}"#, &[0; 8]), "BadTensorEntry"),
        refused("A34", "an entry with a stride", |d| one_tensor(d, r#""a":{"dtype":"F32","shape":[2],"stride":1,"OFFSETS":[0,8]}"#, &[0; 8]), "BadTensorEntry"),
        accepted("A36", "data that begin at an odd byte", |d| { llama(d); edit_header(d, WEIGHTS, "\"__metadata__\"", " \"__metadata__\"") }, 0, "bytes are copied, never cast"),
        refused("A39", "a directory for a file of weights", |d| { llama(d); fs::remove_file(d.join(WEIGHTS)).unwrap(); fs::create_dir(d.join(WEIGHTS)).unwrap() }, "NotAFile"),
        refused("A39", "a pipe for a file of weights", |d| { llama(d); fs::remove_file(d.join(WEIGHTS)).unwrap(); pipe(&d.join(WEIGHTS)) }, "NotAFile"),
        refused("A39", "a device for a file of weights", |d| { llama(d); fs::remove_file(d.join(WEIGHTS)).unwrap(); link("/dev/zero", &d.join(WEIGHTS)) }, "NotAFile"),
    ]
}

pub fn pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

pub fn link(to: &str, path: &Path) {
    std::os::unix::fs::symlink(to, path).unwrap();
}

/// A36.
#[test]
fn data_at_an_odd_offset_is_read_unchanged() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    llama(&directory);
    let aligned = HfDirectory::open(&directory).unwrap().read(TensorId::EmbedTokens).unwrap();
    edit_header(&directory, WEIGHTS, "\"__metadata__\"", " \"__metadata__\"");
    assert_eq!(HfDirectory::open(&directory).unwrap().read(TensorId::EmbedTokens).unwrap(), aligned);
}

/// A37: a byte is never reinterpreted as a `bool`.
#[test]
fn booleans_are_copied_as_bytes_and_not_computed_with() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("checkpoint");
    one_tensor(&path, r#""a":{"dtype":"BOOL","shape":[2],"OFFSETS":[0,2]}"#, &[2, 255]);
    let read = SafetensorsFile::open(&path.join(WEIGHTS)).unwrap().read_tensor("a").unwrap();
    assert_eq!((read.dtype(), read.bytes()), (Dtype::Bool, &[2, 255][..]));
    assert!(!Dtype::Bool.is_float() && !Dtype::Bool.is_computed_with());
}

/// A38.
#[test]
fn a_file_that_changed_after_it_was_opened_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    let changes: [fn(&Path); 3] = [
        |path| stretch(path, fs::metadata(path).unwrap().len() - 1),
        |path| fs::write(path.with_extension("new"), fs::read(path).unwrap()).unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        llama(&directory);
        let path = directory.join(WEIGHTS);
        let opened = HfDirectory::open(&directory).unwrap();
        opened.read(TensorId::Norm).unwrap();
        change(&path);
        if path.with_extension("new").exists() {
            // The same bytes, but another file.
            fs::rename(path.with_extension("new"), &path).unwrap();
        }
        let error = opened.read(TensorId::Norm).unwrap_err();
        let expected = if i == 2 { "NotFound" } else { "Changed" };
        assert_eq!(variant_of(&error), expected, "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }
}

/// A35: the writer panics at this name, which no weight has.
#[test]
fn no_weight_is_called_metadata() {
    assert!("__metadata__".parse::<TensorId>().is_err());
}

/// A40.
#[test]
fn numbers_are_little_endian_on_every_machine() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("checkpoint");
    one_tensor(&path, r#""a":E"#, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    let read = SafetensorsFile::open(&path.join(WEIGHTS)).unwrap().read_tensor("a").unwrap();
    assert_eq!(read.to_f32(), [1.0, -2.0]);
}

#[test]
fn reading_a_missing_tensor_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("checkpoint");
    one_tensor(&path, r#""a":E"#, &[0; 8]);
    let error = SafetensorsFile::open(&path.join(WEIGHTS)).unwrap().read("b").unwrap_err();
    assert_eq!(variant_of(&error), "MissingTensor", "{error}");
}
