//! Files of every format, whole and broken.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::row::MAX_ROW_BYTES;
use super::text::{MAX_PART_BYTES, MAX_WHOLE_BYTES};
use super::*;
use crate::error::{ErrorKind, FileFault};

fn written(name: &str, bytes: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn rows(path: &Path) -> Result<Vec<Row>, SourceError> {
    Rows::open(path)?.collect()
}

/// The rows of a file as `["line 1", {…}]`.
fn shown(name: &str, bytes: impl AsRef<[u8]>) -> Vec<Value> {
    let (_folder, path) = written(name, &bytes);
    let row = |row: Row| json!([row.number.to_string(), row.fields]);
    let mut rows = Rows::open(&path).unwrap();
    let shown = rows.by_ref().map(|found| row(found.unwrap())).collect();
    assert_eq!(rows.read_bytes(), bytes.as_ref().len() as u64, "{name} is read to its end");
    assert_eq!(rows.blake3().unwrap(), blake3::hash(bytes.as_ref()).to_hex().as_str());
    shown
}

fn refusal(name: &str, bytes: impl AsRef<[u8]>) -> SourceFault {
    let (_folder, path) = written(name, bytes);
    let error = rows(&path).unwrap_err();
    assert_eq!((&error.path, error.kind()), (&path, ErrorKind::Invalid), "{error}");
    assert!(error.to_string().contains("expected"), "{error}");
    error.fault
}

fn row_fault(name: &str, number: RowNumber, bytes: impl AsRef<[u8]>) -> RowFault {
    match refusal(name, bytes) {
        SourceFault::Row { number: found, fault } => {
            assert_eq!(found, number, "{fault}");
            fault
        }
        other => panic!("{other}"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const OBJECTS: &str = r#"{"text": "red", "id": 1} {"text": "é\n", "tags": ["a", null]}"#;

#[test]
fn each_format_gives_its_rows() {
    let [first, second] = [json!({"text": "red", "id": 1}), json!({"text": "é\n", "tags": ["a", null]})];
    let numbered = |kind: &str, numbers: [u64; 2]| {
        [json!([format!("{kind} {}", numbers[0]), first]), json!([format!("{kind} {}", numbers[1]), second])]
    };
    let (one, two) = OBJECTS.split_at(25);
    assert_eq!(shown("a.jsonl", format!("{one}\r\n\n \n{two}")), numbered("line", [1, 4]));
    assert_eq!(shown("a.json", format!(" [\n{one}\n, {two} ]\n")), numbered("row", [1, 2]));
    assert_eq!(shown("a.json", OBJECTS), numbered("row", [1, 2]));
    assert_eq!(shown("a.json", "[ ]"), [Value::Null; 0]);
    assert_eq!(shown("a.txt", "red\r\n\ngreen"), [json!(["line 1", {"text": "red\n\ngreen"}])]);
    let table = "text,id\nred,1\n\"two\nlines, \"\"é\"\"\",\r\nblue,3\n";
    let expected = [
        json!(["row 1", {"text": "red", "id": "1"}]),
        json!(["row 2", {"text": "two\nlines, \"é\"", "id": ""}]),
        json!(["row 3", {"text": "blue", "id": "3"}]),
    ];
    assert_eq!(shown("a.csv", table), expected);
}

#[test]
fn compressed_files_with_a_byte_order_mark_give_the_same_rows() {
    let lines = "{\"text\": \"red\"}\n{\"text\": \"blue\"}\n".repeat(5000);
    let plain = shown("a.jsonl", &lines);
    assert_eq!(plain.len(), 10_000);
    let marked = format!("\u{feff}{lines}").into_bytes();
    let (front, back) = marked.split_at(100_000);
    assert_eq!(shown("a.jsonl", &marked), plain);
    assert_eq!(shown("a.jsonl.gz", [gzip(front), gzip(back)].concat()), plain, "two members");
    let frames = [front, back].map(|part| zstd::encode_all(part, 1).unwrap());
    assert_eq!(shown("a.jsonl.zst", frames.concat()), plain, "two frames");
}

#[test]
fn parquet_files_of_pyarrow_give_its_rows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data");
    let expected: Vec<_> = rows(&folder.join("rows.json")).unwrap().into_iter().map(|row| row.fields).collect();
    assert_eq!(expected.len(), 7);
    for codec in ["snappy", "zstd", "gzip", "none"] {
        let path = folder.join(format!("{codec}.parquet"));
        let mut found = Rows::open(&path).unwrap();
        let first = found.next().unwrap().unwrap();
        assert_eq!((first.number, &first.fields), (RowNumber::Row(1), &expected[0]), "{codec}");
        let rest: Vec<_> = found.by_ref().map(|row| row.unwrap().fields).collect();
        assert_eq!(rest, expected[1..], "{codec}");
        let bytes = fs::read(&path).unwrap();
        assert_eq!(found.read_bytes(), bytes.len() as u64);
        assert_eq!(found.blake3().unwrap(), blake3::hash(&bytes).to_hex().as_str());
    }
    let other = rows(&folder.join("other.parquet")).unwrap();
    assert_eq!(json!(other[0].fields), json!({"when": "2024-02-29 12:00:00.000 +00:00", "plain": "text"}));
}

#[test]
fn a_broken_parquet_file_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/snappy.parquet");
    let bytes = fs::read(path).unwrap();
    for broken in [&bytes[..bytes.len() - 1], b"PAR1", b""] {
        assert!(matches!(refusal("a.parquet", broken), SourceFault::BadParquet { .. }));
    }
    // A flipped byte changes a value or is refused; it never ends the process.
    for flipped in (0..bytes.len()).step_by(7) {
        let mut bytes = bytes.clone();
        bytes[flipped] ^= 0x41;
        let (_folder, path) = written("a.parquet", bytes);
        let _changed_or_refused = rows(&path);
    }
}

#[test]
fn arrow_streams_and_files_of_pyarrow_give_its_rows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data");
    let expected: Vec<_> = rows(&folder.join("rows.json")).unwrap().into_iter().map(|row| row.fields).collect();
    for name in ["stream.arrow", "file.arrow"] {
        let path = folder.join(name);
        let mut found = Rows::open(&path).unwrap();
        let read: Vec<_> = found.by_ref().map(Result::unwrap).collect();
        assert_eq!(read[6].number, RowNumber::Row(7), "rows are counted over batches");
        assert!(read.iter().map(|row| &row.fields).eq(&expected), "{name}");
        let bytes = fs::read(&path).unwrap();
        assert_eq!(found.read_bytes(), bytes.len() as u64);
        assert_eq!(found.blake3().unwrap(), blake3::hash(&bytes).to_hex().as_str());
        for flipped in (0..bytes.len()).step_by(7) {
            let mut bytes = bytes.clone();
            bytes[flipped] ^= 0x41;
            let (_folder, path) = written("a.arrow", bytes);
            let _changed_or_refused = rows(&path);
        }
    }
    for broken in [b"ARROW1".as_slice(), b"no arrow file"] {
        assert!(matches!(refusal("a.arrow", broken), SourceFault::BadArrow { .. }));
    }
}

#[test]
fn a_row_that_is_no_object_is_located() {
    for (bad, kind) in [("[\"a\"]", "a list"), ("\"a\"", "a string"), ("true", "a boolean"), ("7", "a number")] {
        let not_an_object = |fault| matches!(fault, RowFault::NotAnObject { found } if found == kind);
        assert!(not_an_object(row_fault("a.jsonl", RowNumber::Line(3), format!("{{}}\n\n{bad}\n"))));
        assert!(not_an_object(row_fault("a.json", RowNumber::Row(2), format!("[{{}}, {bad}]"))));
    }
    for bad in ["{\"a\": 1", "red", "{\"a\": 1, \"a\": 2}", "{\"a\": NaN}", "{} {}"] {
        let fault = row_fault("a.jsonl", RowNumber::Line(2), format!("{{}}\n{bad}"));
        assert!(matches!(fault, RowFault::BadJson(_)), "{fault}");
    }
    let fault = row_fault("a.jsonl", RowNumber::Line(1), "{\"a\": 1, \"a\": 2}");
    assert_eq!(fault.to_string(), "duplicate field \"a\" at line 1 column 12 of it, expected a JSON object");
}

#[test]
fn an_array_ends_where_it_should() {
    let no_separator = |text: &str, number, expected| {
        let fault = row_fault("a.json", RowNumber::Row(number), text);
        assert!(matches!(fault, RowFault::NoSeparator { found } if found == expected), "{text}: {fault}");
    };
    no_separator("[{}, {} {}]", 2, Some(b'{'));
    no_separator("[{}", 1, None);
    no_separator("[{}] {}", 1, Some(b'{'));
    assert!(matches!(row_fault("a.json", RowNumber::Row(2), "[{},]"), RowFault::BadJson(_)));
    assert!(matches!(row_fault("a.json", RowNumber::Row(1), "["), RowFault::BadJson(_)));
}

#[test]
fn columns_are_named_once_and_records_are_as_long_as_the_header() {
    let fault = row_fault("a.csv", RowNumber::Row(2), "a,b\n1,2\n1\n");
    assert!(matches!(fault, RowFault::FieldCount { found: 1, expected: 2 }), "{fault}");
    let fault = row_fault("a.csv", RowNumber::Line(1), "a,b,a\n1,2,3\n");
    assert!(matches!(&fault, RowFault::RepeatedColumn { name } if name == "a"), "{fault}");
    let fault = row_fault("a.csv", RowNumber::Row(1), b"a,b\n1,\xff\n");
    assert!(matches!(fault, RowFault::BadField { field: 2 }), "{fault}");
}

/// The rows that break no rule, and how many are left out of at most `limit`.
fn whole(name: &str, bytes: impl AsRef<[u8]>, limit: u64) -> Result<(Vec<Value>, SkippedRows), SourceError> {
    let (_folder, path) = written(name, bytes);
    let mut skipped = SkippedRows::up_to(limit);
    let mut rows = Rows::open(&path)?;
    let found = std::iter::from_fn(|| rows.next_whole(&mut skipped)).collect::<Result<Vec<_>, _>>()?;
    Ok((found.into_iter().map(|row| json!([row.number.to_string(), row.fields])).collect(), skipped))
}

#[test]
fn rows_that_break_a_rule_are_left_out_up_to_a_limit() {
    let lines = b"{\"a\": 1}\n{\"a\": \n\n[1]\n{\"a\": \"\xff\"}\n{\"a\": 2}";
    let (found, skipped) = whole("a.jsonl", lines, 3).unwrap();
    assert_eq!(found, [json!(["line 1", {"a": 1}]), json!(["line 6", {"a": 2}])]);
    let places: Vec<bool> = [2, 4, 5]
        .iter()
        .zip(skipped.first())
        .map(|(line, error)| error.contains(&format!("a.jsonl\": line {line}: ")))
        .collect();
    assert_eq!(places, [true; 3], "{skipped}");
    let error = whole("a.jsonl", lines, 2).unwrap_err();
    assert!(error.to_string().contains("line 5: found byte 0xff"), "{error}");
    assert!(whole("a.jsonl", lines, 0).unwrap_err().to_string().contains("line 2"));
}

#[test]
fn a_file_that_cannot_be_read_behind_a_row_is_refused() {
    assert!(whole("a.json", "[{}, 7, {}]", 9).is_err());
    // The quote takes three lines as one field.
    assert!(whole("a.csv", "a,b\n\"1,2\n3,4\n5\",6,7\n8,9\n", 9).is_err());
    assert!(whole("a.json", "[{}, {\"a\": }, {}]", 9).is_err());
    let truncated = &gzip("{}\n".repeat(50_000).as_bytes())[..100];
    assert!(matches!(whole("a.jsonl.gz", truncated, 9).unwrap_err().fault, SourceFault::BadCompression { .. }));
    let mut long = vec![b'x'; MAX_ROW_BYTES as usize + 2];
    long.extend(b"\n{}\n");
    let error = whole("a.jsonl", long, 9).unwrap_err();
    assert!(matches!(error.fault, SourceFault::Row { fault: RowFault::TooLong { .. }, .. }), "{error}");
}

#[test]
fn bytes_that_are_not_utf8_are_located() {
    let not_utf8 = |fault, offset| {
        assert!(matches!(fault, RowFault::NotUtf8 { offset_bytes, found: 0xff } if offset_bytes == offset), "{fault}");
    };
    not_utf8(row_fault("a.jsonl", RowNumber::Line(2), b"{}\n{\"a\": \"\xff\"}"), 7);
    not_utf8(row_fault("a.txt", RowNumber::Line(1), b"red\n\xff"), 4);
    assert!(matches!(row_fault("a.json", RowNumber::Row(1), b"[{\"a\": \"\xff\"}]"), RowFault::BadJson(_)));
}

#[test]
fn a_row_that_is_too_long_is_refused_in_bounded_memory() {
    let long = |start: &str| {
        let mut bytes = vec![b'x'; MAX_ROW_BYTES as usize + (1 << 20)];
        bytes[..start.len()].copy_from_slice(start.as_bytes());
        bytes
    };
    for (name, start, number) in [
        ("a.jsonl", "{}\n{\"a\": \"", RowNumber::Line(2)),
        ("a.json", "[{},{\"a\": \"", RowNumber::Row(2)),
        ("a.csv", "a\n1\n\"", RowNumber::Row(2)),
    ] {
        let fault = row_fault(name, number, long(start));
        assert!(matches!(fault, RowFault::TooLong { limit_bytes: MAX_ROW_BYTES }), "{name}: {fault}");
    }
    // Some 70 KB that decompress to a line of 65 MiB.
    let bomb = gzip(&long("{\"a\": \""));
    assert!(bomb.len() < 1 << 20);
    let fault = row_fault("a.jsonl.gz", RowNumber::Line(1), bomb);
    assert!(matches!(fault, RowFault::TooLong { .. }), "{fault}");
}

#[test]
fn a_long_text_is_cut_where_it_hurts_least() {
    let lengths = |text: &str| -> Vec<usize> {
        let found = shown("a.txt", text);
        let texts: Vec<&str> = found.iter().map(|row| row[1]["text"].as_str().unwrap()).collect();
        assert_eq!(texts.concat(), text);
        texts.iter().map(|text| text.len()).collect()
    };
    let (whole, most) = (MAX_WHOLE_BYTES, MAX_PART_BYTES);
    assert_eq!(lengths(&"x".repeat(whole)), [whole]);
    assert_eq!(lengths(&"x".repeat(whole + 1)), [most, most, most, most, 1]);
    assert_eq!(lengths(&"é".repeat(whole)), [most; 8]);
    assert_eq!(lengths(&format!("x{}", "é".repeat(whole / 2)))[..2], [most - 1, most]);
    // The rest makes it longer than a file that is one document.
    let rest = "r".repeat(whole);
    let lines = format!("{}\n{}\n{rest}", "x".repeat(most - 10), "y".repeat(20));
    assert_eq!(lengths(&lines)[..2], [most - 9, 21]);
    let paragraphs = format!("{}\n\n{}\n{}\n\n{rest}", "x".repeat(most - 100), "y".repeat(20), "z".repeat(200));
    assert_eq!(lengths(&paragraphs)[..2], [most - 98, 223]);
    assert_eq!(shown("a.txt", paragraphs)[1][0], "line 3");
    let windows = format!("{}\r\n\r\n{rest}", "x".repeat(most - 100));
    assert_eq!(shown("a.txt", windows)[0][1]["text"].as_str().unwrap().len(), most - 98);
}

#[test]
fn a_truncated_or_foreign_compressed_file_is_refused() {
    let lines = "{\"text\": \"red\"}\n".repeat(1000);
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let broken = [
        ("a.jsonl.gz", cut(gzip(lines.as_bytes()))),
        ("a.jsonl.zst", cut(zstd::encode_all(lines.as_bytes(), 1).unwrap())),
        ("a.jsonl.gz", lines.clone().into_bytes()),
        ("a.jsonl.zst", lines.into_bytes()),
    ];
    for (name, bytes) in broken {
        let fault = refusal(name, bytes);
        assert!(matches!(fault, SourceFault::BadCompression { .. }), "{name}: {fault}");
    }
}

#[test]
fn files_that_hold_no_data_are_told_apart() {
    assert!(matches!(refusal("a.jsonl", "version https://git-lfs.github.com/spec/v1\n"), SourceFault::LfsPointer));
    assert!(matches!(refusal("a.pickle", "x"), SourceFault::UnknownFormat { found } if found == "pickle"));
    let folder = tempfile::tempdir().unwrap();
    let error = Rows::open(&folder.path().join("a.txt")).unwrap_err();
    assert!(matches!(error.fault, SourceFault::File(FileFault::NotFound)));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let directory = folder.path().join("b.txt");
    fs::create_dir(&directory).unwrap();
    assert!(matches!(Rows::open(&directory).unwrap_err().fault, SourceFault::File(FileFault::NotAFile)));
    for name in ["a.txt", "a.jsonl", "a.json"] {
        assert_eq!(shown(name, " \n").len(), usize::from(name == "a.txt"));
        assert_eq!(shown(name, "").len(), 0);
    }
}

#[test]
fn a_text_is_taken_from_its_field() {
    let mut row =
        Row { number: RowNumber::Row(1), fields: json!({"text": "red", "id": 1}).as_object().unwrap().clone() };
    assert_eq!(row.take_text("text").unwrap(), "red");
    assert_eq!(row.take_text("id").unwrap_err().to_string(), "\"id\" is a number, expected a string");
    let fault = row.take_text("body").unwrap_err();
    assert_eq!(fault.to_string(), "found the fields [\"text\", \"id\"], expected \"body\"");
}

#[test]
fn arguments_name_files_directories_and_patterns() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("b/c")).unwrap();
    for name in ["a.txt", "b/2.jsonl", "b/1.jsonl", "b/c/3.csv", "b/README.md", "b/.4.txt"] {
        fs::write(path(name), "").unwrap();
    }
    let found = |names: &[&str]| {
        let files = data_files(&names.iter().map(|name| path(name)).collect::<Vec<_>>())?;
        let below = |file: PathBuf| file.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
        Ok::<Vec<String>, SourceError>(files.into_iter().map(below).collect())
    };
    assert_eq!(found(&["b", "a.txt"]).unwrap(), ["b/1.jsonl", "b/2.jsonl", "b/c/3.csv", "a.txt"]);
    assert_eq!(found(&["b/*.jsonl"]).unwrap(), ["b/1.jsonl", "b/2.jsonl"]);
    assert_eq!(found(&["**/[13].*"]).unwrap(), ["b/1.jsonl", "b/c/3.csv"]);
    let fault = |names: &[&str]| found(names).unwrap_err().fault;
    assert!(matches!(fault(&["absent"]), SourceFault::File(FileFault::NotFound)));
    assert!(matches!(fault(&["*.parquet"]), SourceFault::NoMatch));
    assert!(matches!(fault(&["b/[.txt"]), SourceFault::BadPattern { .. }));
    assert!(matches!(fault(&["b/*.md"]), SourceFault::UnknownFormat { found } if found == "md"));
    assert!(matches!(fault(&["b", "b/c/../2.jsonl"]), SourceFault::Repeated));
    fs::create_dir(path("empty")).unwrap();
    assert!(matches!(fault(&["empty"]), SourceFault::NoData));
}
