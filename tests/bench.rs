//! `deepwide bench` as a process. The tests check that records are complete, never how fast the machine is.

use std::fs;
use std::path::Path;

use deepwide::config::DecoderConfig;
use deepwide::formats::write_hf_directory;
use deepwide::weights::MemoryWeights;
use serde_json::Value;

use crate::grow::{printed, run, tiny_base};

/// The fields of llama-bench in its order (tools/llama-bench, `test::get_fields`), `use_mmap` and `use_direct_io` of earlier versions
/// included, then those of its JSON.
const LLAMA_BENCH: [&str; 46] = [
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "cpu_mask",
    "cpu_strict",
    "poll",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "no_kv_offload",
    "flash_attn",
    "devices",
    "tensor_split",
    "tensor_buft_overrides",
    "use_mmap",
    "use_direct_io",
    "load_mode",
    "lazy_mode",
    "embeddings",
    "no_op_offload",
    "no_host",
    "repack",
    "fit_target",
    "fit_min_ctx",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
];

/// The fields that deepwide adds.
const OURS: [&str; 12] = [
    "test",
    "batch_size",
    "n_train",
    "dtype",
    "growth",
    "model_n_params_active",
    "flops",
    "ttft_ns",
    "peak_rss",
    "gpu_memory",
    "energy_j",
    "decoding",
];

const QUANTIZED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf/dense.gguf");

fn base(folder: &tempfile::TempDir) -> String {
    tiny_base(&folder.path().join("tiny")).to_str().unwrap().to_owned()
}

/// Runs `bench` on a model with further words and parses its records.
fn records(model: &str, words: &str) -> Vec<Value> {
    let words: Vec<&str> = ["bench", model, "-o", "json"].into_iter().chain(words.split_whitespace()).collect();
    serde_json::from_str::<Vec<Value>>(&printed(&words)).unwrap()
}

