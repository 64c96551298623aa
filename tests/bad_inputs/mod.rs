//! Tables of inputs that are wrong in one way each, or only look wrong, read in this process and by the program.
//!
//! For a refused row, the variant, the exit code and the whole message are tested; for an accepted one, the notices. The
//! messages are in `snapshots/`, one file per table: `INSTA_UPDATE=always cargo test bad_inputs` writes them.

mod checkpoint;
mod config;
mod index;
mod program;
mod safetensors;

use std::fs;
use std::path::Path;

use deepwide::error::ErrorKind;
use deepwide::formats::{HfDirectory, write_hf_directory};

pub use checkpoint::*;

/// One input.
pub struct Row {
    /// Name of the row: `A` safetensors, `B` index and directory, `D` config. A row may have several inputs.
    pub id: &'static str,
    /// The input, in words.
    pub input: &'static str,
    /// Makes the checkpoint at this path, whose parent is empty.
    pub make: fn(&Path),
    /// The expected outcome.
    pub outcome: Outcome,
}

/// The outcome of reading an input.
pub enum Outcome {
    /// Refused with this variant.
    Refused(&'static str),
    /// Read with this many notices, and the reason to accept it.
    Accepted(usize, &'static str),
}

const fn refused(id: &'static str, input: &'static str, make: fn(&Path), variant: &'static str) -> Row {
    Row { id, input, make, outcome: Outcome::Refused(variant) }
}

const fn accepted(id: &'static str, input: &'static str, make: fn(&Path), notices: usize, why: &'static str) -> Row {
    Row { id, input, make, outcome: Outcome::Accepted(notices, why) }
}

/// Every row of the tables.
pub fn rows() -> Vec<(&'static str, Vec<Row>)> {
    vec![("safetensors", safetensors::rows()), ("index", index::rows()), ("config", config::rows())]
}

/// `message` without the temporary directory.
pub fn without_place(message: &str, root: &Path) -> String {
    message.replace(&format!("{}/", root.display()), "")
}

/// The innermost variant of an error: of the fault in a file, or of the error itself.
pub fn variant_of(error: &impl std::fmt::Debug) -> String {
    let debug = format!("{error:?}");
    let fault = debug.split_once("fault: ").map_or(&*debug, |(_, fault)| fault);
    fault.trim_start_matches("File(").split([' ', '{', '(', ')']).next().unwrap().to_owned()
}

/// Reads a row: a line for the snapshot, or the unexpected outcome.
fn read_row(row: &Row) -> Result<String, String> {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    (row.make)(&directory);
    match (HfDirectory::open(&directory), &row.outcome) {
        (Err(error), Outcome::Refused(variant)) if variant_of(&error) == *variant => {
            let message = without_place(&error.to_string(), root.path());
            assert_eq!(message.lines().count(), 1, "{message:?}");
            Ok(format!("  {variant}, {:?}: {message}\n", error.kind()))
        }
        (Ok(read), Outcome::Accepted(notices, why)) if read.notices().len() == *notices => {
            let notices = read.notices().iter().map(|notice| without_place(&notice.to_string(), root.path()));
            let notes: String = notices.map(|notice| format!("  note: {notice}\n")).collect();
            Ok(format!("  read: {why}\n{notes}"))
        }
        (Err(error), _) => Err(format!("{}: {error}", variant_of(&error))),
        (Ok(read), _) => Err(format!("read, with {:?}", read.notices())),
    }
}

#[test]
fn every_row_is_refused_by_its_rule_or_read() {
    for (table, rows) in rows() {
        let (mut text, mut wrong) = (String::new(), String::new());
        for row in rows {
            match read_row(&row) {
                Ok(line) => text += &format!("{} {}\n{line}", row.id, row.input),
                Err(fault) => wrong += &format!("{} {}: {fault}\n", row.id, row.input),
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
        insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(table, text);
        });
    }
}

#[test]
fn every_row_of_the_tables_is_there() {
    let expected = |letter: char, count: usize| (1..=count).map(move |i| format!("{letter}{i}"));
    let elsewhere = ["A35", "A37", "A38", "A40", "B15", "B16", "B18"].map(String::from);
    let there: Vec<String> = rows().iter().flat_map(|(_, rows)| rows.iter().map(|row| row.id.to_owned())).collect();
    for id in expected('A', 40).chain(expected('B', 20)).chain(expected('D', 36)) {
        // The others have tests of their own, as they are not one input each.
        assert_eq!(there.contains(&id), !elsewhere.contains(&id), "{id}");
    }
}

#[test]
fn the_checkpoints_that_the_rows_break_are_sound() {
    for sound in [llama, mixtral, sharded, |path: &Path| one_tensor(path, r#""a":E"#, &[0; 8])] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("checkpoint");
        sound(&directory);
        match HfDirectory::open(&directory) {
            Ok(read) => assert!(read.notices().is_empty()),
            // A sound file without the weights of a decoder.
            Err(error) => assert_eq!(variant_of(&error), "MissingTensor", "{error}"),
        }
    }
}

#[test]
fn output_never_mixes_with_existing_files() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("checkpoint");
    llama(&out);
    let before = fs::read(out.join(WEIGHTS)).unwrap();
    let error = write_hf_directory(&small_llama(), None, None, &out).unwrap_err();
    assert_eq!((variant_of(&error).as_str(), error.kind()), ("Exists", ErrorKind::Invalid));
    assert_eq!(fs::read(out.join(WEIGHTS)).unwrap(), before);
    let error = write_hf_directory(&small_llama(), None, None, &root.path().join("no/where")).unwrap_err();
    assert_eq!((variant_of(&error).as_str(), error.kind()), ("NotFound", ErrorKind::NotFound));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}
