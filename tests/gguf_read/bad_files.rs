//! Files that are wrong in one way each, or only look so, as checkpoints; rules of the header alone are tested beside it.
//!
//! Of a file that is refused, the variant and the whole message are held, in `snapshots/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deepwide::formats::CheckpointError;
use deepwide::formats::gguf::GgufFile;
use deepwide::output::disk::{Disk, disk};
use deepwide::weights::{TensorId, WeightSource};

use super::builder::*;

/// One input.
struct Row {
    id: &'static str,
    input: &'static str,
    /// The files by name; the first is opened.
    files: Vec<(&'static str, Vec<u8>)>,
    /// The variant that refuses it; `None` for what is read.
    variant: Option<&'static str>,
}

fn bytes(id: &'static str, input: &'static str, bytes: &[u8], variant: &'static str) -> Row {
    Row { id, input, files: vec![("model.gguf", bytes.to_vec())], variant: Some(variant) }
}

fn refused(id: &'static str, input: &'static str, file: Gguf, variant: &'static str) -> Row {
    bytes(id, input, &file.bytes(), variant)
}

fn read(id: &'static str, input: &'static str, file: Gguf) -> Row {
    Row { variant: None, ..refused(id, input, file, "") }
}

/// Parts of a checkpoint.
fn split<const N: usize>(input: &'static str, files: [(&'static str, Gguf); N], variant: Option<&'static str>) -> Row {
    Row { id: "C42", input, files: files.map(|(name, file)| (name, file.bytes())).to_vec(), variant }
}

const EMBEDDINGS: &str = "token_embd.weight";
const NORM: &str = "output_norm.weight";
const FIRST: &str = "m-00001-of-00002.gguf";
const SECOND: &str = "m-00002-of-00002.gguf";
const RED: &[u8] = b"\x1b[31mred\n";

/// Arrays in one another.
fn nested(depth: usize) -> Value {
    let inner = announced(0, 0, Vec::new()).bytes;
    let outer = announced(9, 1, Vec::new()).bytes.repeat(depth);
    Value { kind: 9, bytes: [outer, inner].concat() }
}

/// The scale of a block of a weight replaced, in half precision.
fn scale(half: u16) -> Gguf {
    llama().tensor("blk.0.ffn_up.weight", |tensor| tensor.data[34 * 5..][..2].copy_from_slice(&half.to_le_bytes()))
}

fn part(number: usize) -> Gguf {
    parts(2).swap_remove(number - 1)
}

fn rows() -> Vec<Row> {
    let mut rows = headers();
    rows.extend(decoders());
    rows
}

