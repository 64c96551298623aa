//! The built-in base, which is part of the program.

use std::path::Path;

use super::directory::HfDirectory;
use crate::formats::CheckpointError;
use crate::output::disk::MemoryDisk;

/// Its files.
const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../../../experiments/pico_base/config.json")),
    ("model.safetensors", include_bytes!("../../../experiments/pico_base/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../experiments/pico_base/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../experiments/pico_base/tokenizer_config.json")),
];

impl HfDirectory {
    /// The built-in base: a Llama of a million parameters with the words of the built-in language as its tokens. It lies on a
    /// disk in memory, see [`disk`](Self::disk).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn builtin() -> Result<Self, CheckpointError> {
        let path = Path::new("the built-in base");
        Self::open_on(MemoryDisk::with(path, &FILES), path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::WeightSource;

    #[test]
    fn the_built_in_base_is_that_of_the_sources() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/pico_base");
        let (builtin, source) = (HfDirectory::builtin().unwrap(), HfDirectory::open(&path).unwrap());
        assert_eq!(builtin.config(), source.config());
        let hash = |base: &HfDirectory| base.weights_sha256(&mut |_| ()).unwrap();
        assert_eq!(hash(&builtin), hash(&source));
        for (name, bytes) in FILES {
            assert!(std::fs::read(path.join(name)).unwrap() == bytes, "{name}");
        }
    }
}
