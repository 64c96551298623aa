//! The real program, killed and interrupted while it writes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use deepwide::formats::HfDirectory;

use super::{deepwide, names, printed, run, tiny_base};

/// A base whose embeddings are a hole of `megabytes` in the file: no disk space, but bytes to copy.
fn sparse_base(path: &Path, megabytes: u64) -> PathBuf {
    tiny_base(path);
    let vocab_size = (megabytes << 20) / (32 * 2);
    let config = path.join("config.json");
    let text =
        fs::read_to_string(&config).unwrap().replace("\"vocab_size\": 64", &format!("\"vocab_size\": {vocab_size}"));
    fs::write(&config, text).unwrap();
    let weights = path.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_bytes as usize]).unwrap();
    let (mut entries, mut begin) = (serde_json::Map::new(), 0);
    for (name, entry) in header.as_object().unwrap() {
        let mut entry = entry.clone();
        if name != "__metadata__" {
            if name == "model.embed_tokens.weight" {
                entry["shape"] = serde_json::json!([vocab_size, 32]);
            }
            let size: u64 = entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>() * 2;
            entry["data_offsets"] = serde_json::json!([begin, begin + size]);
            begin += size;
        }
        entries.insert(name.clone(), entry);
    }
    let header = serde_json::Value::Object(entries).to_string();
    let mut file = fs::File::create(&weights).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + begin).unwrap();
    path.to_owned()
}

fn growing(base: &Path, out: &Path) -> Child {
    let mut command = deepwide();
    command.args(["grow", "--dus", "0"]).arg(base).arg(out).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until a partial directory has an entry, or the child has ended.
fn wait_for_partial(folder: &Path, child: &mut Child) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none() {
        let is_partial = |name: &String| {
            name.contains(".deepwide-partial-") && fs::read_dir(folder.join(name)).is_ok_and(|mut d| d.next().is_some())
        };
        if names(folder).iter().any(is_partial) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_at_any_moment_the_output_is_complete_or_absent() {
    let root = tempfile::tempdir().unwrap();
    let base = sparse_base(&root.path().join("base"), 24);
    let folder = root.path().join("run");
    let (mut killed_early, mut ended) = (0, 0);
    let start = Instant::now();
    let full_run = {
        fs::create_dir(&folder).unwrap();
        assert!(growing(&base, &folder.join("out")).wait().unwrap().success());
        fs::remove_dir_all(&folder).unwrap();
        start.elapsed()
    };
    let kills = 24;
    for i in 0..kills {
        fs::create_dir(&folder).unwrap();
        let out = folder.join("out");
        let mut child = growing(&base, &out);
        std::thread::sleep(full_run * i / kills);
        let _too_late = child.kill();
        child.wait().unwrap();
        if out.exists() {
            ended += 1;
        } else {
            killed_early += 1;
            let mut again = growing(&base, &out);
            assert!(again.wait().unwrap().success());
        }
        printed(&["verify", out.to_str().unwrap()]);
        HfDirectory::open(&out).unwrap();
        assert_eq!(names(&folder), ["out"]);
        fs::remove_dir_all(&folder).unwrap();
    }
    assert!(killed_early > 3, "{killed_early} of {} kills came during the run", killed_early + ended);
}

/// As [`growing`], of a program that takes signals.
#[cfg(target_os = "linux")]
fn growing_for_signals(base: &Path, out: &Path) -> Child {
    let mut command = super::deepwide_for_signals();
    command
        .args(["grow", "-q", "--dus", "0"])
        .arg(base)
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[cfg(target_os = "linux")]
fn send(signal: &str, child: &Child) {
    let sent = std::process::Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
    assert!(sent.unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_cleans_up_and_sets_the_exit_code() {
    let root = tempfile::tempdir().unwrap();
    let base = sparse_base(&root.path().join("base"), 4000);
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let folder = root.path().join(signal);
        fs::create_dir(&folder).unwrap();
        let mut child = growing_for_signals(&base, &folder.join("out"));
        wait_for_partial(&folder, &mut child);
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "after SIG{signal}");
        let message = String::from_utf8_lossy(&output.stderr);
        let out = folder.join("out");
        assert_eq!(message, format!("error: stopped by signal {}: {out:?} is as it was before\n", code - 128));
        assert!(names(&folder).is_empty(), "after SIG{signal}: {:?}", names(&folder));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_during_a_check_ends_it_and_keeps_the_output() {
    let root = tempfile::tempdir().unwrap();
    // Forty times a million logits take longer to compare than a signal takes to arrive.
    let base = sparse_base(&root.path().join("base"), 64);
    let text = root.path().join("text");
    fs::write(&text, (0..40).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let folder = root.path().join(signal);
        fs::create_dir(&folder).unwrap();
        let out = folder.join("out");
        let mut command = super::deepwide_for_signals();
        command.args(["grow", "--dus", "0", "--json", "--check", "--check-text"]).args([&text, &base, &out]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        while !out.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none(), "the check still runs");
        send(signal, &child);
        let start = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "after SIG{signal}");
        assert!(start.elapsed() < Duration::from_secs(1), "SIG{signal}: {:?}", start.elapsed());
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["error"]["code"], code);
        let message = object["error"]["message"].as_str().unwrap();
        assert!(message.contains("during --check") && message.contains("is complete, but not checked"), "{message}");
        assert_eq!(names(&folder), ["out"]);
        printed(&["verify", out.to_str().unwrap()]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_hang_up_that_was_ignored_at_the_start_stays_ignored() {
    let root = tempfile::tempdir().unwrap();
    let base = sparse_base(&root.path().join("base"), 400);
    let folder = root.path().join("run");
    fs::create_dir(&folder).unwrap();
    let mut command = std::process::Command::new("env");
    command.args(["--ignore-signal=HUP", env!("CARGO_BIN_EXE_deepwide"), "grow", "--dus", "0"]);
    command.arg(&base).arg(folder.join("out")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_for_partial(&folder, &mut child);
    send("HUP", &child);
    assert!(child.wait().unwrap().success(), "as under nohup");
    assert_eq!(names(&folder), ["out"]);
}

#[test]
fn an_output_larger_than_the_disk_is_refused_before_the_first_byte() {
    let root = tempfile::tempdir().unwrap();
    let base = sparse_base(&root.path().join("base"), 4 << 20);
    let out = root.path().join("out");
    let output = run(&["grow", "--dus", "0", base.to_str().unwrap(), out.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("are free there"), "{message}");
    assert_eq!(names(root.path()), ["base"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_not_a_signal() {
    let root = tempfile::tempdir().unwrap();
    let base = sparse_base(&root.path().join("base"), 8);
    let folder = root.path().join("run");
    fs::create_dir(&folder).unwrap();
    let program = env!("CARGO_BIN_EXE_deepwide");
    // In blocks of 1024 or 512 bytes: less than the weights in either case.
    let script = format!("ulimit -f 4000; exec {program} grow --dus 0 '{}' '{}/out'", base.display(), folder.display());
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("File too large"));
    assert!(names(&folder).is_empty());
}
