//! Shards written and read back, whole and broken.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::data::HeldOut;
use crate::data::source::{RowFault, SourceFault};
use crate::error::{ErrorKind, FileFault};
use crate::output::OutputError;
use crate::output::commit::{Existing, PartialDirectory};
use crate::output::disk::disk;
use crate::output::receipt::verify;
use crate::tokenizer::Tokenizer;

const EOS: u32 = 9;

/// The digits, of which 9 ends a document, and further words up to `vocab_size`.
fn words(vocab_size: usize) -> Tokenizer {
    Tokenizer::word_level(&(0..vocab_size).map(|word| word.to_string()).collect::<Vec<_>>())
}

fn options() -> TokenizeOptions {
    TokenizeOptions { text_field: "text".to_owned(), eos: Some(EOS), shard_size_bytes: 16, heldout: None, skip_bad: 0 }
}

struct Place {
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |(name, text): &(&str, &str)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let files = files.iter().map(write).collect();
        Self { folder, files }
    }

    /// A document of words per element.
    fn of_documents(documents: &[Vec<u32>]) -> Self {
        let line = |ids: &Vec<u32>| {
            let text: Vec<String> = ids.iter().map(u32::to_string).collect();
            format!("{{\"text\": \"{}\"}}\n", text.join(" "))
        };
        Self::new(&[("a.jsonl", &documents.iter().map(line).collect::<String>())])
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn write(&self, tokenizer: &Tokenizer, options: &TokenizeOptions) -> Result<Tokenized, TokenizeError> {
        let partial = PartialDirectory::create(disk(), &self.out(), Existing::Keep)?;
        tokenize(&self.files, tokenizer, options, partial, &|_| ())
    }

    /// The files written, by name.
    fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        let read = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        };
        fs::read_dir(self.out()).unwrap().map(read).collect()
    }
}

fn documents(shards: &TokenShards) -> Vec<Vec<u32>> {
    let document = |index| {
        let range = shards.document(index).unwrap();
        let mut ids = vec![0; (range.end - range.start) as usize];
        shards.read(range.start, &mut ids).unwrap();
        ids
    };
    (0..shards.num_documents()).map(document).collect()
}

#[test]
fn documents_are_read_as_they_were_written() {
    let files = [
        ("a.jsonl", "{\"text\": \"1 2 3\"}\n{\"text\": \" \"}\n{\"text\": \"4\"}\n"),
        ("b.txt", "5 6\n7 8 1 2 3 4 5 6 7\n"),
        ("c.csv", "id,text\n1,0 0\n2,1\n"),
    ];
    let place = Place::new(&files);
    let written = place.write(&words(10), &options()).unwrap();
    assert_eq!((written.record.train.num_tokens, written.record.train.num_documents, written.num_empty), (23, 5, 1));
    let shards = TokenShards::open(&place.out()).unwrap();
    let expected =
        [vec![1, 2, 3, EOS], vec![4, EOS], vec![5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, EOS], vec![0, 0, EOS], vec![1, EOS]];
    assert_eq!(documents(&shards), expected);
    // Shards of 16 bytes hold eight ids, and the long document has one of its own.
    let counts: Vec<_> =
        written.record.train.shards.iter().map(|shard| (shard.num_tokens, shard.num_documents)).collect();
    assert_eq!(counts, [(6, 2), (12, 1), (5, 2)]);
    let mut all = vec![0; 23];
    shards.read(0, &mut all).unwrap();
    assert_eq!(all, expected.concat());
    let bytes = place.bytes();
    let names: Vec<&str> = bytes.keys().map(String::as_str).collect();
    let [tokens, offsets] = ["tokens", "documents"].map(|what| [0, 1, 2].map(|index| format!("{what}-{index:05}.bin")));
    assert_eq!(names, [&["dataset.json".to_owned(), "deepwide.json".to_owned()], &offsets[..], &tokens[..]].concat());
    assert_eq!(bytes["tokens-00000.bin"], [1_u8, 0, 2, 0, 3, 0, 9, 0, 4, 0, 9, 0]);
    assert_eq!(bytes["documents-00000.bin"], [0_u64, 4, 6].map(u64::to_le_bytes).concat());
    assert!(verify(&disk(), &place.out(), &mut |_| ()).unwrap().mismatches.is_empty());
    let source = |(name, text): (&str, &str)| {
        let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
        SourceRecord { name: name.to_owned(), size_bytes: text.len() as u64, blake3 }
    };
    assert_eq!(written.record.sources, files.map(source));
}

