//! What reading costs: memory that grows neither with arrays that nobody asks for, nor with weights, nor with what a file
//! announces.

#![cfg(target_os = "linux")]

use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use deepwide::formats::gguf::GgufFile;
use deepwide::weights::{TensorId, WeightSource};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::bad_files::read_all;
use super::builder::*;
use super::mutations::{PATH, in_memory, mutated};

const FOLDER: &str = "DEEPWIDE_TEST_FOLDER";
const ARRAY_BYTES: u64 = 300_000_000;
const ROWS: u64 = 1_000_000;
const CONTROL_BYTES: usize = 64 << 20;

/// A peak of this process so far: `VmHWM` of resident memory, `VmPeak` of all that it ever reserved.
fn peak_bytes(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The work, in a process of its own: started by the test below.
#[test]
#[ignore = "runs in a process of its own, started by memory_is_bounded_whatever_a_file_holds_or_announces"]
fn read_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let read = |bytes: Vec<u8>| read_all(in_memory(&bytes), Path::new(PATH));
    read(llama().bytes()).unwrap();
    let (resident, reserved) = (peak_bytes("VmHWM"), peak_bytes("VmPeak"));

    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..20_000 {
        let _read_or_refused = read(mutated(&mut rng));
    }
    let mutated = peak_bytes("VmPeak");
    println!("mutated {}", mutated - reserved);
    // What the peak would not show is no more than this lacks.
    drop(black_box(Vec::<u8>::with_capacity(CONTROL_BYTES)));
    println!("control {}", peak_bytes("VmPeak") - mutated);

    GgufFile::open(&Path::new(&folder).join("array.gguf")).unwrap();
    println!("array {}", peak_bytes("VmHWM") - resident);

    let weights = GgufFile::open(&Path::new(&folder).join("weights.gguf")).unwrap();
    let mut numbers = 0;
    for id in TensorId::all(weights.config()) {
        let mut count = |piece: &[u8]| {
            numbers += piece.len() as u64 / 4;
            Ok(())
        };
        weights.stream(id, &mut count).unwrap();
    }
    assert!(numbers > ROWS * 32);
    println!("weights {}", peak_bytes("VmHWM") - resident);
}

/// A file with an array of bytes, and one with a large table of embeddings; on disk both are mostly holes.
fn write_large(folder: &Path) {
    let create =
        |name: &str| OpenOptions::new().create(true).truncate(true).write(true).open(folder.join(name)).unwrap();
    let array = llama().with("a", announced(0, ARRAY_BYTES, Vec::new()));
    let bytes = array.bytes();
    let first = string(&array.tensors[0].name);
    let table = bytes.windows(first.len()).position(|window| window == first).expect("the first tensor");
    // Padded as if the array were not there.
    assert!(ARRAY_BYTES.is_multiple_of(array.alignment));
    let file = create("array.gguf");
    file.write_all_at(&bytes[..table], 0).unwrap();
    file.write_all_at(&bytes[table..], table as u64 + ARRAY_BYTES).unwrap();

    // The embeddings go last, where the file is a hole.
    let mut weights = llama().without("tokenizer.ggml.model").without("tokenizer.ggml.tokens");
    let mut embeddings = weights.tensors.remove(0);
    (embeddings.sizes, embeddings.data) = (vec![32, ROWS], Vec::new());
    weights.tensors.push(embeddings);
    let bytes = weights.bytes();
    let file = create("weights.gguf");
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(bytes.len() as u64 + ROWS * 34).unwrap();
}

#[test]
fn memory_is_bounded_whatever_a_file_holds_or_announces() {
    let root = tempfile::tempdir().unwrap();
    write_large(root.path());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["gguf_read::memory::read_in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, root.path())
        // An arena for this thread would be reserved at twice its size.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    let bytes = |what: &str| -> u64 {
        let found = text.lines().find_map(|line| line.split_once(&format!("{what} "))).expect(what);
        found.1.trim().parse().unwrap()
    };
    println!("{text}");
    // A mutated file has 12 kB: nothing that it announces is reserved.
    assert!(bytes("mutated") <= 4 << 20, "{text}");
    assert!(bytes("control") + (4 << 20) >= CONTROL_BYTES as u64, "{text}");
    // The array has 300 MB, the embeddings 34 MB and as numbers 128 MB.
    assert!(bytes("array") <= 4 << 20, "{text}");
    assert!(bytes("weights") <= 16 << 20, "{text}");
}
