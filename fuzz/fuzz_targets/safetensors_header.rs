//! What we accept, the safetensors crate reads alike.

#![no_main]

use std::path::Path;

use deepwide::formats::safetensors::SafetensorsFile;
use deepwide_fuzz::{DIRECTORY, disk_with};
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new(DIRECTORY).join("model.safetensors");
    let Ok(ours) = SafetensorsFile::open_on(disk_with(&[("model.safetensors", bytes)]), &path) else { return };
    let theirs = SafeTensors::deserialize(bytes).expect("we are stricter");
    assert_eq!(ours.tensors().count(), theirs.len());
    for (name, info) in ours.tensors() {
        let view = theirs.tensor(name).expect("it has the same tensors");
        assert_eq!((view.dtype(), view.shape()), (info.dtype, info.shape.as_slice()), "{name:?}");
        assert_eq!(ours.read(name).expect("it was checked"), view.data(), "{name:?}");
    }
});