#[test]
fn documents_have_the_special_tokens_of_the_tokenizer() {
    let lines = "{\"text\": \"1 2\"}\n{\"text\": \" \"}\n{\"text\": \"3 9\"}\n";
    let written = |added: &[u32]| {
        let mut json: serde_json::Value = serde_json::from_str(&words(10).to_json()).unwrap();
        let special = |id: &u32| serde_json::json!({"SpecialToken": {"id": id.to_string(), "type_id": 0}});
        let mut single: Vec<serde_json::Value> = added.iter().map(special).collect();
        single.push(serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}));
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing", "single": single, "pair": single,
            "special_tokens": {"0": {"id": "0", "ids": [0], "tokens": ["0"]}},
        });
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), Path::new("a.json")).unwrap();
        let place = Place::new(&[("a.jsonl", lines)]);
        let tokenized = place.write(&tokenizer, &options()).unwrap();
        assert_eq!(tokenized.num_empty, 1);
        documents(&TokenShards::open(&place.out()).unwrap())
    };
    assert_eq!(written(&[0]), [[0, 1, 2, EOS].as_slice(), &[0, 3, EOS]]);
    assert_eq!(written(&[]), [[1, 2, EOS].as_slice(), &[3, EOS]]);
}

#[test]
fn large_vocabularies_have_four_bytes_per_id() {
    for (vocab_size, bytes) in [(65_536, vec![255, 255]), (65_537, vec![0, 0, 1, 0])] {
        let last = vocab_size as u32 - 1;
        let place = Place::of_documents(&[vec![last]]);
        place.write(&words(vocab_size), &TokenizeOptions { eos: None, ..options() }).unwrap();
        assert_eq!(place.bytes()["tokens-00000.bin"], bytes);
        assert_eq!(documents(&TokenShards::open(&place.out()).unwrap()), [[last]]);
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    // More than two batches of five threads, with few tokens in much white space.
    let line =
        |index: usize| format!("{{\"text\": \"{} {}{}\"}}\n", index % 9, " ".repeat(index * 7 % 800), index / 9 % 9);
    let place = Place::new(&[("a.jsonl", &(0..30_000).map(line).collect::<String>())]);
    let heldout = Some(HeldOut { fraction: 0.1, seed: 1 });
    let options = TokenizeOptions { shard_size_bytes: 30_000, heldout, ..options() };
    let written = [1, 2, 5].map(|num_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| place.write(&words(10), &options)).unwrap();
        let bytes = place.bytes();
        fs::remove_dir_all(place.out()).unwrap();
        bytes
    });
    assert!(written[0].len() > 8, "several shards of both splits");
    assert!(written[0] == written[1] && written[1] == written[2]);
}

#[test]
fn held_out_documents_stay_where_they_are_when_data_is_added() {
    let heldout = Some(HeldOut { fraction: 0.3, seed: 1 });
    let options = TokenizeOptions { heldout, ..options() };
    let many: Vec<Vec<u32>> = (0..200).map(|index| vec![index % 9, index / 9 % 9, index / 81]).collect();
    let split = |documents: &[Vec<u32>]| {
        let place = Place::of_documents(documents);
        place.write(&words(10), &options).unwrap();
        [Split::Train, Split::HeldOut]
            .map(|split| super::tests::documents(&TokenShards::open_on(&*disk(), &place.out(), split).unwrap()))
    };
    let [train, kept] = split(&many);
    assert_eq!(train.len() + kept.len(), many.len());
    assert!((30..=90).contains(&kept.len()), "{}", kept.len());
    let added: Vec<Vec<u32>> =
        many.iter().rev().cloned().chain((0..50).map(|index| vec![8, 8, 8, index % 9])).collect();
    let [_, more] = split(&added);
    assert!(kept.iter().all(|document| more.contains(document)));
    assert!(train.iter().all(|document| !more.contains(document)));
}