fn only(mut records: Vec<Value>) -> Value {
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

fn keys(record: &Value) -> Vec<&str> {
    record.as_object().unwrap().keys().map(String::as_str).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn records_have_the_fields_of_llama_bench_then_ours() {
    let folder = tempfile::tempdir().unwrap();
    let record = only(records(&base(&folder), "-p 3 -n 0 -r 2 -t 1"));
    let expected: Vec<&str> = LLAMA_BENCH.into_iter().chain(OURS).collect();
    assert_eq!(keys(&record), expected);
    let expected =
        [("n_threads", 1), ("n_prompt", 3), ("n_gen", 0), ("n_depth", 0), ("n_batch", 2048), ("n_ubatch", 512)];
    for (field, value) in expected {
        assert_eq!(record[field], value, "{field}");
    }
    // Nothing is on a GPU, weights are not mapped, attention is fused.
    assert_eq!(
        (&record["n_gpu_layers"], &record["use_mmap"], &record["flash_attn"]),
        (&0.into(), &false.into(), &1.into())
    );
    assert_eq!((&record["no_host"], &record["cpu_mask"]), (&Value::from(false), &Value::from("0x0")));
    let time = record["test_time"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
}

#[test]
fn summaries_are_those_of_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    let all = records(&base(&folder), "-p 4 -n 2 -pg 3,2 -r 3 --sequences 1,2 -t 1");
    let tests: Vec<_> =
        all.iter().map(|record| (record["test"].as_str().unwrap(), record["batch_size"].as_u64())).collect();
    let of = |batch| [("pp4", batch), ("tg2", batch), ("pp3+tg2", batch)];
    assert_eq!(tests, [of(Some(1)), of(Some(2))].concat());
    for record in &all {
        let (ns, ts) = (numbers(&record["samples_ns"]), numbers(&record["samples_ts"]));
        assert_eq!((ns.len(), ts.len()), (3, 3));
        let tokens = record["batch_size"].as_f64().unwrap()
            * (record["n_prompt"].as_f64().unwrap() + record["n_gen"].as_f64().unwrap());
        for (ns, ts) in ns.iter().zip(&ts) {
            assert!((ns * ts / 1e9 / tokens - 1.0).abs() < 1e-9, "{record}");
        }
        let mean = ts.iter().sum::<f64>() / 3.0;
        let deviation = (ts.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert!((record["avg_ts"].as_f64().unwrap() / mean - 1.0).abs() < 1e-9);
        assert!((record["stddev_ts"].as_f64().unwrap() - deviation).abs() < 1e-6 * mean);
        assert!(record["ttft_ns"].as_u64().unwrap() <= record["avg_ns"].as_u64().unwrap());
    }
    assert_eq!(all[3]["flops"].as_u64(), all[0]["flops"].as_u64().map(|flops| 2 * flops));
}

#[test]
fn growth_is_measured_without_writing_and_twin_layers_share_memory() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder);
    let before = fs::read_dir(folder.path()).unwrap().count();
    let words = "-p 2 -n 0 -r 1 -t 1 --no-warmup";
    let plain = only(records(&base, words));
    let deep = only(records(&base, &format!("{words} --dus 0")));
    let wide = only(records(&base, &format!("{words} --moe 4 --top-k 1")));
    let both = only(records(&base, &format!("{words} --dus 1 --moe 2")));
    let size = |record: &Value| record["model_size"].as_u64().unwrap();
    let total = |record: &Value| record["model_n_params"].as_u64().unwrap();
    // Two layers more have two norms of 32 numbers each of their own, and nothing else.
    assert_eq!(size(&deep), size(&plain) + 2 * 2 * 32 * 4);
    assert!(total(&deep) > total(&plain));
    assert!(size(&wide) > 2 * size(&plain));
    assert!(wide["model_n_params_active"].as_u64().unwrap() < total(&wide));
    assert_eq!(plain["model_n_params"], plain["model_n_params_active"]);
    assert_eq!(plain["growth"], "");
    assert!(deep["growth"].as_str().unwrap().contains("m = 0"));
    assert!(both["growth"].as_str().unwrap().contains("then"), "{both}");
    assert!(wide["model_type"].as_str().unwrap().starts_with("mixtral 4x1 "), "{wide}");
    assert!(deep["flops"].as_u64() > plain["flops"].as_u64());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
}

#[test]
fn matrices_have_the_precision_asked_for_or_that_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder);
    let words = "-p 2 -n 1 -r 1 -t 1 --no-warmup";
    let kept = |model: &str, option: &str| {
        let record = records(model, &format!("{words} {option}")).remove(0);
        (record["model_size"].as_u64().unwrap(), record["dtype"].as_str().unwrap().to_owned())
    };
    let (wide, dtype) = kept(&base, "");
    assert_eq!(dtype, "float32");
    let halves = [kept(&base, "--dtype bfloat16"), kept(&base, "--dtype float16")];
    assert!(halves.iter().all(|(size, _)| *size < wide), "{halves:?}");
    assert_eq!(halves.map(|(_, dtype)| dtype), ["bfloat16", "float16"]);
    let (eight, four) = (kept(&base, "--quant q8_0").0, kept(&base, "--quant q4_0").0);
    assert!(four < eight && eight < wide, "{four} {eight} {wide}");
    let (packed, widened) = (kept(QUANTIZED, ""), kept(QUANTIZED, "--dtype float32"));
    assert!(packed.0 < widened.0, "{packed:?} {widened:?}");
    assert_eq!(widened.1, "float32");
}

#[test]
fn equal_experts_that_share_memory_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let config = DecoderConfig::pico().with(|fields| fields.intermediate_size = 320).unwrap();
    let base = folder.path().join("whole-blocks");
    write_hf_directory(&MemoryWeights::untrained(config, 0.02, 1), None, None, &base).unwrap();
    let base = base.display();
    let told = |growth: &str| {
        let words = format!("bench {base} -p 2 -n 0 -r 1 -t 1 --no-warmup {growth}");
        let output = run(&words.split(' ').collect::<Vec<_>>());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let note = told("--moe 4 --quant q8_0");
    assert!(note.starts_with("note: whole-blocks: the 4 experts of a layer are one copy in memory; "), "{note}");
    for silent in ["--moe 4 --quant q8_0 --noise 0.1", "--moe 4", "--quant q8_0", "--moe 4 --quant q8_0 -q"] {
        assert_eq!(told(silent), "", "{silent}");
    }
}

