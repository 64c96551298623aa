//! The named chat templates of a Hugging Face directory, such as one for tools: files since transformers 5.

use std::path::Path;

use crate::error::{FileError, FileFault};
use crate::output::disk::Disk;
use crate::output::read::is_directory;
use crate::output::{TEMPLATES_FOLDER, is_output_name};

/// The default template.
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The file of a template, in its folder.
pub(crate) fn file_of(name: &str) -> String {
    format!("{TEMPLATES_FOLDER}/{name}.jinja")
}

/// The name of the template in a file; `None` if the file is not in the folder of templates.
pub(crate) fn name_of(file: &str) -> Option<&str> {
    let name = file.strip_prefix(TEMPLATES_FOLDER)?.strip_prefix('/')?.strip_suffix(".jinja")?;
    (!name.contains('/')).then_some(name)
}

/// The files of the named templates in `directory`, sorted: `additional_chat_templates/NAME.jinja`.
///
/// # Errors
/// [`FileFault::UnsafeName`]; what the operating system reports.
pub(crate) fn files_in(disk: &dyn Disk, directory: &Path) -> Result<Vec<String>, FileError> {
    let folder = directory.join(TEMPLATES_FOLDER);
    if !is_directory(disk, &folder)? {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for file in disk.list(&folder).map_err(FileError::io(&folder))? {
        let name = format!("{TEMPLATES_FOLDER}/{}", file.to_string_lossy());
        match name_of(&name) {
            None => {}
            Some(_) if file.to_str().is_some() && is_output_name(&name) => files.push(name),
            Some(_) => return Err(FileError::new(folder.join(file), FileFault::UnsafeName)),
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::output::disk::disk;

    #[test]
    fn the_templates_are_the_jinja_files_of_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(TEMPLATES_FOLDER);
        assert!(files_in(&*disk(), root.path()).unwrap().is_empty());
        fs::create_dir(&folder).unwrap();
        for name in ["tool_use.jinja", "rag.jinja", "notes.txt"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let files = files_in(&*disk(), root.path()).unwrap();
        assert_eq!(files, ["rag", "tool_use"].map(file_of));
        assert_eq!(files.iter().map(|file| name_of(file).unwrap()).collect::<Vec<_>>(), ["rag", "tool_use"]);
        assert_eq!(name_of("chat_template.jinja"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_unsafe_elsewhere_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        for name in [&b"a\\..\\b.jinja"[..], b"nul.jinja", b"a\xff.jinja"] {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join(TEMPLATES_FOLDER);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
            let error = files_in(&*disk(), root.path()).unwrap_err();
            assert!(error.to_string().contains("has an unsafe name, expected"), "{error}");
        }
    }
}
