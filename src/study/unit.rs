//! One training run: an arm with a seed. Runs are recorded as they finish, so that an interrupted study goes on with the
//! next one.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileError;
use crate::output::commit::write_file_atomically;
use crate::report::{ExpertLoad, SeedRun};

/// The result of one run, before the arm is timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Hash of everything that the result depends on.
    pub key: String,
    /// Name of the arm.
    pub arm: String,
    /// Training curve and losses.
    pub run: SeedRun,
    /// Peak memory of the run, where it is measured.
    pub train_peak_bytes: Option<u64>,
    /// Expert load per topic at the end; `None` for a dense model.
    pub expert_load: Option<ExpertLoad>,
}

/// Where finished runs are kept until the study is complete: a JSON file each.
///
/// A record is reused only by the run with the same key, so changed settings, data or code never reuse a stale one.
#[derive(Debug, Clone)]
pub struct Units {
    folder: Option<PathBuf>,
}

impl Units {
    /// Keeps nothing: an interrupted study starts again.
    pub fn discarded() -> Self {
        Self { folder: None }
    }

    /// Keeps runs in this folder, which is made when the first one finishes.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// The finished run of this arm and seed with this key, if there is one.
    pub fn find(&self, arm: &str, seed: u64, key: &str) -> Option<UnitRecord> {
        let text = fs::read_to_string(self.path(arm, seed, key)?).ok()?;
        serde_json::from_str(&text).ok().filter(|record: &UnitRecord| record.key == key && record.arm == arm)
    }

    /// Records a finished run.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, record: &UnitRecord) -> Result<(), FileError> {
        let Some(path) = self.path(&record.arm, record.run.seed, &record.key) else { return Ok(()) };
        let folder = path.parent().expect("a file in a folder");
        fs::create_dir_all(folder).map_err(FileError::io(folder))?;
        let json = serde_json::to_vec_pretty(record).expect("a record of finite numbers and strings");
        write_file_atomically(&path, &json)
    }

    /// Removes the records of these runs, and the folder if nothing else is in it.
    pub fn remove(&self, records: &[UnitRecord]) {
        for record in records {
            let Some(path) = self.path(&record.arm, record.run.seed, &record.key) else { return };
            let _stays_if_it_cannot_be_removed = fs::remove_file(path);
        }
        let Some(folder) = self.folder.as_deref() else { return };
        let Ok(left) = fs::read_dir(folder) else { return };
        // A killed study may have left a record half written.
        let partial = left.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(".partial-"));
        partial.for_each(|file| drop(fs::remove_file(file.path())));
        let _is_not_empty = fs::remove_dir(folder);
    }

    fn path(&self, arm: &str, seed: u64, key: &str) -> Option<PathBuf> {
        let words = arm.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let name = words.collect::<Vec<_>>().join("-").to_lowercase();
        Some(self.folder.as_deref()?.join(format!("{name}.seed-{seed}.{}.json", &key[..16.min(key.len())])))
    }

    /// The folder, if runs are kept.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn record(key: &str) -> UnitRecord {
        let study = fixture::study(3, 1);
        let arm = &study.arms[2];
        let run = arm.runs[0].clone();
        UnitRecord { key: key.to_owned(), arm: arm.name.clone(), run, train_peak_bytes: Some(9), expert_load: None }
    }

    #[test]
    fn a_finished_run_is_found_by_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let units = Units::in_folder(folder.path().join("units"));
        let saved = record("0123456789abcdef0123");
        assert_eq!(units.find(&saved.arm, 0, &saved.key), None);
        units.save(&saved).unwrap();
        assert_eq!(units.find(&saved.arm, 0, &saved.key), Some(saved.clone()));
        assert!(units.folder().unwrap().join("moe-8-top-2.seed-0.0123456789abcdef.json").exists());
        for other in ["0123456789abcdef9999", "fff3456789abcdef0123"] {
            assert_eq!(units.find(&saved.arm, 0, other), None, "{other}");
        }
        assert_eq!(units.find("DUS m=2", 0, &saved.key), None);
        units.remove(&[saved]);
        assert!(!units.folder().unwrap().exists());
    }

    #[test]
    fn a_file_that_is_no_record_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let units = Units::in_folder(folder.path());
        let saved = record("0123456789abcdef");
        units.save(&saved).unwrap();
        fs::write(folder.path().join("moe-8-top-2.seed-0.0123456789abcdef.json"), "{").unwrap();
        assert_eq!(units.find(&saved.arm, 0, &saved.key), None);
    }

    #[test]
    fn nothing_is_kept_without_a_folder() {
        let units = Units::discarded();
        units.save(&record("0123456789abcdef")).unwrap();
        assert_eq!(units.find("MoE 8×top-2", 0, "0123456789abcdef"), None);
    }
}
