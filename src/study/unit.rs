//! Records of finished runs, each an arm with a seed, so that an interrupted study goes on with the next run.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StudyError;
use crate::error::FileError;
use crate::output::commit::{Existing, write_file_atomically};
use crate::output::disk::disk;
use crate::output::read::read_bounded;
use crate::report::{ExpertLoad, SeedRun, Study};

/// Limit on the size of a record.
const LIMIT_BYTES: u64 = 1 << 30;

/// The result of one run, before the arm is timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Hash of everything that the result depends on.
    pub key: String,
    /// Name of the arm.
    pub arm: String,
    /// Training curve and losses.
    pub run: SeedRun,
    /// Peak memory of the run; `None` if not measured.
    pub train_peak_bytes: Option<u64>,
    /// Expert load per topic at the end; `None` for a dense model.
    pub expert_load: Option<ExpertLoad>,
}

impl UnitRecord {
    /// The run that the record is of.
    pub fn id(&self) -> UnitId {
        UnitId { arm: self.arm.clone(), seed: self.run.seed, key: self.key.clone() }
    }
}

/// Which run a record is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitId {
    /// Name of the arm.
    pub arm: String,
    /// Seed of the run.
    pub seed: u64,
    /// Hash of everything that the result depends on.
    pub key: String,
}

impl UnitId {
    fn file_name(&self) -> String {
        let words = self.arm.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let name = words.collect::<Vec<_>>().join("-").to_lowercase();
        format!("{name}.seed-{}.{}.json", self.seed, &self.key[..16.min(self.key.len())])
    }
}

/// The finished runs of a study that is not complete, a JSON file each.
///
/// A record is reused only by the run with the same key, so changed settings, data or code never reuse a stale one.
#[derive(Debug, Clone)]
pub struct Units {
    folder: PathBuf,
    existing: Existing,
}

impl Units {
    /// Keeps runs in this folder, which is made when the first one finishes. `existing` decides what happens to runs of
    /// another study in it.
    pub fn in_folder(folder: impl Into<PathBuf>, existing: Existing) -> Self {
        Self { folder: folder.into(), existing }
    }

