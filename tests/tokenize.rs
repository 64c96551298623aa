//! `deepwide tokenize`, run as a user runs it, and what streaming costs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use deepwide::data::Permutation;
use deepwide::data::shards::{
    DATASET, DatasetRecord, ShardRecord, Split, SplitRecord, TokenDtype, TokenShards, TokenWindows, TokenizeOptions,
    tokenize,
};
use deepwide::output::commit::{Existing, PartialDirectory};
use deepwide::output::disk::disk;
use deepwide::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::grow::{deepwide, names, run, tiny_base};

const FOLDER: &str = "DEEPWIDE_TEST_FOLDER";

/// A base and data in a folder.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        tiny_base(&root.path().join("base"));
        fs::create_dir(root.path().join("data")).unwrap();
        fs::write(root.path().join("data/a.jsonl"), "{\"text\": \"w0 w1\", \"id\": 1}\n{\"text\": \"w2\"}\n").unwrap();
        fs::write(root.path().join("data/b.txt"), "w3 w4 w5\n").unwrap();
        fs::write(root.path().join("data/README.md"), "Not data.").unwrap();
        Self(root)
    }

    /// Exit code, stdout and stderr of `tokenize` with these words, run in the folder.
    fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let output = deepwide()
            .current_dir(self.0.path())
            .args(["tokenize", "--tokenizer", "base"])
            .args(words)
            .output()
            .unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        (output.status.code(), stdout, stderr)
    }

    fn tokens(&self, out: &str) -> Vec<u32> {
        let shards = TokenShards::open(&self.0.path().join(out)).unwrap();
        let mut ids = vec![0; shards.num_tokens() as usize];
        shards.read(0, &mut ids).unwrap();
        ids
    }
}

#[test]
fn a_directory_of_text_becomes_shards_that_verify() {
    let place = Place::new();
    let (code, stdout, stderr) = place.run(&["data", "out"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "wrote out (9 tokens in 3 documents)\n"), "{stderr}");
    assert_eq!(place.tokens("out"), [3, 4, 1, 5, 1, 6, 7, 8, 1]);
    assert_eq!(
        names(&place.0.path().join("out")),
        ["dataset.json", "deepwide.json", "documents-00000.bin", "tokens-00000.bin"]
    );
    let out = place.0.path().join("out");
    assert!(run(&["verify", out.to_str().unwrap()]).status.success());
    let (code, stdout, _) = place.run(&["--no-eos", "--json", "data/*.jsonl", "--text-field", "text", "json"]);
    let summary: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &summary["train"]["num_tokens"], &summary["eos_token_id"]), (Some(0), &json!(3), &Value::Null));
    assert_eq!(summary["sources"][0]["name"], "data/a.jsonl");
    assert_eq!(place.tokens("json"), [3, 4, 5]);
    // A tokenizer alone does too, and its fingerprint is the same.
    let (code, _, stderr) = place.run(&["--tokenizer", "base/tokenizer.json", "data", "alone"]);
    assert_eq!(code, Some(2), "two tokenizers: {stderr}");
    let (code, _, stderr) = place.run(&["data"]);
    assert!(code == Some(2) && stderr.contains("expected DATA and OUT"), "{stderr}");
    let words = ["tokenize", "--tokenizer", "base/tokenizer.json", "data", "alone"];
    assert!(deepwide().current_dir(place.0.path()).args(words).status().unwrap().success());
    assert_eq!(
        fs::read(out.join("dataset.json")).unwrap(),
        fs::read(place.0.path().join("alone/dataset.json")).unwrap()
    );
}

#[test]
fn tokenizing_refuses_what_it_cannot_read_and_leaves_nothing() {
    let place = Place::new();
    let before = names(place.0.path());
    fs::write(place.0.path().join("data/bad.csv"), "text,id\nw1\n").unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["data/README.md", "out"], 3, "README.md\": is a file of format \"md\", expected one of .txt"),
        (&["data/*.parquet", "out"], 4, "data/*.parquet\": matches no file"),
        (&["absent.txt", "out"], 4, "absent.txt\": does not exist"),
        (&["data/bad.csv", "out"], 3, "bad.csv\": row 1: found 1 fields, expected the 2 of the header"),
        (
            &["data/a.jsonl", "out", "--text-field", "body"],
            3,
            "line 1: found the fields [\"text\", \"id\"], expected \"body\" (--text-field names another)",
        ),
        (&["data/a.jsonl", "data/a.jsonl", "out"], 3, "is given twice"),
        (&["data/a.jsonl", "data"], 3, "--force"),
        (&["data/a.jsonl", "out", "--heldout", "1"], 2, "above 0 and below 1"),
    ];
    for (words, expected, message) in cases {
        let (code, stdout, stderr) = place.run(words);
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{words:?}: {stderr}");
        assert!(stderr.contains(message), "{words:?}: {stderr}");
        assert_eq!(names(place.0.path()), before);
    }
    let (code, ..) = place.run(&["data/b.txt", "out"]);
    assert_eq!(code, Some(0));
    assert_eq!(place.run(&["data/a.jsonl", "out"]).0, Some(3));
    assert_eq!(place.run(&["data/a.jsonl", "out", "--force"]).0, Some(0));
    assert_eq!(place.tokens("out"), [3, 4, 1, 5, 1]);
}

