//! An index beside a sound config and a shard of no tensors.

#![no_main]

use std::path::Path;

use deepwide::formats::HfDirectory;
use deepwide_fuzz::{DIRECTORY, disk_with};
use libfuzzer_sys::fuzz_target;

const CONFIG: &[u8] = include_bytes!("../seeds/config/llama.json");
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

fuzz_target!(|bytes: &[u8]| {
    let disk = disk_with(&[
        ("config.json", CONFIG),
        ("model.safetensors.index.json", bytes),
        ("model-00001-of-00001.safetensors", EMPTY),
    ]);
    if let Err(error) = HfDirectory::open_on(disk, Path::new(DIRECTORY)) {
        assert!(!error.to_string().contains(char::is_control));
    }
});