#[test]
fn weights_beyond_the_memory_are_refused_before_loading() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["-p", "1", "-n", "0", "--stack", "16384", "--moe", "4096", "--noise", "0.1"];
    let (code, message) = refused(&[["bench", &base(&folder)].as_slice(), &words].concat());
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("pp1 of \"tiny\" needs at least ") && message.contains("(weights "), "{message}");
}

#[test]
fn training_steps_in_mixed_precision_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let all = records(&base(&folder), "--train 1x8 -n 1 -r 1 -t 1 --dtype bfloat16");
    let fields = |record: &Value| ["test", "dtype", "type_k"].map(|field| record[field].as_str().unwrap().to_owned());
    let found: Vec<[String; 3]> = all.iter().map(fields).collect();
    assert_eq!(found, [["tg1", "bfloat16", "f32"], ["train1x8", "bfloat16", "f32"]]);
    let size = |at: usize| all[at]["model_size"].as_u64().unwrap();
    assert!(size(1) > size(0), "the weights of training are float32");
}

#[test]
fn training_steps_have_the_same_fields() {
    let folder = tempfile::tempdir().unwrap();
    let all = records(&base(&folder), "--train 2x8,1x4 -r 2 -t 1 --moe 2 --top-k 1");
    let tests: Vec<&str> = all.iter().map(|record| record["test"].as_str().unwrap()).collect();
    assert_eq!(tests, ["train2x8", "train1x4"]);
    let first = &all[0];
    assert_eq!(keys(first).len(), LLAMA_BENCH.len() + OURS.len());
    assert_eq!((first["n_train"].as_u64(), first["batch_size"].as_u64()), (Some(8), Some(2)));
    assert!(first["ttft_ns"].is_null() && first["n_prompt"] == 0 && first["n_gen"] == 0);
    let (ns, ts) = (numbers(&first["samples_ns"]), numbers(&first["samples_ts"]));
    assert_eq!(ns.len(), 2);
    assert!((ns[0] * ts[0] / 1e9 - 16.0).abs() < 1e-6);
}

#[test]
fn all_formats_agree() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder);
    let printed_as =
        |format: &str| printed(&["bench", &base, "-p", "2,3", "-n", "0", "-r", "1", "-t", "1", "-o", format]);
    let lines: Vec<Value> = printed_as("jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let array: Vec<Value> = serde_json::from_str(&printed_as("json")).unwrap();
    assert_eq!((lines.len(), array.len()), (2, 2));
    assert_eq!(keys(&lines[0]), keys(&array[0]));

    let csv = printed_as("csv");
    let mut rows = csv.lines();
    let header: Vec<&str> = rows.next().unwrap().split(',').collect();
    let without_samples: Vec<&str> = keys(&array[0]).into_iter().filter(|key| !key.starts_with("samples_")).collect();
    assert_eq!(header, without_samples);
    let sql = printed_as("sql");
    assert!(
        sql.starts_with("CREATE TABLE IF NOT EXISTS llama_bench (\n  build_commit TEXT,\n  build_number INTEGER,\n"),
        "{sql}"
    );
    let columns: Vec<&str> = sql
        .lines()
        .skip(1)
        .take_while(|line| *line != ");")
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(columns, header);
    let inserts: Vec<&str> = sql.lines().filter(|line| line.starts_with("INSERT INTO llama_bench (")).collect();
    assert_eq!(inserts.len(), 2);
    assert!(inserts.iter().all(|insert| insert.contains(&header.join(", ")) && insert.ends_with(");")), "{sql}");
    let table = printed_as("md");
    let table: Vec<&str> = table.lines().collect();
    assert!(table[0].starts_with("| model ") && table[0].trim_end().ends_with("t/s |"), "{}", table[0]);
    assert!(table.last().unwrap().starts_with("build: "));
    // Everything but the times is the same in all formats.
    for (index, (line, row)) in array.iter().zip(rows).enumerate() {
        let cells: Vec<&str> = row.trim_matches('"').split("\",\"").collect();
        let cell = |name: &str| cells[header.iter().position(|field| *field == name).unwrap()];
        for field in ["model_type", "test", "backends", "cpu_info"] {
            assert_eq!(cell(field), line[field].as_str().unwrap());
        }
        for field in ["model_size", "model_n_params", "n_prompt", "flops"] {
            assert_eq!(cell(field), line[field].to_string());
            assert_eq!(lines[index][field], line[field]);
        }
        let found: Vec<&str> = table[2 + index].split('|').map(str::trim).collect();
        assert_eq!(found[1], line["model_type"].as_str().unwrap());
        assert_eq!(found[6], line["test"].as_str().unwrap());
        let (mean, deviation) = found[7].split_once(" ± ").unwrap();
        assert!(mean.parse::<f64>().unwrap() > 0.0 && deviation == "0.00", "{}", found[7]);
    }
}

