//! The figures of a record, as files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::StudyError;
use crate::error::{FileError, InFile};
use crate::figure::{Figure, draw_profile, draw_study};
use crate::output::commit::write_file_atomically;
use crate::output::disk::disk;
use crate::output::read::read_bounded;
use crate::report::{ProfileStudy, RecordError, Study};

/// Name of the record of a comparison or a profile.
pub(super) const RECORD: &str = "results.json";
pub(super) const RECORD_LIMIT_BYTES: u64 = 1 << 30;

/// Writes figures to a folder, each as SVG and PNG, and replaces those of the same name. Returns the files.
pub(super) fn write_figures(figures: &[Figure], folder: &Path) -> Result<Vec<PathBuf>, StudyError> {
    fs::create_dir_all(folder).map_err(FileError::io(folder))?;
    let files = figures
        .iter()
        .flat_map(|figure| [("svg", figure.svg.as_bytes()), ("png", &figure.png)].map(|file| (figure.name, file)));
    let write = |(name, (ending, bytes)): (&str, (&str, &[u8]))| {
        let path = folder.join(format!("{name}.{ending}"));
        write_file_atomically(&path, bytes)?;
        Ok(path)
    };
    files.map(write).collect()
}

/// Draws the figures of a record again, `results.json` of a comparison or of a profile, and writes them to `out`, by default to
/// the folder of the record. Returns the files. `record` may also be the folder.
///
/// # Errors
/// [`StudyError`], if the record cannot be read, is another file or breaks a rule of [`Study::check`], or if a figure cannot be
/// drawn or written.
pub fn redraw(record: &Path, out: Option<&Path>) -> Result<Vec<PathBuf>, StudyError> {
    let record = if record.is_dir() { record.join(RECORD) } else { record.to_owned() };
    let text = read_bounded(&*disk(), &record, RECORD_LIMIT_BYTES)?;
    let figures = match parsed(&text).map_err(|error| StudyError::NotAStudy(InFile::new(record.clone(), error)))? {
        Record::Comparison(study) => draw_study(&study)?,
        Record::Profile(study) => draw_profile(&study)?,
    };
    write_figures(&figures, out.or(record.parent()).unwrap_or(Path::new(".")))
}

enum Record {
    Comparison(Box<Study>),
    Profile(Box<ProfileStudy>),
}

fn parsed(text: &[u8]) -> Result<Record, RecordError> {
    let value: Value = serde_json::from_slice(text)?;
    if value.get("arms").is_some() {
        let study: Study = serde_json::from_value(value)?;
        study.check()?;
        return Ok(Record::Comparison(Box::new(study)));
    }
    if value.get("models").is_some() {
        return Ok(Record::Profile(Box::new(serde_json::from_value(value)?)));
    }
    Err(RecordError::OtherRecord)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn a_record_is_drawn_as_its_study_was() {
        let study = fixture::study(3, 2);
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let record = folder.path().join(RECORD);
        fs::write(&record, study.to_json().unwrap()).unwrap();
        let expected = draw_study(&study).unwrap();
        for (given, out, found) in [(&*record, None, folder.path()), (folder.path(), Some(other.path()), other.path())]
        {
            let files = redraw(given, out).unwrap();
            assert_eq!(files.len(), 2 * expected.len());
            for figure in &expected {
                assert!(
                    fs::read(found.join(figure.name).with_extension("png")).unwrap() == figure.png,
                    "{}",
                    figure.name
                );
                assert!(files.contains(&found.join(figure.name).with_extension("svg")), "{files:?}");
            }
        }
    }

    #[test]
    fn a_committed_profile_is_drawn() {
        let out = tempfile::tempdir().unwrap();
        let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("figures/profile");
        if record.exists() {
            assert_eq!(redraw(&record, Some(out.path())).unwrap().len(), 8);
        }
    }

    #[test]
    fn other_files_are_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("other.json");
        for (text, expected) in [("{}", "expected a record"), ("{\"arms\": 1}", "not a study"), ("{", "not a study")] {
            fs::write(&record, text).unwrap();
            let message = redraw(&record, None).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("other.json"), "{message}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = redraw(&folder.path().join("none.json"), None).unwrap_err();
        assert_eq!(missing.kind(), crate::error::ErrorKind::NotFound);
    }
}
