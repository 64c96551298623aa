//! The directory of a study: the runs finished so far, then its results.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::error::StudyError;
use super::figures::{RECORD, RECORD_LIMIT_BYTES, check_writable, write_figures};
use super::plan::StudyPlan;
use super::unit::Units;
use crate::config::DecoderConfig;
use crate::error::InFile;
use crate::figure::draw_study;
use crate::output::commit::{Existing, write_file_atomically};
use crate::output::disk::disk;
use crate::output::read::{exists, read_bounded};
use crate::report::{DataInfo, RecordError, Study, StudySettings, table, verdict};

/// The directory of a study. `results.json` is the record, `results.md` its table and verdict, beside them are the figures.
/// Until the study is complete, `units/` keeps its finished runs.
#[derive(Debug, Clone)]
pub struct StudyFolder {
    path: PathBuf,
    existing: Existing,
}

impl StudyFolder {
    /// A directory that may not exist yet. If `existing` is to be kept, the results of another study in it are not replaced.
    ///
    /// # Errors
    /// [`StudyError::NotWritable`], unless it has results to keep, which may be shown only.
    pub fn new(path: impl Into<PathBuf>, existing: Existing) -> Result<Self, StudyError> {
        let folder = Self { path: path.into(), existing };
        if existing != Existing::Keep || !folder.has_results() {
            folder.check_writable()?;
        }
        Ok(folder)
    }

    /// Checks that results can be written to it.
    pub(super) fn check_writable(&self) -> Result<(), StudyError> {
        check_writable(&self.path)
    }

