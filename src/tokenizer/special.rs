//! Which ids begin and end a text: the settings of a checkpoint that lie beside its tokenizer.

use std::collections::HashSet;
use std::path::Path;

use super::TokenizerError;
use super::settings_file::SettingsFile;
use crate::output::disk::Disk;

/// The first `bos` and every `eos`, in the order in which `tokenizer_config.json`, `generation_config.json` and
/// `config.json` name them.
pub(crate) fn special_ids(
    disk: &dyn Disk,
    directory: &Path,
    id_of: impl Fn(&str) -> Option<u32>,
) -> Result<(Option<u32>, Vec<u32>), TokenizerError> {
    let (mut bos, mut eos) = (Vec::new(), Vec::new());
    let settings = SettingsFile::read(disk, directory.join("tokenizer_config.json"))?;
    bos.extend(settings.token("bos_token", &id_of)?);
    eos.extend(settings.token("eos_token", &id_of)?);
    for name in ["generation_config.json", "config.json"] {
        let settings = SettingsFile::read(disk, directory.join(name))?;
        bos.extend(settings.ids("bos_token_id")?);
        eos.extend(settings.ids("eos_token_id")?);
    }
    let mut seen = HashSet::new();
    eos.retain(|id| seen.insert(*id));
    Ok((bos.first().copied(), eos))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::tokenizer::Tokenizer;

    const WORDS: [&str; 4] = ["<s>", "</s>", "<turn>", "red"];

    fn read_with(files: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
        let directory = tempfile::tempdir().unwrap();
        Tokenizer::word_level(&WORDS.map(String::from)).save(directory.path()).unwrap();
        for (name, value) in files {
            std::fs::write(directory.path().join(name), value.to_string()).unwrap();
        }
        Tokenizer::from_directory(directory.path())
    }

    #[test]
    fn ids_that_begin_and_end_a_text_come_from_the_files_beside_it_in_their_order() {
        let words = ("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}));
        let generation = ("generation_config.json", json!({"bos_token_id": 3, "eos_token_id": [2, 1]}));
        let model = ("config.json", json!({"bos_token_id": 2, "eos_token_id": 3}));

        let tokenizer = read_with(&[words, generation.clone(), model.clone()]).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), [1, 2, 3].as_slice()));
        let tokenizer = read_with(&[generation, model.clone()]).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(3), [2, 1, 3].as_slice()));
        let tokenizer = read_with(&[model]).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(2), [3].as_slice()));
        let tokenizer = read_with(&[]).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, [].as_slice()));
    }

    #[test]
    fn a_special_token_that_is_none_is_refused_with_its_file_and_key() {
        let file = "tokenizer_config.json";
        let error = read_with(&[(file, json!({"bos_token": "<nobody>"}))]).unwrap_err();
        assert!(matches!(&error, TokenizerError::BadSetting { path, key, found, .. }
            if path.ends_with(file) && key == "bos_token" && found == "\"<nobody>\""));
        for bad in [json!(-1), json!(1.5), json!("1"), json!([1, null]), json!(u64::MAX)] {
            let error = read_with(&[("config.json", json!({"eos_token_id": bad}))]).unwrap_err();
            assert!(matches!(&error, TokenizerError::BadSetting { key, .. } if key == "eos_token_id"), "{bad}");
        }
    }

    #[test]
    fn settings_that_are_no_object_are_refused_with_their_file() {
        let error = read_with(&[("generation_config.json", json!([]))]).unwrap_err();
        assert!(matches!(&error, TokenizerError::Malformed { path, .. } if path.ends_with("generation_config.json")));
    }
}