#[test]
fn bad_data_is_refused_and_nothing_is_left() {
    let refused = |files: &[(&str, &str)], options: &TokenizeOptions| {
        let place = Place::new(files);
        let error = place.write(&words(10), options).unwrap_err();
        assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), files.len(), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error
    };
    let error = refused(&[("a.jsonl", "{\"text\": \"1\"}\n{\"body\": \"2\"}\n")], &options());
    assert!(error.lacks_text());
    assert!(
        error.to_string().ends_with("a.jsonl\": line 2: found the fields [\"body\"], expected \"text\""),
        "{error}"
    );
    let error = refused(&[("a.csv", "text\n1\n1 x\ny\n")], &options());
    assert!(error.to_string().contains("a.csv\": row 2: word \"x\""), "{error}");
    let error = refused(&[("a.csv", "text,id\n1,1\nx,2\n3\n")], &options());
    assert!(error.to_string().contains("a.csv\": row 2: word \"x\""), "before row 3, which lacks a field: {error}");
    let error = refused(&[("a.jsonl", "{\"text\": \"\"}\n{\"text\": \" \"}\n")], &options());
    assert!(matches!(error, TokenizeError::NoTokens { num_rows: 2 }), "{error}");
    let heldout = Some(HeldOut { fraction: 0.5, seed: 1 });
    let error = refused(&[("a.txt", "1")], &TokenizeOptions { heldout, ..options() });
    assert!(matches!(error, TokenizeError::EmptySplit { .. }), "{error}");
    let error = refused(&[("a.txt", "1"), ("b.jsonl", "{")], &options());
    let is_bad_json = |error: &TokenizeError| {
        let TokenizeError::Source(error) = error else { return false };
        matches!(error.fault, SourceFault::Row { fault: RowFault::BadJson(_), .. })
    };
    assert!(is_bad_json(&error) && !error.lacks_text(), "{error}");
}

#[test]
fn rows_that_break_a_rule_are_left_out_on_request() {
    let lines = "{\"text\": \"1\"}\n{\"body\": \"2\"}\n{\n{\"text\": 3}\n{\"text\": \"4\"}\n";
    let write = |lines: &str, skip_bad| {
        let place = Place::new(&[("a.jsonl", lines), ("b.jsonl", "{\"text\": \"5\"}\n")]);
        let tokenized = place.write(&words(10), &TokenizeOptions { skip_bad, ..options() });
        tokenized.map(|tokenized| {
            let shards = fs::read(place.out().join(&tokenized.record.train.shards[0].tokens)).unwrap();
            (shards, tokenized)
        })
    };
    let (bytes, tokenized) = write(lines, 3).unwrap();
    assert_eq!((tokenized.skipped.count(), tokenized.num_empty, tokenized.record.train.num_documents), (3, 0, 3));
    assert!(tokenized.skipped.first()[2].ends_with("a.jsonl\": line 4: \"text\" is a number, expected a string"));
    let (expected, _) = write("{\"text\": \"1\"}\n{\"text\": \"4\"}\n", 0).unwrap();
    assert!(bytes == expected);
    assert!(write(lines, 2).unwrap_err().to_string().contains("line 4"));
}

#[test]
fn an_output_is_replaced_on_request_only() {
    let place = Place::of_documents(&[vec![1]]);
    place.write(&words(10), &options()).unwrap();
    assert!(matches!(place.write(&words(10), &options()), Err(TokenizeError::Output(OutputError::Exists { .. }))));
    let partial = PartialDirectory::create(disk(), &place.out(), Existing::Replace).unwrap();
    tokenize(&place.files, &words(10), &TokenizeOptions { eos: None, ..options() }, partial, &|_| ()).unwrap();
    assert_eq!(documents(&TokenShards::open(&place.out()).unwrap()), [[1]]);
}

fn fault(out: &Path) -> ShardFault {
    let shards = TokenShards::open(out).and_then(|shards| {
        shards.read(0, &mut vec![0; shards.num_tokens() as usize])?;
        shards.document_lengths(0..shards.num_tokens())
    });
    let error = shards.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    match error {
        ShardError::Shard(error) => error.fault,
        other => panic!("{other}"),
    }
}

/// A directory of one shard with three documents, changed.
fn changed(change: impl Fn(&Path)) -> ShardFault {
    let place = Place::of_documents(&[vec![1, 2], vec![3], vec![4, 5]]);
    place.write(&words(10), &TokenizeOptions { shard_size_bytes: 1000, ..options() }).unwrap();
    change(&place.out());
    fault(&place.out())
}

#[test]
fn files_of_another_size_are_refused() {
    for (name, size_bytes) in [("tokens-00000.bin", 16), ("documents-00000.bin", 32)] {
        for found in [size_bytes - 1, size_bytes + 1, 0] {
            let resize =
                |out: &Path| fs::File::options().write(true).open(out.join(name)).unwrap().set_len(found).unwrap();
            let fault = changed(resize);
            let is_size = matches!(fault, ShardFault::Size { found_bytes, expected_bytes } if (found_bytes, expected_bytes) == (found, size_bytes.into()));
            assert!(is_size, "{name}: {fault}");
        }
    }
}

