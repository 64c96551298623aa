//! A config beside a file of no tensors.

#![no_main]

use std::path::Path;

use deepwide::formats::HfDirectory;
use deepwide_fuzz::{DIRECTORY, disk_with};
use libfuzzer_sys::fuzz_target;

const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

fuzz_target!(|bytes: &[u8]| {
    let disk = disk_with(&[("config.json", bytes), ("model.safetensors", EMPTY)]);
    let error = HfDirectory::open_on(disk, Path::new(DIRECTORY)).expect_err("a decoder has tensors");
    assert!(!error.to_string().contains(char::is_control));
});
