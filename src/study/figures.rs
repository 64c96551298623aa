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

/// Largest number of a record that is drawn, and its reciprocal the smallest of a profile but 0: the logarithmic scales of its
/// figures hold ratios of its numbers.
const MOST: f64 = 1e30;

/// Checks that files can be written to a folder, which may not exist yet.
pub(super) fn check_writable(folder: &Path) -> Result<(), StudyError> {
    let present = folder.ancestors().find(|part| part.exists()).unwrap_or(Path::new("."));
    let not_writable = |_| StudyError::NotWritable { existing: present.to_owned(), path: folder.to_owned() };
    tempfile::tempfile_in(present).map(drop).map_err(not_writable)
}

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
    let parent = record.parent().filter(|parent| *parent != Path::new(""));
    let out = out.or(parent).unwrap_or(Path::new("."));
    let text = read_bounded(&*disk(), &record, RECORD_LIMIT_BYTES)?;
    let figures = match parsed(&text).map_err(|error| StudyError::NotAStudy(InFile::new(record.clone(), error)))? {
        Record::Comparison(study) => draw_study(&study)?,
        Record::Profile(study) => draw_profile(&study)?,
    };
    if figures.is_empty() {
        return Err(StudyError::NotAStudy(InFile::new(record.clone(), RecordError::OtherRecord)));
    }
    check_writable(out)?;
    write_figures(&figures, out)
}

enum Record {
    Comparison(Box<Study>),
    Profile(Box<ProfileStudy>),
}

fn parsed(text: &[u8]) -> Result<Record, RecordError> {
    let value: Value = serde_json::from_slice(text)?;
    let is_profile = value.get("models").is_some();
    let least = if is_profile { MOST.recip() } else { 0.0 };
    if let Some(value) = out_of_range(&value, least) {
        return Err(RecordError::OutOfRange { value });
    }
    if value.get("arms").is_some() {
        let study: Study = serde_json::from_value(value)?;
        study.check()?;
        return Ok(Record::Comparison(Box::new(study)));
    }
    if is_profile {
        let study: ProfileStudy = serde_json::from_value(value)?;
        let peaks = [study.peak_flops_per_s, study.peak_bytes_per_s];
        if let Some(value) = peaks.into_iter().find(|peak| *peak <= 0.0) {
            return Err(RecordError::OutOfRange { value });
        }
        return Ok(Record::Profile(Box::new(study)));
    }
    Err(RecordError::OtherRecord)
}

/// A number that no measurement gives and no scale can show: neither 0 nor of a magnitude from `least` to [`MOST`].
fn out_of_range(value: &Value, least: f64) -> Option<f64> {
    let is_shown = |number: f64| number == 0.0 || (least..=MOST).contains(&number.abs());
    match value {
        Value::Number(number) => number.as_f64().filter(|number| !is_shown(*number)),
        Value::Array(values) => values.iter().find_map(|value| out_of_range(value, least)),
        Value::Object(fields) => fields.values().find_map(|value| out_of_range(value, least)),
        _ => None,
    }
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
    fn the_committed_figures_are_those_of_their_records() {
        let figures = Path::new(env!("CARGO_MANIFEST_DIR")).join("figures");
        if !figures.exists() {
            // A package has no figures.
            return;
        }
        let out = tempfile::tempdir().unwrap();
        for (folder, num_files) in [("profile", 8), ("compare_dus_moe", 12)] {
            let files = redraw(&figures.join(folder), Some(out.path())).unwrap();
            assert_eq!(files.len(), num_files, "{folder}");
            for file in files {
                let committed = figures.join(folder).join(file.file_name().unwrap());
                assert!(fs::read(&committed).unwrap() == fs::read(&file).unwrap(), "{committed:?}");
            }
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("figures/profile").join(RECORD);
        let Ok(text) = fs::read_to_string(&record) else { return };
        let profile: Value = serde_json::from_str(&text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let damaged = folder.path().join("damaged.json");
        for (key, value) in [
            ("models", serde_json::json!([])),
            ("peak_bytes_per_s", serde_json::json!(1e308)),
            ("peak_bytes_per_s", serde_json::json!(1e-308)),
            ("peak_bytes_per_s", serde_json::json!(0.0)),
        ] {
            let mut profile = profile.clone();
            profile[key] = value;
            fs::write(&damaged, profile.to_string()).unwrap();
            let error = redraw(&damaged, None).unwrap_err();
            assert!(
                error.to_string().contains("damaged.json") && error.kind() == crate::error::ErrorKind::Invalid,
                "{error}"
            );
        }
    }

    #[test]
    fn other_files_are_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("other.json");
        for (text, expected) in [
            ("{}", "expected a record"),
            ("{\"arms\": 1}", "not a record of a study"),
            ("{", "not a record of a study"),
        ] {
            fs::write(&record, text).unwrap();
            let message = redraw(&record, None).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("other.json"), "{message}");
        }
        fs::write(&record, fixture::study(1, 1).to_json().unwrap()).unwrap();
        let message = redraw(&record, Some(&record)).unwrap_err().to_string();
        assert!(message.contains("is not a directory that can be written to"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = redraw(&folder.path().join("none.json"), None).unwrap_err();
        assert_eq!(missing.kind(), crate::error::ErrorKind::NotFound);
    }
}
