//! Hostile headers: what broke readers of GGUF before, and what chance makes of a sound file.

use std::io;

use super::*;
use crate::config::DecoderConfig;
use crate::formats::gguf::metadata::Metadata;
use crate::formats::gguf::{config, vocabulary_keys};
use crate::output::disk::Stat;

struct Memory(Vec<u8>);

impl ReadAt for Memory {
    fn stat(&self) -> io::Result<Stat> {
        unreachable!("a header is read without it")
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// A file before its last touch: a fault is put into one of its parts.
#[derive(Clone)]
struct Draft {
    magic: Vec<u8>,
    counts: Option<(u64, u64)>,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data_bytes: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn key(name: &str, ty: u32, value: &[u8]) -> Vec<u8> {
    [&text(name), &ty.to_le_bytes()[..], value].concat()
}

fn tensor(name: &str, sizes: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut entry = text(name);
    entry.extend((sizes.len() as u32).to_le_bytes());
    entry.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
    entry.extend(ty.to_le_bytes());
    entry.extend(offset.to_le_bytes());
    entry
}

impl Draft {
    fn sound() -> Self {
        let number = |name: &str, value: u32| key(name, 4, &value.to_le_bytes());
        let array = |ty: u32, count: u64, values: &[u8]| [&ty.to_le_bytes()[..], &count.to_le_bytes(), values].concat();
        Self {
            magic: b"GGUF\x03\0\0\0".to_vec(),
            counts: None,
            keys: vec![
                key("general.architecture", 8, &text("llama")),
                number("llama.embedding_length", 8),
                number("llama.attention.head_count", 2),
                number("llama.feed_forward_length", 8),
                number("llama.block_count", 1),
                number("llama.context_length", 16),
                key("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes()),
                key("tokenizer.ggml.model", 8, &text("llama")),
                key("tokenizer.ggml.tokens", 9, &array(8, 2, &[text("▁a"), text("b")].concat())),
                key("tokenizer.ggml.scores", 9, &array(6, 2, &[0; 8])),
                key("tokenizer.ggml.add_bos_token", 7, &[0]),
                number("general.alignment", 32),
            ],
            tensors: vec![tensor("a", &[32, 2], 2, 0), tensor("b", &[3], 0, 64), tensor("scalar", &[], 0, 96)],
            data_bytes: 128,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (tensors, keys) = self.counts.unwrap_or((self.tensors.len() as u64, self.keys.len() as u64));
        let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
        let mut bytes = [&self.magic[..], &counts, &self.keys.concat(), &self.tensors.concat()].concat();
        bytes.resize(bytes.len().next_multiple_of(32) + self.data_bytes, 0);
        bytes
    }
}

fn fault_of(bytes: Vec<u8>) -> GgufFault {
    let size = bytes.len() as u64;
    match read(&Memory(bytes), size) {
        Err(Failure::Fault(fault)) => *fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sound_file_is_read() {
    for version in [2, 3] {
        let mut draft = Draft::sound();
        draft.magic[4] = version;
        let bytes = draft.bytes();
        let size = bytes.len() as u64;
        let header = read(&Memory(bytes), size).unwrap();
        let tensors: Vec<_> =
            header.tensors.iter().map(|t| (&*t.name, &*t.shape, t.size_bytes, size - t.begin)).collect();
        let [two, one, none]: [&[usize]; 3] = [&[2, 32], &[3], &[]];
        assert_eq!(tensors, [("a", two, 36, 128), ("b", one, 12, 64), ("scalar", none, 4, 32)]);
    }
}

#[test]
fn every_hostile_header_breaks_its_own_rule() {
    let with = |change: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::sound();
        change(&mut draft);
        fault_of(draft.bytes())
    };
    let magic = |magic: &'static [u8]| with(&|draft| draft.magic = magic.to_vec());
    let counts = |tensors, keys| with(&|draft| draft.counts = Some((tensors, keys)));
    let added = |key: Vec<u8>| with(&|draft| draft.keys.push(key.clone()));
    let last = |tensor: Vec<u8>| with(&|draft| *draft.tensors.last_mut().unwrap() = tensor.clone());
    let aligned = |ty: u32, value: &[u8]| with(&|d| *d.keys.last_mut().unwrap() = key("general.alignment", ty, value));
    let array = |ty: u32, count: u64| added(key("k", 9, &[&ty.to_le_bytes()[..], &count.to_le_bytes()].concat()));
    let sound = Draft::sound();
    let table_end = 24 + sound.keys.concat().len() + sound.tensors.concat().len();
    let cut_in_table = sound.bytes()[..table_end - 4].to_vec();
    let long = "x".repeat(1 << 16);
    let cases: Vec<(&str, GgufFault, &str)> = vec![
        ("C1", magic(b"GG01\x03\0\0\0"), "NotGguf"),
        ("C1", fault_of(b"GGU".to_vec()), "NotGguf"),
        ("C2", magic(b"FUGG\x03\0\0\0"), "BigEndian"),
        ("C3", magic(b"GGUF\0\0\0\0"), "Version"),
        ("C3", magic(b"GGUF\x01\0\0\0"), "Version"),
        ("C3", magic(b"GGUF\x04\0\0\0"), "Version"),
        ("C3", magic(b"GGUF\xff\xff\xff\xff"), "Version"),
        ("C4", magic(b"GGUF\0\0\0\x03"), "BigEndian"),
        ("C5", counts(1 << 63, 1), "TooManyTensors"),
        ("C6", counts(1, 1 << 63), "TooManyKeys"),
        ("C7", counts(-1i64 as u64, 1), "TooManyTensors"),
        ("C8", added(vec![0xff; 8]), "StringBeyondFile"),
        ("C9", added(key("k", 8, &(1u64 << 30).to_le_bytes())), "StringBeyondFile"),
        ("C10", array(0, 1 << 60), "ArrayBeyondFile"),
        ("C10", array(10, 1 << 61), "ArrayBeyondFile"),
        ("C12", array(9, 1), "NestedArray"),
        ("C13", added(key("k", 13, &[])), "ValueType"),
        ("C13", added(key("k", 255, &[])), "ValueType"),
        ("C15", added(key("k", 7, &[2])), "Bool"),
        ("C15", added(key("k", 9, &[&7u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[2]].concat())), "Bool"),
        ("C16", added(key("llama.block_count", 4, &[0; 4])), "DuplicateKey"),
        ("C16", last(tensor("a", &[1], 0, 96)), "DuplicateTensor"),
        ("C17", added(key("", 7, &[1])), "KeyLength"),
        ("C17", added(key(&long, 7, &[1])), "KeyLength"),
        ("C18", added([&1u64.to_le_bytes()[..], &[0xff], &[0; 8]].concat()), "NotUtf8"),
        ("C18", added(key("k", 8, &[&1u64.to_le_bytes()[..], &[0xe2]].concat())), "NotUtf8"),
        ("C19", last(tensor(&long[..64], &[1], 0, 96)), "TensorNameLength"),
        ("C20", last(tensor("t", &[1; 5], 0, 96)), "TooManyAxes"),
        ("C22", last(tensor("t", &[0], 0, 96)), "AxisSize"),
        ("C23", last(tensor("t", &[1 << 63], 0, 96)), "AxisSize"),
        ("C24", last(tensor("t", &[1 << 32, 1 << 32, 2], 0, 96)), "SizeOverflow"),
        ("C25", last(tensor("t", &[1 << 60], 0, 96)), "SizeOverflow"),
        ("C26", last(tensor("t", &[32], 99, 96)), "UnknownType"),
        ("C27", last(tensor("t", &[32], 4, 96)), "UnreadType"),
        ("C28", last(tensor("t", &[256], 19, 96)), "UnreadType"),
        ("C29", last(tensor("t", &[100], 2, 96)), "PartialBlock"),
        ("C30", aligned(4, &0u32.to_le_bytes()), "Alignment"),
        ("C31", aligned(4, &3u32.to_le_bytes()), "Alignment"),
        ("C31", aligned(4, &(1u32 << 31).to_le_bytes()), "Alignment"),
        ("C31", aligned(8, &text("32")), "Alignment"),
        ("C32", last(tensor("t", &[1], 0, 97)), "Unaligned"),
        ("C33", last(tensor("t", &[1], 0, 64)), "OutOfPlace"),
        ("C33", last(tensor("t", &[1], 0, 128)), "OutOfPlace"),
        ("C34", last(tensor("t", &[1000], 0, 96)), "BeyondFile"),
        ("C35", fault_of(cut_in_table), "HeaderCutShort"),
        ("C35", fault_of(Draft::sound().bytes()[..10].to_vec()), "HeaderCutShort"),
    ];
    for (row, fault, expected) in cases {
        assert!(format!("{fault:?}").starts_with(expected), "{row}: {fault:?}, expected {expected}");
    }
}

/// As far as opening goes without a disk: the header, the sizes, the vocabulary.
fn read_all(bytes: Vec<u8>) -> Result<(), String> {
    let (file_bytes, file) = (bytes.len() as u64, Memory(bytes));
    let shown = |failure: Failure| match failure {
        Failure::Io(error) => panic!("{error}: a sound disk never fails"),
        Failure::Fault(fault) => fault.to_string(),
    };
    let header = read(&file, file_bytes).map_err(shown)?;
    let keys = Metadata { entries: &header.entries, file: &file, file_bytes };
    let fields = config::fields(&keys, None, true).map_err(shown)?;
    DecoderConfig::new(fields).map_err(|error| error.to_string())?;
    match vocabulary_keys::read(&keys).map_err(shown)? {
        Some(vocabulary) => vocabulary.tokenizer_files().map(drop).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

#[test]
fn a_hundred_thousand_damaged_files_give_errors_and_no_panic() {
    const HOSTILE: [u64; 8] = [0, 1, 0xff, 0xffff, 1 << 31, 1 << 32, 1 << 63, u64::MAX];
    let sound = Draft::sound().bytes();
    read_all(sound.clone()).unwrap();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut refused = 0;
    for _ in 0..100_000 {
        let mut bytes = sound.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len() - 8);
            match random(5) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = random(256) as u8,
                2 => bytes[at..at + 8].copy_from_slice(&HOSTILE[random(8)].to_le_bytes()),
                3 => drop(bytes.drain(at..at + 1 + random(8))),
                _ => bytes.truncate(at.max(16)),
            }
            bytes.resize(bytes.len().max(16), 0);
        }
        refused += usize::from(read_all(bytes).is_err());
    }
    // Damage to the padding, to a number or to a token's text is no error.
    assert!((70_000..100_000).contains(&refused), "{refused} of 100000 were refused");
}
