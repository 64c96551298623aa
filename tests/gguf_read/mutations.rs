//! Random files that a careless or hostile writer might make: each is read or refused, and nothing else happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use deepwide::formats::gguf::GgufFile;
use deepwide::output::disk::{Disk, MemoryDisk};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::bad_files::{read_all, variant_of};
use super::builder::*;

/// Where [`in_memory`] puts a file.
pub const PATH: &str = "memory/model.gguf";

/// A disk in memory with one file.
pub fn in_memory(bytes: &[u8]) -> Arc<dyn Disk> {
    MemoryDisk::with(Path::new("memory"), &[("model.gguf", bytes)])
}

/// A file with one to three changes.
pub fn mutated(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let (mut file, mut changed_bytes) = (llama(), 0);
    for _ in 0..rng.random_range(1..4) {
        match rng.random_range(0..10) {
            0 => header(&mut file, rng),
            1..4 => key(&mut file, rng),
            4..8 => tensor(&mut file, rng),
            _ => changed_bytes += 1,
        }
    }
    let mut bytes = file.bytes();
    (0..changed_bytes).for_each(|_| byte(&mut bytes, rng));
    bytes
}

/// Numbers at which arithmetic breaks, and small ones.
fn number(rng: &mut ChaCha8Rng) -> u64 {
    let near = rng.random_range(0..3);
    match rng.random_range(0..5) {
        0 => (1u64 << rng.random_range(0..64)).wrapping_sub(near),
        1 => (u64::MAX / rng.random_range(1..64)).wrapping_add(near),
        2 => rng.random(),
        3 => rng.random_range(0..16) * 32,
        _ => rng.random_range(0..300),
    }
}

fn header(file: &mut Gguf, rng: &mut ChaCha8Rng) {
    match rng.random_range(0..6) {
        0 => file.version = number(rng) as u32,
        1 => file.tensor_count = Some(number(rng)),
        2 => file.key_count = Some(number(rng)),
        3 => file.missing = rng.random_range(0..12_000),
        4 => {
            file.alignment = 1 << rng.random_range(0..13);
            file.keys.push((b"general.alignment".into(), u32_(file.alignment as u32)));
        }
        _ => file.keys.push((b"general.alignment".into(), u32_(number(rng) as u32))),
    }
}

fn key(file: &mut Gguf, rng: &mut ChaCha8Rng) {
    let (at, other) = (rng.random_range(0..file.keys.len()), rng.random_range(0..file.keys.len()));
    match rng.random_range(0..9) {
        0 => drop(file.keys.remove(at)),
        1 => file.keys.push(file.keys[at].clone()),
        2 => file.keys.swap(at, other),
        3 => file.keys[at].1 = file.keys[other].1.clone(),
        4 => file.keys[at].1.kind = rng.random_range(0..15),
        5 => file.keys[at].1 = u32_(number(rng) as u32),
        6 => file.keys[at].1 = announced(rng.random_range(0..14), number(rng), vec![0; 64]),
        7 => replace(&mut file.keys[at].0, rng),
        _ => replace(&mut file.keys[at].1.bytes, rng),
    }
}

fn tensor(file: &mut Gguf, rng: &mut ChaCha8Rng) {
    let (at, other) = (rng.random_range(0..file.tensors.len()), rng.random_range(0..file.tensors.len()));
    match rng.random_range(0..12) {
        0 => drop(file.tensors.remove(at)),
        1 => file.tensors.push(file.tensors[at].clone()),
        2 => file.tensors.swap(at, other),
        3 => file.tensors[at].name = file.tensors[other].name.clone(),
        4 => file.tensors[at].ty = rng.random_range(0..43),
        5 => file.tensors[at].offset = Some(number(rng)),
        6 => file.tensors[at].axes = Some(number(rng) as u32),
        7 => file.tensors[at].sizes = (0..rng.random_range(0..6)).map(|_| number(rng)).collect(),
        8 => file.tensors[at].sizes.reverse(),
        9 => file.tensors[at].data.resize(rng.random_range(1..5000), 0),
        10 => replace(&mut file.tensors[at].name, rng),
        _ => replace(&mut file.tensors[at].data, rng),
    }
}

/// One byte by another.
fn replace(bytes: &mut [u8], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..bytes.len());
    bytes[at] = rng.random();
}

fn byte(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    // Most of what can go wrong lies before the tensors; a file that is cut short may have nothing left.
    let at = rng.random_range(0..bytes.len().clamp(1, 1400));
    match rng.random_range(0..3) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes.truncate(at),
        _ => {
            let piece = bytes[at.min(bytes.len())..bytes.len().min(at + rng.random_range(1..40))].to_vec();
            bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece);
        }
    }
}

#[test]
fn of_100_000_mutated_files_each_is_read_or_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut outcomes = BTreeMap::<String, usize>::new();
    for _ in 0..100_000 {
        let outcome = match read_all(in_memory(&mutated(&mut rng)), Path::new(PATH)) {
            Ok(()) => "read".to_owned(),
            Err(error) => {
                let message = error.to_string();
                assert!(!message.contains(char::is_control) && message.len() < 1000, "{message:?}");
                variant_of(&error)
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{outcomes:?}");
    // Were every mutation caught by one rule, the others would not be tried.
    assert!(outcomes["read"] > 2000, "{outcomes:?}");
    assert!(outcomes.len() > 30 && !outcomes.contains_key("Io"), "{outcomes:?}");
}

/// Files for `tests/golden/gguf/check_accepted_gguf.py`.
#[test]
#[ignore = "writes to DEEPWIDE_TEST_FOLDER what gguf-py is to read by hand"]
fn write_accepted_files_for_gguf_py_to_read() {
    let folder = std::env::var_os("DEEPWIDE_TEST_FOLDER").expect("DEEPWIDE_TEST_FOLDER");
    let (mut rng, mut accepted) = (ChaCha8Rng::seed_from_u64(7), 0);
    while accepted < 3000 {
        let bytes = mutated(&mut rng);
        let Ok(file) = GgufFile::open_on(in_memory(&bytes), Path::new(PATH)) else { continue };
        let tensors = file.stored_tensors().into_iter();
        let tensors: Vec<_> = tensors.map(|t| json!([t.name, t.format, t.shape, t.size_bytes])).collect();
        let path = Path::new(&folder).join(format!("{accepted}.gguf"));
        fs::write(&path, bytes).unwrap();
        fs::write(path.with_extension("json"), json!(tensors).to_string()).unwrap();
        accepted += 1;
    }
}