#[rustfmt::skip]
fn headers() -> Vec<Row> {
    vec![
        bytes("C1", "an empty file", b"", "NotGguf"),
        bytes("C1", "an HTML page", b"<!DOCTYPE html>\n<title>Sign in</title>", "NotGguf"),
        bytes("C1", "an escape sequence", b"\x1b[2J\n", "NotGguf"),
        bytes("C1", "the magic alone", b"GGUF", "HeaderCutShort"),
        refused("C5", "so many tensors that their bytes wrap to few", Gguf { tensor_count: Some(u64::MAX / 24), ..llama() }, "TooManyTensors"),
        refused("C10", "an array of 2^61 strings, whose least bytes wrap to none", llama().with("a", announced(8, 1 << 61, vec![0; 16])), "ArrayBeyondFile"),
        refused("C12", "arrays in one another, 100,000 deep", llama().with("a", nested(100_000)), "NestedArray"),
        refused("C13", "an array of value type 255", llama().with("a", announced(255, 1, vec![0; 16])), "ValueType"),
        refused("C14", "tokens that are numbers", llama().with("tokenizer.ggml.tokens", array(4, &[[0; 4]; 4])), "WrongType"),
        refused("C14", "scores that are strings", llama().with("tokenizer.ggml.scores", texts(&["", "", "", ""])), "WrongType"),
        refused("C14", "token types that are u32", llama().with("tokenizer.ggml.token_type", array(4, &[[0; 4]; 4])), "WrongType"),
        refused("C14", "tokens that are a string", llama().with("tokenizer.ggml.tokens", text("<unk>")), "WrongType"),
        refused("C14", "an architecture that is a number", llama().with("general.architecture", u32_(1)), "WrongType"),
        refused("C14", "a count that is a string", llama().with("llama.block_count", text("1")), "WrongType"),
        refused("C14", "a count that is a real number", llama().with("llama.block_count", f32_(1.0)), "WrongType"),
        refused("C14", "a count below zero", llama().with("llama.block_count", Value { kind: 5, bytes: (-1i32).to_le_bytes().into() }), "WrongType"),
        refused("C17", "a key of 65,536 bytes", llama().and(&[b'a'; 65_536], u32_(1)), "KeyLength"),
        read("C17", "a key of 65,535 bytes", llama().and(&[b'a'; 65_535], u32_(1))),
        refused("C17", "a key beyond ASCII", llama().and("ключ".as_bytes(), u32_(1)), "KeyNotAscii"),
        refused("C18", "a key that is not UTF-8", llama().and(b"llama.block_count\xff", u32_(1)), "NotUtf8"),
        read("C18", "a key that ends in NUL, beside one that does not", llama().and(b"llama.block_count\0", u32_(1))),
        refused("C18", "an array with a string that is not UTF-8", llama().with("a", array(8, &[string(b"a"), string(b"\xff")])), "NotUtf8"),
        refused("C19", "a tensor's name that is not UTF-8", llama().and_norm(b"a\xff"), "NotUtf8"),
        refused("C20", "2^32 - 1 axes", llama().tensor(NORM, |t| t.axes = Some(u32::MAX)), "TooManyAxes"),
        refused("C21", "no axes: one number, in a header that is sound", llama().tensor(NORM, |t| { t.sizes = vec![]; t.data = vec![0; 4] }), "ShapeMismatch"),
        refused("C21", "no axes in blocks", llama().tensor(EMBEDDINGS, |t| t.sizes = vec![]), "PartialBlock"),
        refused("C24", "a shape of 2^64 + 32 numbers, which wrap to 32", llama().tensor(NORM, |t| t.sizes = vec![32, (1 << 59) + 1]), "SizeOverflow"),
        refused("C24", "a shape of 2^62 numbers of 4 bytes, which wrap to none", llama().tensor(NORM, |t| t.sizes = vec![1 << 31, 1 << 31]), "SizeOverflow"),
        refused("C27", "Q4_0_8_8, which is gone", llama().tensor(NORM, |t| t.ty = 33), "UnreadType"),
        refused("C28", "integers", llama().tensor(NORM, |t| t.ty = 26), "UnreadType"),
        refused("C29", "a row of half a block, though all rows fill whole ones", llama().tensor(EMBEDDINGS, |t| t.sizes = vec![16, 8]), "PartialBlock"),
        refused("C31", "alignment 4", llama().with("general.alignment", u32_(4)), "Alignment"),
        refused("C31", "alignment 2^17", llama().with("general.alignment", u32_(1 << 17)), "Alignment"),
        read("C31", "alignment 8", Gguf { alignment: 8, ..llama() }.with("general.alignment", u32_(8))),
        read("C31", "alignment 65,536", Gguf { alignment: 65_536, ..llama() }.with("general.alignment", u32_(65_536))),
        refused("C34", "a last tensor of which a byte is missing", Gguf { missing: 1, ..llama() }, "BeyondFile"),
        refused("C34", "an offset that wraps to the first byte", llama().tensor(NORM, |t| t.offset = Some(u64::MAX - 31)), "OutOfPlace"),
    ]
}

