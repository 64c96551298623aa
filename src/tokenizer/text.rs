//! Text files: bounded, UTF-8, and not something else under their name.

use std::path::Path;

use super::TokenizerError;
use crate::output::disk::Disk;
use crate::output::read::read_bounded;

/// Size that no real file exceeds.
pub(super) const LIMIT_BYTES: u64 = 256 << 20;

/// Reads a text file.
///
/// # Errors
/// [`TokenizerError::File`], [`TokenizerError::NotText`], [`TokenizerError::LfsPointer`], [`TokenizerError::HtmlPage`].
pub(super) fn read_text(disk: &dyn Disk, path: &Path) -> Result<String, TokenizerError> {
    let bytes = read_bounded(disk, path, LIMIT_BYTES)?;
    refuse_stand_ins(path, &bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let offset_bytes = error.utf8_error().valid_up_to();
        TokenizerError::NotText { path: path.to_owned(), offset_bytes, found: error.as_bytes()[offset_bytes] }
    })
}

/// Refuses what a failed download leaves in the place of a file.
///
/// # Errors
/// [`TokenizerError::LfsPointer`], [`TokenizerError::HtmlPage`].
pub(super) fn refuse_stand_ins(path: &Path, bytes: &[u8]) -> Result<(), TokenizerError> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(TokenizerError::LfsPointer { path: path.to_owned() });
    }
    let text = bytes.trim_ascii_start();
    let begins = |with: &str| text.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with.as_bytes()));
    if ["<!doctype", "<html", "<?xml"].into_iter().any(begins) {
        return Err(TokenizerError::HtmlPage { path: path.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, FileFault, InFile};
    use crate::output::disk::disk;

    fn refusal(bytes: &[u8]) -> TokenizerError {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        std::fs::write(&path, bytes).unwrap();
        let error = read_text(&*disk(), &path).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error
    }

    #[test]
    fn absence_is_told_from_a_directory_and_from_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let fault = |path: &Path| match read_text(&*disk(), path).unwrap_err() {
            TokenizerError::File(InFile { fault, .. }) => fault,
            error => panic!("{error}"),
        };
        assert!(matches!(fault(directory.path()), FileFault::NotAFile));
        assert!(matches!(fault(&directory.path().join("a\0b")), FileFault::Io(_)));
        assert!(matches!(fault(&directory.path().join("a")), FileFault::NotFound));
    }

    #[test]
    fn a_file_larger_than_any_tokenizer_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        std::fs::File::create(&path).unwrap().set_len(LIMIT_BYTES + 1).unwrap();
        let error = read_text(&*disk(), &path).unwrap_err();
        assert!(error.to_string().ends_with("has 268435457 bytes, expected at most 268435456"), "{error}");
    }

    #[test]
    fn what_stands_in_place_of_a_tokenizer_is_named() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert!(matches!(refusal(pointer.as_bytes()), TokenizerError::LfsPointer { .. }));
        for page in ["\n<!DOCTYPE html>", "<html>", "<?xml version='1.0'?><Error>"] {
            assert!(matches!(refusal(page.as_bytes()), TokenizerError::HtmlPage { .. }), "{page}");
        }
        assert!(matches!(refusal(b"GGUF\xff"), TokenizerError::NotText { offset_bytes: 4, found: 0xff, .. }));
    }
}
