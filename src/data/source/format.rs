//! The format of a file of data, by its name.

use std::path::Path;

use super::error::SourceFault;

/// How rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    JsonLines,
    Json,
    Csv,
    Parquet,
    Arrow,
}

/// How a file is compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The format and compression that the extensions of `path` name, in any case of letters.
///
/// # Errors
/// [`SourceFault::UnknownFormat`].
pub(super) fn format_of(path: &Path) -> Result<(Format, Compression), SourceFault> {
    let extension = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let last = extension(path);
    let compression = match last.as_str() {
        "gz" => Compression::Gzip,
        "zst" => Compression::Zstd,
        _ => Compression::None,
    };
    let inner = if compression == Compression::None { last } else { extension(&path.with_extension("")) };
    let format = match inner.as_str() {
        "txt" => Format::Text,
        "jsonl" => Format::JsonLines,
        "json" => Format::Json,
        "csv" => Format::Csv,
        // Their columns are compressed inside.
        "arrow" if compression == Compression::None => Format::Arrow,
        "parquet" if compression == Compression::None => Format::Parquet,
        _ => return Err(SourceFault::UnknownFormat { found: extension(path) }),
    };
    Ok((format, compression))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_name_format_and_compression() {
        let format = |name: &str| format_of(Path::new(name)).ok();
        assert_eq!(format("a.txt"), Some((Format::Text, Compression::None)));
        assert_eq!(format("a.b/c.JSONL.gz"), Some((Format::JsonLines, Compression::Gzip)));
        assert_eq!(format("a.json.zst"), Some((Format::Json, Compression::Zstd)));
        for unknown in ["a", "txt", "a.gz", "a.md", "a.parquet.gz", "a.txt/b", "a.txt.gz.gz"] {
            assert_eq!(format(unknown), None, "{unknown}");
        }
    }
}