    /// Takes the folder for these runs: records of others are refused if they are to be kept, else removed.
    ///
    /// # Errors
    /// [`StudyError::OtherRuns`]; [`StudyError::File`].
    pub fn claim<'i>(&self, ids: impl Iterator<Item = &'i UnitId>) -> Result<(), StudyError> {
        let own: HashSet<String> = ids.map(UnitId::file_name).collect();
        for name in self.records().filter(|name| !own.contains(name)) {
            if self.existing == Existing::Keep {
                let path = self.folder.parent().unwrap_or(&self.folder).to_owned();
                return Err(StudyError::OtherRuns { path, run: name });
            }
            let record = self.folder.join(&name);
            fs::remove_file(&record).map_err(FileError::io(&record))?;
        }
        Ok(())
    }

    /// The finished run, if there is one.
    pub fn find(&self, id: &UnitId) -> Option<UnitRecord> {
        self.read(&self.folder.join(id.file_name())).filter(|record| record.id() == *id)
    }

    /// Records a finished run.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, record: &UnitRecord) -> Result<(), FileError> {
        fs::create_dir_all(&self.folder).map_err(FileError::io(&self.folder))?;
        let json = serde_json::to_vec_pretty(record).expect("a record of finite numbers and strings");
        write_file_atomically(&self.folder.join(record.id().file_name()), &json)
    }

    /// Number of runs that are recorded.
    pub fn count(&self) -> usize {
        self.records().count()
    }

    /// Removes the runs that the results of a study have. If it was stopped between writing those and removing its runs, they
    /// would pass for runs that are still to be used.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove_recorded(&self, study: &Study) -> Result<(), FileError> {
        let is_recorded =
            |unit: UnitRecord| study.arms.iter().any(|arm| arm.name == unit.arm && arm.runs.contains(&unit.run));
        for path in self.records().map(|name| self.folder.join(name)) {
            if self.read(&path).is_some_and(is_recorded) {
                fs::remove_file(&path).map_err(FileError::io(&path))?;
            }
        }
        let _is_not_empty = fs::remove_dir(&self.folder);
        Ok(())
    }

    /// Removes all records, and the folder if nothing else is in it.
    pub fn remove(&self) {
        // A killed study may have left a record half written.
        let partial = self.names().into_iter().filter(|name| name.starts_with(".partial-"));
        self.records().chain(partial).for_each(|name| drop(fs::remove_file(self.folder.join(name))));
        let _is_not_empty = fs::remove_dir(&self.folder);
    }

    /// The names of the files that are records of runs.
    fn records(&self) -> impl Iterator<Item = String> {
        let is_record = |name: &String| name.ends_with(".json") && self.read(&self.folder.join(name)).is_some();
        self.names().into_iter().filter(is_record)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn read(&self, path: &Path) -> Option<UnitRecord> {
        serde_json::from_slice(&read_bounded(&*disk(), path, LIMIT_BYTES).ok()?).ok()
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

    fn with_key(key: &str) -> UnitId {
        UnitId { key: key.to_owned(), ..record("").id() }
    }

    #[test]
    fn a_finished_run_is_found_by_its_arm_and_key() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("units");
        let units = Units::in_folder(&folder, Existing::Keep);
        let saved = record("0123456789abcdef0123");
        assert_eq!(units.find(&saved.id()), None);
        units.save(&saved).unwrap();
        assert_eq!(units.find(&saved.id()), Some(saved.clone()));
        assert!(folder.join("moe-8-top-2.seed-0.0123456789abcdef.json").exists());
        for other in ["0123456789abcdef9999", "fff3456789abcdef0123"] {
            assert_eq!(units.find(&with_key(other)), None, "{other}");
        }
        assert_eq!(units.find(&UnitId { arm: "DUS m=2".to_owned(), ..saved.id() }), None);
        assert_eq!(units.count(), 1);
        units.remove();
        assert!(!folder.exists());
    }

    #[test]
    fn a_damaged_record_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let units = Units::in_folder(folder.path(), Existing::Keep);
        let saved = record("0123456789abcdef");
        units.save(&saved).unwrap();
        fs::write(folder.path().join(saved.id().file_name()), "{").unwrap();
        assert_eq!(units.find(&saved.id()), None);
    }

    #[test]
    fn only_runs_that_the_results_have_are_left_over() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("units");
        let units = Units::in_folder(&folder, Existing::Replace);
        let (study, recorded, mut again) =
            (fixture::study(3, 1), record("0123456789abcdef"), record("fedcba9876543210"));
        again.run.wall_s += 1.0;
        units.save(&recorded).unwrap();
        units.save(&again).unwrap();
        units.remove_recorded(&study).unwrap();
        assert_eq!((units.find(&recorded.id()), units.find(&again.id())), (None, Some(again.clone())));
        units.remove();
        units.save(&recorded).unwrap();
        units.remove_recorded(&study).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn runs_of_another_study_are_kept_until_they_may_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [keeping, replacing] =
            [Existing::Keep, Existing::Replace].map(|existing| Units::in_folder(folder.path(), existing));
        let (other, own) = (record("0123456789abcdef"), record("fedcba9876543210"));
        keeping.save(&other).unwrap();
        keeping.save(&own).unwrap();
        fs::write(folder.path().join("mine.json"), "{}").unwrap();
        keeping.claim([&other.id(), &own.id()].into_iter()).unwrap();
        let error = keeping.claim([&own.id()].into_iter()).unwrap_err();
        assert!(matches!(&error, StudyError::OtherRuns { run, .. } if *run == other.id().file_name()), "{error}");
        assert_eq!(keeping.find(&other.id()), Some(other.clone()));
        replacing.claim([&own.id()].into_iter()).unwrap();
        assert_eq!((replacing.find(&other.id()), replacing.find(&own.id())), (None, Some(own)));
        assert!(folder.path().join("mine.json").exists(), "no record of a run");
    }
}