#[rustfmt::skip]
fn decoders() -> Vec<Row> {
    vec![
        refused("C36", "no architecture", llama().without("general.architecture"), "MissingKey"),
        refused("C36", "no number of layers", llama().without("llama.block_count"), "MissingKey"),
        refused("C36", "no epsilon", llama().without("llama.attention.layer_norm_rms_epsilon"), "MissingKey"),
        refused("C36", "experts, and no number of those chosen", llama().with("llama.expert_count", u32_(8)), "MissingKey"),
        refused("C37", "architecture foo", llama().with("general.architecture", text("foo")), "Architecture"),
        refused("C37", "an architecture that colours the terminal", llama().with("general.architecture", text("\u{1b}[31mllama\n")), "Architecture"),
        refused("C38", "1,000,000 layers", llama().with("llama.block_count", u32_(1_000_000)), "MissingTensor"),
        refused("C38", "2^32 - 1 layers", llama().with("llama.block_count", u32_(u32::MAX)), "MissingTensor"),
        refused("C38", "no layer", llama().with("llama.block_count", u32_(0)), "Config"),
        refused("C39", "a width for each layer", llama().with("llama.feed_forward_length", array(4, &[[0; 4]; 32])), "WrongType"),
        refused("C39", "a width of zero", llama().with("llama.feed_forward_length", u32_(0)), "Config"),
        refused("C39", "no heads", llama().with("llama.attention.head_count", u32_(0)).without("llama.rope.dimension_count"), "Config"),
        refused("C39", "no key/value heads", llama().with("llama.attention.head_count_kv", u32_(0)), "Config"),
        refused("C39", "a hidden size that the heads cannot share", llama().with("llama.attention.head_count", u32_(3)), "MissingKey"),
        refused("C39", "heads of another width than what is turned", llama().with("llama.rope.dimension_count", u32_(8)), "Unsupported"),
        refused("C39", "YaRN", llama().with("llama.rope.scaling.type", text("yarn")).with("llama.rope.scaling.factor", f32_(4.0)), "Unsupported"),
        refused("C39", "65,537 experts", llama().with("llama.expert_count", u32_(65_537)), "Unsupported"),
        refused("C39", "a bias", llama().and_norm(b"blk.0.attn_q.bias"), "UnexpectedTensor"),
        refused("C41", "a scale that is no number", scale(0x7e00), "Undecodable"),
        refused("C41", "a scale that is infinite", scale(0xfc00), "Undecodable"),
        split("no second part", [(FIRST, part(1))], Some("MissingParts")),
        split("parts that changed places", [(FIRST, part(2)), (SECOND, part(1))], Some("WrongPart")),
        split("the first part twice", [(FIRST, part(1)), (SECOND, part(1))], Some("WrongPart")),
        split("a second part of three", [(FIRST, part(1)), (SECOND, parts(3).swap_remove(1))], Some("WrongPart")),
        split("the second part", [(SECOND, part(2)), (FIRST, part(1))], Some("PartName")),
        split("a part under another name", [("model.gguf", part(1)), (SECOND, part(2))], Some("PartName")),
        split("fewer tensors than the parts should hold", [(FIRST, part(1)), (SECOND, Gguf { tensors: part(2).tensors[..4].to_vec(), ..part(2) })], Some("PartTensors")),
        split("a tensor in both parts", [(FIRST, part(1)), (SECOND, part(2).tensor(NORM, |t| t.name = EMBEDDINGS.into()))], Some("DuplicateTensor")),
        split("both parts", [(FIRST, part(1)), (SECOND, part(2))], None),
        refused("C43", "a key that colours the terminal, twice", llama().and(RED, u32_(1)).and(RED, u32_(1)), "DuplicateKey"),
        refused("C43", "a tensor that colours the terminal", llama().and_norm(RED), "UnexpectedTensor"),
    ]
}

/// Opens a file and reads all that it has.
pub fn read_all(disk: Arc<dyn Disk>, path: &Path) -> Result<(), CheckpointError> {
    let file = GgufFile::open_on(disk, path)?;
    file.inherited()?;
    Ok(TensorId::all(file.config()).into_iter().try_for_each(|id| file.read(id).map(drop))?)
}

/// The broken rule of the file, or the variant of the error.
pub fn variant_of(error: &CheckpointError) -> String {
    let debug = match error {
        CheckpointError::Gguf(error) => format!("{:?}", error.fault),
        CheckpointError::File(error) => format!("{:?}", error.fault),
        CheckpointError::Weights(error) => format!("{error:?}"),
        error => format!("{error:?}"),
    };
    debug.split([' ', '{', '(']).next().unwrap().to_owned()
}

/// Makes the files in `folder`, and gives the one to open.
fn made(row: &Row, folder: &Path) -> PathBuf {
    row.files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    folder.join(row.files[0].0)
}

#[test]
fn every_row_is_refused_by_its_rule_or_read() {
    let (mut text, mut wrong) = (String::new(), String::new());
    for row in rows() {
        let root = tempfile::tempdir().unwrap();
        match (read_all(disk(), &made(&row, root.path())), row.variant) {
            (Ok(()), None) => text += &format!("{} {}\n  read\n", row.id, row.input),
            (Err(error), Some(variant)) if variant_of(&error) == variant => {
                let message = error.to_string().replace(&format!("{}/", root.path().display()), "");
                assert!(!message.contains(char::is_control), "{message:?}");
                text += &format!("{} {}\n  {variant}, {:?}: {message}\n", row.id, row.input, error.kind());
            }
            (found, expected) => wrong += &format!("{} {}: {found:?}, not {expected:?}\n", row.id, row.input),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("gguf", text);
    });
}

#[test]
fn what_the_rows_are_made_of_is_sound() {
    let row = read("", "", llama());
    let root = tempfile::tempdir().unwrap();
    read_all(disk(), &made(&row, root.path())).unwrap();
}
