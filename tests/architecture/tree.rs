//! The files of the repository, and the modules that they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::graph::Module;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All Rust files below a folder of the repository, sorted.
pub fn sources(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The path of a source file as modules: `src/weights/hf.rs` is `["weights", "hf"]`, `src/weights/mod.rs` `["weights"]`.
pub fn home(file: &Path) -> Module {
    let below = file.strip_prefix(root().join("src")).expect("a file of src/").with_extension("");
    let mut home: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    home.retain(|part| part != "mod");
    home
}

pub fn module_of(file: &Path) -> String {
    home(file).swap_remove(0)
}

pub fn files_of(module: &str) -> Vec<PathBuf> {
    sources("src").into_iter().filter(|file| module_of(file) == module).collect()
}

/// Files with the modules that they are; the crate's roots `lib.rs` and `main.rs` are none.
pub fn modules_of(files: Vec<PathBuf>) -> impl Iterator<Item = (PathBuf, Module)> {
    let modules = files.into_iter().map(|file| (home(&file), file)).map(|(home, file)| (file, home));
    modules.filter(|(_, home)| home[0] != "lib" && home[0] != "main")
}

/// The rooms of the crate.
pub fn modules() -> BTreeSet<String> {
    modules_of(sources("src")).map(|(_, home)| home[0].clone()).collect()
}