/// Exit code and message of a run that is refused before it prints a result.
fn refused(words: &[&str]) -> (i32, String) {
    let output = run(words);
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_cannot_be_measured_is_refused_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder);
    let rows: [(&[&str], i32, &str); 17] = [
        (&["-p", "0", "-n", "0"], 2, "nothing to measure"),
        (&["-t", "0"], 2, "not from 1 to 4096"),
        (&["-npl", "1,0"], 2, "not from 1 to 4096"),
        (&["-r", "-1"], 2, "negative"),
        (&["-pg", "5"], 2, "PP,TG"),
        (&["--train", "4"], 2, "BxS"),
        (&["--train", "1x4", "--dtype", "float16"], 2, "--dtype float16 cannot be used with --train"),
        (&["--train", "1x4", "--quant", "q4_0"], 2, "--quant cannot be used with --train"),
        (&["--quant", "q4_0", "--dtype", "float16"], 2, "cannot be used with"),
        (&["--top-k", "2"], 2, "--moe"),
        (&["--device", "abacus"], 2, "abacus"),
        (&["-p", "100000"], 3, "pp100000 of \"tiny\" takes 100000 positions"),
        (&["--train", "1x100000"], 3, "train1x100000"),
        (&["--dus", "9"], 3, "9"),
        (&["--stack", "32768", "-p", "0", "-n", "1", "-d", "500", "-npl", "4096"], 6, "GiB), this machine has"),
        (&["--stack", "32768", "--train", "4096x500"], 6, "activations "),
        (&["--trace", "/no/such/folder/trace.json"], 1, "trace.json"),
    ];
    for (words, code, said) in rows {
        let (found, message) = refused(&[["bench", &base].as_slice(), words].concat());
        assert_eq!(found, code, "{words:?}: {message}");
        assert!(message.contains(said), "{words:?}: {message}");
    }
    let words = ["-p", "1", "-n", "0", "-r", "1", "-t", "1"];
    assert!(run(&[["bench", &base].as_slice(), &words].concat()).status.success(), "the base is sound");
}

#[test]
fn options_of_llama_bench_are_accepted_or_explained() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder);
    let said = |words: &str| {
        let words = format!("bench -o jsonl -r 1 -t 1 -n 0 --no-warmup {words}");
        let output = run(&words.split_whitespace().collect::<Vec<_>>());
        let lines = String::from_utf8(output.stdout).unwrap();
        let tests: Vec<String> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|record| format!("{} b{}", record["test"].as_str().unwrap_or("none"), record["batch_size"]))
            .collect();
        (output.status.code().unwrap(), tests.join(" "), String::from_utf8(output.stderr).unwrap())
    };
    let rows: [(&str, &str, &str); 8] = [
        ("-p 2", "pp2 b1", ""),
        ("-p 2-6+2", "pp2 b1 pp4 b1 pp6 b1", ""),
        ("-p 2-8*2,3", "pp2 b1 pp4 b1 pp8 b1 pp3 b1", ""),
        (
            "-p 2 -b 2048 -ub 512",
            "pp2 b1",
            "note: --batch-size 2048 has no effect: a prompt is one pass; for sequences at once: --sequences (-npl)\nnote: --ubatch-size 512",
        ),
        ("-p 2 -npl 1,3", "pp2 b1 pp2 b3", ""),
        ("-p 2 -ngl 99", "pp2 b1", "note: --n-gpu-layers 99 has no effect: --device says where to compute\n"),
        ("-p 2 -fa 1 -mmp 0 --numa distribute", "pp2 b1", "note: --flash-attn 1"),
        ("-p 2 -ctk f32 -embd 0 --delay 0 --progress", "pp2 b1", "test 1/1: pp2\n"),
    ];
    for (words, tests, notes) in rows {
        let (code, found, stderr) = said(&format!("-m {base} {words}"));
        assert_eq!((code, found.as_str()), (0, tests), "{words}: {stderr}");
        assert!(stderr.starts_with(notes) && stderr.is_empty() == notes.is_empty(), "{words}: {stderr}");
    }
    for (words, answer) in [
        ("-ctk q8_0", "--cache-type-k q8_0: keys and values are in float32"),
        ("-hf a/b", "org/name"),
        ("-embd 1", "head"),
    ] {
        let words = format!("bench {base} {words}");
        let (code, message) = refused(&words.split_whitespace().collect::<Vec<_>>());
        assert!(code == 2 && message.contains(answer), "{words}: {message}");
    }
    let (_, _, stderr) = said(&format!("-m {base} -p 2 -t 65"));
    assert!(stderr.starts_with("warning: 65 threads on "), "{stderr}");
}

