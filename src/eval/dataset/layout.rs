//! Where the files of a data set lie.

use std::fs;
use std::path::{Path, PathBuf};

/// A data set on the Hugging Face hub, and the names under which its files are found in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    /// Its id on the hub.
    pub path: &'static str,
    /// The configuration: `ARC-Challenge`, `anatomy`.
    pub config: Option<String>,
    /// Other names of its folder, beside the parts of its id.
    pub folders: &'static [&'static str],
    /// Whether a folder may hold the files of other configurations too, so that a file must be named after this one.
    pub shares_folder: bool,
    /// The part behind the name of the split in some file names: `xl` in `train_xl.jsonl`.
    pub suffix: Option<&'static str>,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training, and for examples in prompts.
    Train,
    /// For development; evaluated where the answers of the test split are secret.
    Validation,
    /// For evaluation.
    Test,
    /// MMLU's five examples for prompts.
    Dev,
}

/// The formats of files, in the order in which they are looked for.
const EXTENSIONS: [&str; 8] = ["jsonl", "json", "csv", "parquet", "arrow", "jsonl.gz", "jsonl.zst", "csv.gz"];

impl Split {
    /// Its name on the hub.
    pub fn name(self) -> &'static str {
        self.names()[0]
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::Validation => &["validation", "valid", "val", "dev"],
            Self::Test => &["test"],
            Self::Dev => &["dev"],
        }
    }
}

impl DataSet {
    /// The files of a split below a directory, which may be that of the data set or hold it: a file, all shards of one, or
    /// all files of a directory. Empty if there are none.
    ///
    /// # Errors
    /// The candidates, if several files have the name of the split with different endings.
    pub fn files(&self, directory: &Path, split: Split) -> Result<Vec<PathBuf>, Vec<PathBuf>> {
        let folders: Vec<PathBuf> = self.folder_names().map(|name| directory.join(name)).collect();
        let folders: Vec<&PathBuf> = folders.iter().filter(|folder| folder.is_dir()).collect();
        let stems = self.stems(split);
        let exact = folders.iter().flat_map(|folder| stems.iter().map(move |stem| named(&folder.join(stem))));
        if let Some(files) = exact.into_iter().find(|files| !files.is_empty()) {
            return Ok(files);
        }
        let alike = folders.iter().map(|folder| self.named_alike(folder, split));
        match alike.into_iter().find(|files| !files.is_empty()) {
            Some(files) if files.len() > 1 => Err(files),
            files => Ok(files.unwrap_or_default()),
        }
    }

    /// The folder of a split among the Parquet files of the hub.
    pub fn hub_folder(&self, split: Split) -> String {
        format!("{}/{}", self.config.as_deref().unwrap_or("default"), split.name())
    }

    /// The names of files that are looked for, for a message.
    pub fn expected(&self, split: Split) -> String {
        let stems: Vec<String> = self.stems(split).iter().map(|stem| format!("{stem}.*")).collect();
        let folders: Vec<&str> = self.folder_names().filter(|name| !name.is_empty()).collect();
        format!("{} in it or in {}", stems.join(", "), folders.join(", "))
    }

    /// Folders relative to the directory of all data; the empty one is that directory itself.
    fn folder_names(&self) -> impl Iterator<Item = &str> {
        let name = self.path.split_once('/').map_or(self.path, |(_, name)| name);
        [self.path, name].into_iter().chain(self.folders.iter().copied()).chain([""])
    }

    /// Names without extension, relative to the folder, the most specific first.
    fn stems(&self, split: Split) -> Vec<String> {
        let mut stems = Vec::new();
        for name in split.names() {
            if let Some(config) = &self.config {
                stems.extend([format!("{config}/{name}"), format!("{config}_{name}")]);
                stems.extend([format!("{name}/{config}_{name}"), format!("data/{name}/{config}_{name}")]);
            }
            stems.extend(self.suffix.map(|suffix| format!("{name}_{suffix}")));
            if !self.shares_folder {
                stems.extend([(*name).to_owned(), format!("data/{name}")]);
            }
        }
        stems
    }