    /// Whether it has the results of a study.
    pub fn has_results(&self) -> bool {
        self.path.join(RECORD).exists()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The finished runs.
    pub(super) fn units(&self) -> Units {
        Units::in_folder(self.path.join("units"), self.existing)
    }

    /// Number of finished runs that are kept for the study to go on.
    pub fn num_kept_runs(&self) -> usize {
        self.units().count()
    }

    /// The results in it, of whatever study.
    ///
    /// # Errors
    /// [`StudyError::NotAStudy`]; errors of reading.
    pub(super) fn results(&self) -> Result<Option<Study>, StudyError> {
        let (disk, record) = (disk(), self.path.join(RECORD));
        if !exists(&*disk, &record)? {
            return Ok(None);
        }
        let text = read_bounded(&*disk, &record, RECORD_LIMIT_BYTES)?;
        match serde_json::from_slice(&text) {
            Ok(found) => Ok(Some(found)),
            Err(error) => Err(StudyError::NotAStudy(InFile::new(record, RecordError::Malformed(error)))),
        }
    }

    /// The results of the same study in it, unless they are to be replaced. `study` has no results yet.
    ///
    /// # Errors
    /// [`StudyError::OtherStudy`], [`StudyError::NotAStudy`]; errors of reading.
    pub(super) fn results_of(&self, study: &Study, plan: &StudyPlan) -> Result<Option<Study>, StudyError> {
        let Some(found) = self.results()?.filter(|_| self.existing == Existing::Keep) else { return Ok(None) };
        match difference(&found, study, plan) {
            Some(difference) => Err(StudyError::OtherStudy { path: self.path.clone(), difference }),
            None => Ok(Some(found)),
        }
    }

    /// Draws every figure, then writes the files, the record last, and removes the runs.
    ///
    /// # Errors
    /// [`StudyError::Record`], [`StudyError::Figure`], [`StudyError::File`].
    pub fn write(&self, study: &Study) -> Result<(), StudyError> {
        let (json, figures) = (study.to_json()?, draw_study(study)?);
        write_figures(&figures, &self.path)?;
        let write = |name: &str, bytes: &[u8]| write_file_atomically(&self.path.join(name), bytes);
        write("results.md", format!("{}\n{}\n", table::to_markdown(study), verdict(study)).as_bytes())?;
        write(RECORD, json.as_bytes())?;
        self.units().remove();
        Ok(())
    }
}

/// The first field of the record that differs, with both values: `settings.learning_rate is 0.002, expected 0.001`.
fn difference(found: &Study, study: &Study, plan: &StudyPlan) -> Option<String> {
    // Older records have no micro batch size and no hash of the data.
    let micro_batch_size = found.settings.micro_batch_size.and(study.settings.micro_batch_size);
    let settings = StudySettings { micro_batch_size, ..study.settings.clone() };
    let blake3 = found.data.blake3.as_ref().and(study.data.blake3.clone());
    let expected = Study { data: DataInfo { blake3, ..study.data.clone() }, settings, ..study.clone() };
    let arms = found.arms.iter().map(|arm| (arm.name.as_str(), &arm.config)).collect();
    let planned = plan.arms.iter().map(|arm| (arm.name.as_str(), &arm.config)).collect();
    first_difference("", &identity(found, arms), &identity(&expected, planned))
}

/// The fields of a record by which a study is known, with the name and the config of its arms.
fn identity(study: &Study, arms: Vec<(&str, &DecoderConfig)>) -> Value {
    // The words of the rule follow from the arms.
    let settings = StudySettings { match_rule: String::new(), ..study.settings.clone() };
    let names: Vec<&str> = arms.iter().map(|(name, _)| *name).collect();
    let configs: Map<String, Value> = arms.into_iter().map(|(name, config)| (name.to_owned(), json!(config))).collect();
    json!({
        "base": {"sha256": study.base.sha256},
        "data": study.data,
        "settings": settings,
        "arms": names,
        "config": configs,
        "run": {"device": study.run.device, "dtype": study.run.dtype},
    })
}

/// The first field within `path` that differs, in the order of `expected`. A list is one field.
fn first_difference(path: &str, found: &Value, expected: &Value) -> Option<String> {
    if let (Value::Object(found), Value::Object(expected)) = (found, expected) {
        let dot = if path.is_empty() { "" } else { "." };
        return expected.iter().find_map(|(key, value)| {
            first_difference(&format!("{path}{dot}{key}"), found.get(key).unwrap_or(&Value::Null), value)
        });
    }
    (found != expected).then(|| format!("{path} is {found}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::ErrorKind;
    use crate::report::fixture;
    use crate::study::plan::tests::options;

    /// A plan, and a study that ran it.
    fn complete() -> (StudyPlan, Study) {
        let plan = StudyPlan::new(&DecoderConfig::pico(), &options()).unwrap();
        let mut study = fixture::study(3, 1);
        for (arm, spec) in study.arms.iter_mut().zip(&plan.arms) {
            (arm.name, arm.config) = (spec.name.clone(), spec.config.clone());
        }
        (plan, study)
    }

    #[test]
    fn only_the_same_study_is_replaced_without_being_asked() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let folder = |existing| StudyFolder::new(&out, existing).unwrap();
        let (plan, study) = complete();
        assert_eq!(folder(Existing::Keep).results_of(&study, &plan).unwrap(), None);
        folder(Existing::Keep).write(&study).unwrap();
        let mut again = study.clone();
        again.arms.clear();
        again.run.date = "2027-01-01T00:00:00Z".into();
        again.settings.match_rule = "other words".into();
        assert_eq!(folder(Existing::Keep).results_of(&again, &plan).unwrap().as_ref(), Some(&study));
        type Change = fn(&mut Study, &mut StudyPlan);
        let changes: [(&str, Change); 9] = [
            ("base.sha256 is null, expected \"0\"", |study, _| study.base.sha256 = Some("0".into())),
            ("data.name is \"built-in language\", expected \"a.txt\"", |study, _| study.data.name = "a.txt".into()),
            ("data.blake3 is \"af1349b9\", expected \"0\"", |study, _| study.data.blake3 = Some("0".into())),
            ("data.heldout_tokens is 65536, expected 65537", |study, _| study.data.heldout_tokens += 1),
            ("settings.learning_rate is 0.001, expected 0.002", |study, _| study.settings.learning_rate *= 2.0),
            ("settings.micro_batch_size is 8, expected 1", |study, _| study.settings.micro_batch_size = Some(1)),
            ("settings.seeds is [0], expected [0,1]", |study, _| study.settings.seeds.push(1)),
            ("config.dense control.num_hidden_layers is 8, expected 9", |_, plan| {
                plan.arms[0].config = plan.arms[0].config.with(|fields| fields.num_hidden_layers = 9).unwrap();
            }),
            ("run.dtype is \"f32\", expected \"bf16\"", |study, _| study.run.dtype = "bf16".into()),
        ];
        let refused = |study: &Study, plan: &StudyPlan| match folder(Existing::Keep).results_of(study, plan) {
            Err(error @ StudyError::OtherStudy { .. }) if error.kind() == ErrorKind::Invalid => error.to_string(),
            other => panic!("{other:?}"),
        };
        for (expected, change) in changes {
            let (mut study, mut plan) = (again.clone(), plan.clone());
            change(&mut study, &mut plan);
            assert_eq!(refused(&study, &plan), format!("{out:?} holds another study: {expected}"));
            assert_eq!(folder(Existing::Replace).results_of(&study, &plan).unwrap(), None);
        }
        let mut fewer = plan.clone();
        fewer.arms.truncate(1);
        assert!(refused(&again, &fewer).ends_with(", expected [\"dense control\"]"), "{}", refused(&again, &fewer));
    }

    #[test]
    fn a_record_without_a_hash_of_the_data_and_a_micro_batch_size_is_compared_by_the_rest() {
        let (plan, study) = complete();
        let mut old = study.clone();
        (old.data.blake3, old.settings.micro_batch_size) = (None, None);
        assert_eq!(difference(&old, &study, &plan), None);
        old.data.train_tokens += 1;
        assert!(difference(&old, &study, &plan).unwrap().starts_with("data.train_tokens is "));
    }

    #[test]
    fn a_file_that_is_no_study_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let (plan, study) = complete();
        for (existing, text) in [(Existing::Keep, "{}"), (Existing::Replace, "{}"), (Existing::Replace, "null")] {
            fs::write(root.path().join(RECORD), text).unwrap();
            let error = StudyFolder::new(root.path(), existing).unwrap().results_of(&study, &plan).unwrap_err();
            assert!(matches!(&error, StudyError::NotAStudy(fault) if fault.path.ends_with(RECORD)), "{error}");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