#[test]
fn numbers_of_any_size_are_refused_without_an_abort() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder);
    let options = [
        "-p",
        "-n",
        "-d",
        "-t",
        "-r",
        "--sequences",
        "--delay",
        "-pg",
        "--train",
        "--dus",
        "--stack",
        "--identity-blocks",
        "--moe",
        "--granularity",
    ];
    for option in options {
        for number in ["18446744073709551615", "4000000000", "99999999999999999999999", "-1"] {
            let value = match option {
                "-pg" => format!("{number},{number}"),
                "--train" => format!("1x{number}"),
                _ => number.to_owned(),
            };
            let (code, message) = refused(&["bench", &base, option, &value]);
            assert!([2, 3, 6].contains(&code) && message.contains(number), "{option} {number}: {code} {message}");
        }
    }
    let (code, message) = refused(&["bench", &base, "-p", "1-4096", "-d", "1-4096", "--sequences", "1-4096"]);
    assert!(code == 2 && message.contains("tests, expected at most"), "{message}");
}

#[test]
fn a_failure_is_json_if_records_are() {
    for (format, is_json) in [("json", true), ("jsonl", true), ("md", false), ("csv", false)] {
        let output = run(&["bench", "./no-such-model", "-o", format]);
        assert_eq!(output.status.code(), Some(4));
        let object = serde_json::from_slice::<Value>(&output.stdout);
        assert_eq!(object.is_ok_and(|object| object["error"]["code"] == 4), is_json, "{format}");
        assert_eq!(output.stderr.is_empty(), is_json, "{format}");
    }
}

#[test]
fn quantizing_a_quantized_file_is_noted() {
    let words = ["bench", QUANTIZED, "-p", "2", "-n", "0", "-r", "1", "-t", "1", "--quant", "q4_0"];
    let note = String::from_utf8(run(&words).stderr).unwrap();
    assert!(note.contains("quantized already"), "{note}");
    assert_eq!(run(&words[..words.len() - 2]).stderr, b"");
}

#[test]
fn a_missing_or_broken_model_is_refused_before_measuring() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder);
    let (code, message) = refused(&["bench", &base, "./no-such-model", "-p", "1", "-n", "0"]);
    assert!(code == 4 && message.contains("no-such-model"), "{code} {message}");
    let broken = folder.path().join("broken");
    fs::create_dir(&broken).unwrap();
    for entry in fs::read_dir(&base).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, broken.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(broken.join("config.json"), "{").unwrap();
    let (code, message) = refused(&["bench", &base, broken.to_str().unwrap(), "-p", "1", "-n", "0"]);
    assert!(code == 3 && message.contains("config.json"), "{code} {message}");
}

/// A complete event of a Chrome trace.
struct Event {
    name: String,
    start: f64,
    end: f64,
}