    /// Files that begin with the name of a split: `train_first200.jsonl`.
    fn named_alike(&self, folder: &Path, split: Split) -> Vec<PathBuf> {
        if self.shares_folder {
            return Vec::new();
        }
        let begins = |name: &str| split.names().iter().any(|split| name.starts_with(&format!("{split}_")));
        let is_data = |name: &str| EXTENSIONS.iter().any(|extension| name.ends_with(&format!(".{extension}")));
        sorted(folder, |name| begins(name) && is_data(name))
    }
}

/// The file with this name and some extension, its shards `-00000-of-00002`, or the files of a directory of this name.
fn named(stem: &Path) -> Vec<PathBuf> {
    let with = |extension: &str| PathBuf::from(format!("{}.{extension}", stem.display()));
    if let Some(file) = EXTENSIONS.iter().map(|extension| with(extension)).find(|file| file.is_file()) {
        return vec![file];
    }
    let (Some(folder), Some(name)) = (stem.parent(), stem.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy();
    for extension in EXTENSIONS {
        let is_shard = |file: &str| is_shard(file, &name, extension);
        let shards = sorted(folder, is_shard);
        if !shards.is_empty() {
            return shards;
        }
        let inner = sorted(stem, |file| file.ends_with(&format!(".{extension}")));
        if !inner.is_empty() {
            return inner;
        }
    }
    Vec::new()
}

/// Whether a file is `test-00000-of-00001.parquet` for the name `test`.
fn is_shard(file: &str, name: &str, extension: &str) -> bool {
    let middle = file.strip_prefix(name).and_then(|rest| rest.strip_suffix(&format!(".{extension}")));
    let numbers = middle.and_then(|middle| middle.strip_prefix('-')?.split_once("-of-"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(number, count)| is_number(number) && is_number(count))
}

/// Files of a directory, sorted by name; none if there is no directory.
fn sorted(folder: &Path, accepts: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let accepted = entries.filter(|entry| entry.file_name().to_str().is_some_and(&accepts));
    let mut files: Vec<PathBuf> = accepted.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_set(config: Option<&str>, shares_folder: bool) -> DataSet {
        let (folders, suffix) = (&["abc"][..], Some("xl"));
        DataSet { path: "org/set", config: config.map(str::to_owned), folders, shares_folder, suffix }
    }

    fn found(data_set: &DataSet, split: Split, files: &[&str]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = data_set.files(root.path(), split).unwrap_or_else(|several| several);
        found.iter().map(|path| path.strip_prefix(root.path()).unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn layouts_of_the_hub_and_of_published_archives_are_known() {
        let (one, many) = (data_set(Some("part"), false), data_set(Some("part"), true));
        let shards = ["org/set/part/test-00000-of-00002.parquet", "org/set/part/test-00001-of-00002.parquet"];
        assert_eq!(found(&one, Split::Test, &shards), shards);
        for file in ["set/part/test.jsonl", "abc/test.csv", "test.json", "data/test.jsonl.gz", "part/test/0000.parquet"]
        {
            assert_eq!(found(&one, Split::Test, &[file]), [file]);
        }
        for file in ["test/part_test.csv", "data/test/part_test.csv", "part/test/data-00000-of-00001.arrow"] {
            assert_eq!(found(&many, Split::Test, &[file, "test/other_test.csv"]), [file]);
        }
        assert_eq!(found(&many, Split::Test, &["test.csv", "other/test.csv"]), [""; 0]);
    }

    #[test]
    fn the_most_specific_name_wins() {
        let set = data_set(None, false);
        assert_eq!(found(&set, Split::Train, &["train_s.jsonl", "train_xl.jsonl.gz"]), ["train_xl.jsonl.gz"]);
        assert_eq!(found(&set, Split::Validation, &["dev.jsonl", "validation.jsonl"]), ["validation.jsonl"]);
        assert_eq!(found(&set, Split::Train, &["train_first.jsonl"]), ["train_first.jsonl"]);
        assert_eq!(found(&set, Split::Train, &["train_a.jsonl", "train_b.jsonl"]).len(), 2, "the caller decides");
        assert_eq!(found(&set, Split::Train, &["trainer.jsonl", "train_a.py"]), [""; 0]);
    }
}
