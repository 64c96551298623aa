//! The directory of a study: the runs finished so far, then its results.

use std::path::{Path, PathBuf};

use super::error::StudyError;
use super::figures::{RECORD, RECORD_LIMIT_BYTES, check_writable, write_figures};
use super::plan::StudyPlan;
use super::unit::Units;
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
    /// A directory that may not exist yet. The results of the same study in it are always replaced, those of another study
    /// unless `existing` is to be kept.
    ///
    /// # Errors
    /// [`StudyError::NotWritable`].
    pub fn new(path: impl Into<PathBuf>, existing: Existing) -> Result<Self, StudyError> {
        let path = path.into();
        check_writable(&path)?;
        Ok(Self { path, existing })
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

    /// Refuses the results of another study. `study` has no results yet.
    pub(super) fn check(&self, study: &Study, plan: &StudyPlan) -> Result<(), StudyError> {
        let (disk, record) = (disk(), self.path.join(RECORD));
        if !exists(&*disk, &record)? {
            return Ok(());
        }
        let text = read_bounded(&*disk, &record, RECORD_LIMIT_BYTES)?;
        let found: Study = serde_json::from_slice(&text)
            .map_err(|error| StudyError::NotAStudy(InFile::new(record, RecordError::Malformed(error))))?;
        let path = || self.path.clone();
        let refused = |difference| Err(StudyError::OtherStudy { path: path(), difference });
        let other = difference(&found, study, plan).filter(|_| self.existing == Existing::Keep);
        other.map_or(Ok(()), refused)
    }

    /// Draws every figure, then writes the files, the record last.
    pub(super) fn write(&self, study: &Study) -> Result<(), StudyError> {
        let (json, figures) = (study.to_json()?, draw_study(study)?);
        write_figures(&figures, &self.path)?;
        let write = |name: &str, bytes: &[u8]| write_file_atomically(&self.path.join(name), bytes);
        write("results.md", format!("{}\n{}\n", table::to_markdown(study), verdict(study)).as_bytes())?;
        Ok(write(RECORD, json.as_bytes())?)
    }
}

/// How the study that was found differs from the one to run.
fn difference(found: &Study, study: &Study, plan: &StudyPlan) -> Option<&'static str> {
    // Older records have no micro batch size and no hash of the data.
    let micro_batch_size = found.settings.micro_batch_size.and(study.settings.micro_batch_size);
    // The words of the rule follow from the arms.
    let without_words = |settings: &StudySettings| StudySettings { match_rule: String::new(), ..settings.clone() };
    let settings = StudySettings { micro_batch_size, ..without_words(&study.settings) };
    let blake3 = found.data.blake3.as_ref().and(study.data.blake3.clone());
    let arms = found.arms.iter().map(|arm| (&arm.name, &arm.config));
    let differences = [
        ("weights of the base", found.base.sha256 != study.base.sha256),
        ("data", found.data != DataInfo { blake3, ..study.data.clone() }),
        ("settings", without_words(&found.settings) != settings),
        ("arms", !arms.eq(plan.arms.iter().map(|arm| (&arm.name, &arm.config)))),
        (
            "device or type of the weights",
            (&found.run.device, &found.run.dtype) != (&study.run.device, &study.run.dtype),
        ),
    ];
    differences.into_iter().find_map(|(part, differs)| differs.then_some(part))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::DecoderConfig;
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
        folder(Existing::Keep).check(&study, &plan).unwrap();
        folder(Existing::Keep).write(&study).unwrap();
        let mut again = study.clone();
        again.arms.clear();
        again.run.date = "2027-01-01T00:00:00Z".into();
        again.settings.match_rule = "other words".into();
        folder(Existing::Keep).check(&again, &plan).unwrap();
        type Change = fn(&mut Study, &mut StudyPlan);
        let changes: [(&str, Change); 7] = [
            ("weights of the base", |study, _| study.base.sha256 = Some("0".into())),
            ("data", |study, _| study.data.blake3 = Some("0".into())),
            ("data", |study, _| study.data.heldout_tokens += 1),
            ("settings", |study, _| study.settings.learning_rate *= 2.0),
            ("settings", |study, _| study.settings.micro_batch_size = Some(1)),
            ("arms", |_, plan| plan.arms.truncate(2)),
            ("device or type of the weights", |study, _| study.run.dtype = "bf16".into()),
        ];
        for (expected, change) in changes {
            let (mut study, mut plan) = (again.clone(), plan.clone());
            change(&mut study, &mut plan);
            let error = folder(Existing::Keep).check(&study, &plan).unwrap_err();
            let StudyError::OtherStudy { difference, .. } = &error else { panic!("{error}") };
            assert_eq!((*difference, error.kind()), (expected, ErrorKind::Invalid));
            folder(Existing::Replace).check(&study, &plan).unwrap();
        }
    }

    #[test]
    fn a_record_without_a_hash_of_the_data_and_a_micro_batch_size_is_compared_by_the_rest() {
        let (plan, study) = complete();
        let mut old = study.clone();
        (old.data.blake3, old.settings.micro_batch_size) = (None, None);
        assert_eq!(difference(&old, &study, &plan), None);
        old.data.train_tokens += 1;
        assert_eq!(difference(&old, &study, &plan), Some("data"));
    }

    #[test]
    fn a_file_that_is_no_study_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let (plan, study) = complete();
        fs::write(root.path().join(RECORD), "{}").unwrap();
        for existing in [Existing::Keep, Existing::Replace] {
            let error = StudyFolder::new(root.path(), existing).unwrap().check(&study, &plan).unwrap_err();
            assert!(matches!(&error, StudyError::NotAStudy(fault) if fault.path.ends_with(RECORD)), "{error}");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