fn events(trace: &Path) -> Vec<(String, Vec<Event>)> {
    let trace: Value = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
    let mut tracks: Vec<(String, Vec<Event>)> = Vec::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        match event["ph"].as_str().unwrap() {
            "M" => tracks.push((event["args"]["name"].as_str().unwrap().to_owned(), Vec::new())),
            "X" => {
                let (start, dur) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                let name = event["name"].as_str().unwrap().to_owned();
                tracks.last_mut().unwrap().1.push(Event { name, start, end: start + dur });
            }
            other => panic!("{other}"),
        }
    }
    tracks
}

/// Names of the spans, each with those around it.
fn paths(events: &[Event]) -> Vec<String> {
    let mut around: Vec<&Event> = Vec::new();
    let mut paths = Vec::new();
    for event in events {
        // Times are rounded to the picosecond.
        while around.last().is_some_and(|outer| event.start >= outer.end - 1e-6) {
            around.pop();
        }
        assert!(around.iter().all(|outer| event.end <= outer.end + 1e-6), "{} ends late", event.name);
        around.push(event);
        paths.push(around.iter().map(|event| event.name.as_str()).collect::<Vec<_>>().join("/"));
    }
    paths
}

/// The share of the first span that its innermost ones cover.
fn coverage(events: &[Event]) -> f64 {
    let is_leaf = |index: usize| events.get(index + 1).is_none_or(|next| next.start >= events[index].end - 1e-6);
    let leaves = (0..events.len()).filter(|index| is_leaf(*index));
    leaves.map(|index| events[index].end - events[index].start).sum::<f64>() / (events[0].end - events[0].start)
}

/// Traces a prompt, decoding and training of the built-in base, grown; checks the spans and returns the coverage of each.
fn traced(growth: &str, feed_forward: &str) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let pico = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/pico_base");
    let words = format!("-p 16 -n 2 --train 1x8 -r 1 -t 1 {growth} --trace {}", trace.display());
    assert_eq!(records(pico, &words).len(), 3);
    let tracks = events(&trace);
    assert_eq!(tracks.len(), 3);
    for (name, events) in &tracks {
        let paths = paths(events);
        let has = |path: &str| paths.iter().filter(|found| *found == path).count();
        let forward = if name.contains("train") { "repetition/forward" } else { "repetition" };
        let passes = if name.contains("tg2") { 2 } else { 1 };
        for part in ["embedding", "rotation", "layer 7", "layer 0/self_attn/qkv_proj", "layer 0/self_attn/attention"] {
            assert_eq!(has(&format!("{forward}/{part}")), passes, "{name}: {part}");
        }
        // In training, the head is computed inside the loss.
        let head = if name.contains("train") { "repetition/loss/lm_head" } else { "repetition/lm_head" };
        assert_eq!(has(head), passes, "{name}: {head}");
        assert_eq!(has(&format!("{forward}/layer 3/{feed_forward}")), passes, "{name}");
        for part in ["loss", "backward", "clipping", "optimizer"] {
            assert_eq!(has(&format!("repetition/{part}")), usize::from(name.contains("train")), "{name}: {part}");
        }
    }
    tracks.iter().map(|(_, events)| coverage(events)).collect()
}

#[test]
fn a_trace_shows_where_the_time_goes() {
    for (growth, feed_forward) in [("", "mlp/down_proj"), ("--moe 2 --top-k 1", "moe/experts")] {
        // Waiting for a core between two spans lowers the coverage, so the best of some runs counts.
        let mut best = vec![0.0; 3];
        for _ in 0..10 {
            let covered = traced(growth, feed_forward);
            assert!(covered.iter().all(|share| *share <= 1.0 + 1e-9), "{covered:?}");
            best.iter_mut().zip(covered).for_each(|(best, share)| *best = f64::max(*best, share));
            if best.iter().all(|share| *share >= 0.9) {
                break;
            }
        }
        assert!(best.iter().all(|share| *share >= 0.9), "{growth}: {best:?}");
    }
}

#[test]
fn coverage_excludes_gaps_between_spans() {
    let event = |name: &str, start: f64, end: f64| Event { name: name.to_owned(), start, end };
    let events = [event("a", 0.0, 10.0), event("b", 0.0, 4.0), event("c", 1.0, 3.0), event("d", 6.0, 10.0)];
    assert_eq!(coverage(&events), 0.6);
    assert_eq!(paths(&events), ["a", "a/b", "a/b/c", "a/d"]);
}
