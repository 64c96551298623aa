//! A whole GGUF file: header, tensors, vocabulary.

#![no_main]

use std::path::Path;

use deepwide::formats::gguf::GgufFile;
use deepwide::weights::{TensorId, WeightSource};
use deepwide_fuzz::{DIRECTORY, disk_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let disk = disk_with(&[("model.gguf", bytes)]);
    match GgufFile::open_on(disk, &Path::new(DIRECTORY).join("model.gguf")) {
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
        Ok(file) => {
            let _refused_or_not = file.inherited();
            for id in TensorId::all(file.config()) {
                let _finite_or_not = file.read(id);
            }
        }
    }
});
