//! The rows run through the program: `deepwide inspect` and `deepwide grow` end in time, with the exit code and message of
//! the row, in bounded memory, and change no file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use deepwide::error::ErrorKind;
use deepwide::formats::HfDirectory;

use super::*;
use crate::grow::{printed, run};

/// Limit on the memory of a row beyond that of a sound checkpoint.
const MOST_MIB: u64 = 64;
/// The same for headers and indexes of the largest accepted size.
const LARGE_MIB: u64 = 512;
const LONGEST: Duration = Duration::from_secs(2);
const HANGING: Duration = Duration::from_secs(20);

/// Runs the program under limits on memory and open files. It is killed if it hangs.
fn deepwide(arguments: &[&str], memory_mib: u64, open_files: u32) -> Output {
    let limits = format!("ulimit -d {} && ulimit -n {open_files} && exec \"$0\" \"$@\"", memory_mib << 10);
    let mut command = Command::new("sh");
    // Out of memory, a backtrace deadlocks.
    command.args(["-c", &limits, env!("CARGO_BIN_EXE_deepwide")]).args(arguments).env_remove("RUST_BACKTRACE");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > HANGING {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

fn inspect(path: &Path, memory_mib: u64, open_files: u32) -> Output {
    deepwide(&["inspect", path.to_str().unwrap()], memory_mib, open_files)
}

/// Memory for a sound checkpoint, in steps of 2 MiB.
fn idle_mib() -> u64 {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    llama(&directory);
    let enough = |mib: &u64| inspect(&directory, *mib, 64).status.success();
    assert!(!enough(&0), "the limit is not held");
    (2..64).step_by(2).find(enough).expect("64 MiB are enough for a sound checkpoint")
}

/// Path, size and modification time of all files, without following links.
fn tree(root: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        found.push((entry.path(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        if metadata.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn the_program_refuses_what_the_rows_refuse_within_bounds_and_writes_nothing() {
    let idle = idle_mib();
    for Row { id, input, make, .. } in rows().into_iter().flat_map(|(_, rows)| rows) {
        let root = tempfile::tempdir().unwrap();
        let (directory, out) = (root.path().join("checkpoint"), root.path().join("out"));
        make(&directory);
        let (before, large) = (tree(root.path()), input.contains("1,000,001"));
        let refusal = HfDirectory::open(&directory).err();
        let [directory, out] = [&directory, &out].map(|path| path.to_str().unwrap());
        for arguments in [&["inspect", directory][..], &["grow", "--dus", "1", directory, out]] {
            let start = Instant::now();
            let output = deepwide(arguments, idle + if large { LARGE_MIB } else { MOST_MIB }, 64);
            let took = start.elapsed();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let row = format!("{id} {input}, {}: {said:?}", arguments[0]);
            match &refusal {
                // The program takes GGUF too, and this is none.
                _ if input == "GGUF only" => assert_eq!(output.status.code(), Some(3), "{row}"),
                Some(error) => {
                    let code = match error.kind() {
                        ErrorKind::NotFound => 4,
                        ErrorKind::Invalid => 3,
                        ErrorKind::Io => 1,
                    };
                    assert_eq!(output.status.code(), Some(code), "{row}");
                    assert!(said.contains(&error.to_string()), "{row}, expected {error}");
                    assert!(output.stdout.is_empty(), "{row}");
                }
                // What else `grow` makes of what can be read has tests of its own.
                None if arguments[0] == "grow" => continue,
                None => assert_eq!(output.status.code(), Some(0), "{row}"),
            }
            assert!(!said.contains('\u{1b}') && !said.contains('\u{202e}'), "{row}");
            assert!(large || took < LONGEST, "{row}: {took:?}");
            assert_eq!(tree(root.path()), before, "{row}");
        }
    }
}

/// B14.
#[test]
fn the_path_of_a_file_chooses_between_two_formats_in_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    llama(&directory);
    let gguf = directory.join("model-q4.gguf");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/dense.gguf"), &gguf).unwrap();
    let refused = run(&["inspect", directory.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("model-q4.gguf") && said.contains("config.json"), "{said}");
    assert_eq!(refused.status.code(), Some(3));
    for name in [CONFIG, WEIGHTS] {
        let path = directory.join(name);
        let printed = printed(&["inspect", path.to_str().unwrap()]);
        assert!(printed.starts_with("format") && printed.contains("Hugging Face directory, 1 file"), "{printed}");
        assert!(printed.contains("note:") && printed.contains("model-q4.gguf"), "{printed}");
        assert_eq!(HfDirectory::open(&path).unwrap().path(), directory);
    }
    assert!(printed(&["inspect", gguf.to_str().unwrap()]).contains("GGUF version 3"));
    let stranger = directory.join("README.md");
    fs::write(&stranger, "").unwrap();
    assert_eq!(run(&["inspect", stranger.to_str().unwrap()]).status.code(), Some(3), "any other file names nothing");
    fs::remove_file(gguf).unwrap();
    assert!(!printed(&["inspect", directory.to_str().unwrap()]).contains("note:"));
}

#[test]
fn a_file_name_without_a_directory_means_the_current_one() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    sharded(&directory);
    let there = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_deepwide")).args(arguments).current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for name in [CONFIG, INDEX, "./config.json", "."] {
        there(&["inspect", name]);
    }
    there(&["grow", "--dus", "1", CONFIG, "../grown"]);
    there(&["bench", "-p", "2", "-n", "0", "-r", "1", INDEX]);
}

/// B15.
#[test]
fn a_checkpoint_of_more_files_than_may_be_open_is_read() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoint");
    index::five_thousand_shards(&directory);
    let output = inspect(&directory, 1024, 16);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!inspect(&directory, 1024, 3).status.success(), "the limit is not held");
}

/// B16.
#[test]
fn a_file_that_differs_from_its_receipt_is_found() {
    let root = tempfile::tempdir().unwrap();
    let [base, grown] = ["checkpoint", "grown"].map(|name| root.path().join(name));
    llama(&base);
    let (from, to) = (base.to_str().unwrap(), grown.to_str().unwrap());
    printed(&["grow", from, to, "--dus", "1"]);
    printed(&["verify", to]);
    let path = grown.join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
    let output = run(&["verify", to]);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("blake3"));
}