#[test]
fn bad_tokens_and_offsets_are_refused() {
    let ids = |ids: [u16; 8]| {
        move |out: &Path| fs::write(out.join("tokens-00000.bin"), ids.map(u16::to_le_bytes).concat()).unwrap()
    };
    let outside = changed(ids([1, 2, 9, 3, 9, 4, 10, 9]));
    assert!(matches!(outside, ShardFault::IdOutsideVocabulary { id: 10, position: 6, vocab_size: 10 }), "{outside}");
    for offsets in [[0_u64, 3, 3, 8], [0, 5, 3, 8], [0, 3, 9, 8], [1, 3, 5, 8], [0, 3, 5, 7], [0, 3, u64::MAX, 8]] {
        let write =
            |out: &Path| fs::write(out.join("documents-00000.bin"), offsets.map(u64::to_le_bytes).concat()).unwrap();
        let fault = changed(write);
        assert!(matches!(fault, ShardFault::BadOffset { num_tokens: 8, .. }), "{offsets:?}: {fault}");
    }
}

#[test]
fn a_bad_record_is_refused() {
    let with = |from: &'static str, to: &'static str| {
        changed(|out| {
            let text = fs::read_to_string(out.join(DATASET)).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(out.join(DATASET), text.replacen(from, to, 1)).unwrap();
        })
    };
    assert!(matches!(
        with("\"format\": 2", "\"format\": 1, \"other\": 0"),
        ShardFault::OtherFormat { found: 1, expected: 2 }
    ));
    assert!(matches!(with("\"uint16\"", "\"int8\""), ShardFault::Malformed(_)));
    assert!(matches!(with("{", "["), ShardFault::Malformed(_)));
    assert!(matches!(with("\"tokens-00000.bin\"", "\"../tokens\""), ShardFault::UnsafeFileName { .. }));
    assert!(matches!(
        with("\"num_tokens\": 8", "\"num_tokens\": 9"),
        ShardFault::OtherSum { what: "tokens", found: 8, expected: 9 }
    ));
    assert!(matches!(with("\"uint16\"", "\"uint32\""), ShardFault::Size { .. }));
}

#[test]
fn shards_know_their_tokenizer() {
    let place = Place::of_documents(&[vec![1]]);
    place.write(&words(10), &options()).unwrap();
    let shards = TokenShards::open(&place.out()).unwrap();
    shards.check_tokenizer(&words(10)).unwrap();
    let error = shards.check_tokenizer(&words(11)).unwrap_err();
    assert!(
        matches!(&error, ShardError::Shard(error) if matches!(error.fault, ShardFault::OtherTokenizer { .. })),
        "{error}"
    );
    let error = TokenShards::open_on(&*disk(), &place.out(), Split::HeldOut).unwrap_err();
    assert!(matches!(&error, ShardError::Shard(error) if matches!(error.fault, ShardFault::NoHeldOut)), "{error}");
    let error = TokenShards::open(place.folder.path()).unwrap_err();
    assert!(matches!(&error, ShardError::File(error) if matches!(error.fault, FileFault::NotFound)), "{error}");
    let error = TokenWindows::new(shards, 2).unwrap_err();
    assert!(
        matches!(&error, ShardError::Shard(error) if matches!(error.fault, ShardFault::TooFewTokens { found: 2, expected: 3 })),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn windows_are_parts_of_the_stream_with_its_documents(
        lengths in prop::collection::vec(1_usize..12, 1..40), seq_length in 1_usize..10, shard_size_bytes in 1_u64..60,
    ) {
        let written: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(index, length)| vec![index as u32 % 10; *length]).collect();
        let place = Place::of_documents(&written);
        place.write(&words(10), &TokenizeOptions { eos: None, shard_size_bytes, ..options() }).unwrap();
        let shards = TokenShards::open(&place.out()).unwrap();
        prop_assert_eq!(documents(&shards), written.clone());
        let document_of: Vec<usize> = lengths.iter().enumerate().flat_map(|(index, length)| vec![index; *length]).collect();
        let stream = written.concat();
        let Ok(windows) = TokenWindows::new(shards, seq_length) else {
            prop_assert!(stream.len() <= seq_length);
            return Ok(());
        };
        prop_assert_eq!(windows.len(), (stream.len() as u64 - 1) / seq_length as u64);
        for window in 0..windows.len() {
            let start = window as usize * seq_length;
            let part = start..start + seq_length + 1;
            let found = windows.read(window).unwrap();
            prop_assert_eq!(&found.ids, &stream[part.clone()]);
            let expected: Vec<usize> = document_of[part].chunk_by(|a, b| a == b).map(<[usize]>::len).collect();
            prop_assert_eq!(&found.document_lengths, &expected);
            prop_assert_eq!(found.documents().collect::<Vec<_>>().concat(), found.ids);
        }
    }
}