#[test]
fn a_tokenizer_without_an_end_of_text_needs_consent() {
    let place = Place::new();
    fs::remove_file(place.0.path().join("base/tokenizer_config.json")).unwrap();
    fs::write(place.0.path().join("base/config.json"), "{}").unwrap();
    let (code, _, stderr) = place.run(&["data", "out"]);
    assert!(code == Some(3) && stderr.contains("--no-eos"), "{stderr}");
    assert_eq!(place.run(&["data", "out", "--no-eos"]).0, Some(0));
}

/// Highest resident memory of this process so far.
#[cfg(target_os = "linux")]
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The work, in a process of its own: started by the test below.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "runs in a process of its own, started by memory_does_not_grow_with_the_data"]
fn stream_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let tokenizer = Tokenizer::word_level(&["<unk>".to_owned(), "<eos>".to_owned()]);
    let options = TokenizeOptions {
        text_field: "text".to_owned(),
        eos: Some(1),
        shard_size_bytes: 1000,
        heldout: None,
        skip_bad: 0,
    };
    let grown = |what: &str, work: &dyn Fn()| {
        let before = peak_bytes();
        work();
        println!("{what} {}", peak_bytes() - before);
    };
    let written = |name: &str| {
        let partial =
            PartialDirectory::create(disk(), &folder.join(name).with_extension("out"), Existing::Keep).unwrap();
        tokenize(&[folder.join(name)], &tokenizer, &options, partial, &|_| ()).unwrap();
    };
    written("small.jsonl");
    grown("tokenize", &|| written("large.jsonl"));
    let read = |name: &str| {
        let windows = TokenWindows::new(TokenShards::open(&folder.join(name)).unwrap(), 2048).unwrap();
        let order = Permutation::new(windows.len(), 1, 0);
        for index in 0..100 {
            let window = windows.read(order.at(index)).unwrap();
            assert_eq!(window.document_lengths.iter().sum::<usize>(), 2049);
        }
    };
    read("ten_million");
    grown("stream", &|| read("ten_billion"));
    grown("control", &|| assert!(fs::read(folder.join("large.jsonl")).unwrap().len() > LARGE_BYTES));
}

const LARGE_BYTES: usize = 100 << 20;

/// Rows of a long unknown word, which is one token.
#[cfg(target_os = "linux")]
fn write_rows(path: &Path, size_bytes: usize) {
    let row = format!("{{\"text\": \"{}\"}}\n", "x".repeat(10_000));
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    (0..=size_bytes / row.len()).for_each(|_| file.write_all(row.as_bytes()).unwrap());
}

/// Shards of zeros, which are holes on disk.
#[cfg(target_os = "linux")]
fn write_shards(directory: &Path, num_tokens: u64) {
    fs::create_dir(directory).unwrap();
    let file = fs::File::create(directory.join("tokens")).unwrap();
    file.set_len(2 * num_tokens).unwrap();
    fs::write(directory.join("documents"), [0, num_tokens / 3, num_tokens].map(u64::to_le_bytes).concat()).unwrap();
    let (tokens, documents) = ("tokens".to_owned(), "documents".to_owned());
    let shard = ShardRecord { tokens, documents, num_tokens, num_documents: 2 };
    let record = DatasetRecord {
        format: 2,
        dtype: TokenDtype::Uint16,
        vocab_size: 1,
        tokenizer_sha256: String::new(),
        eos_token_id: None,
        text_field: "text".to_owned(),
        shard_size_bytes: 1,
        train: SplitRecord { num_tokens, num_documents: 2, shards: vec![shard] },
        heldout: None,
        sources: Vec::new(),
    };
    fs::write(directory.join(DATASET), json!(record).to_string()).unwrap();
    assert!(TokenShards::open_on(&*disk(), directory, Split::HeldOut).is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_data() {
    let root = tempfile::tempdir().unwrap();
    write_rows(&root.path().join("small.jsonl"), LARGE_BYTES / 4);
    write_rows(&root.path().join("large.jsonl"), LARGE_BYTES);
    write_shards(&root.path().join("ten_million"), 10_000_000);
    write_shards(&root.path().join("ten_billion"), 10_000_000_000);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["tokenize::stream_in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, root.path())
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    let bytes = |what: &str| -> usize {
        let found = text.lines().find_map(|line| line.split_once(&format!("{what} "))).expect(what);
        found.1.trim().parse().unwrap()
    };
    println!("{text}");
    assert!(bytes("tokenize") <= 8 << 20, "{text}");
    assert!(bytes("stream") <= 1 << 20, "{text}");
    // What the peak would not show is no more than this lacks: the whole file, less what was free.
    assert!(bytes("control") >= LARGE_BYTES / 2, "{text}");
}
