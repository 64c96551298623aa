//! The cache on disk: what counts as a model, and how its links are made.

use std::fs;
use std::path::{Path, PathBuf};

use super::server::{COMMIT, Hub, etag_of};
use super::{Client, faulty, hub, names, weights};

/// A client without a network.
fn offline() -> Client {
    let mut client = Client::at("http://hub.invalid".to_owned());
    client.settings.offline = true;
    client
}

/// Puts text into the cache of `org/name`.
fn write(client: &Client, name: &str, text: &str) {
    let path = client.model().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The first thing that the cache lacks.
fn missing(client: &Client, reference: &str) -> String {
    let message = client.download(reference).unwrap_err().to_string();
    message.split('(').nth(1).unwrap().split(" is missing").next().unwrap().trim_matches('"').to_owned()
}

/// The cache as `huggingface_hub` 2.4 leaves it after `snapshot_download("org/name")`.
#[cfg(unix)]
fn python_cache() -> (Client, PathBuf) {
    let client = offline();
    write(&client, "refs/main", COMMIT);
    let snapshot = client.model().join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    for (name, etag) in [("config.json", "c0"), ("model.safetensors", "a1"), ("tokenizer.json", "b2")] {
        write(&client, &format!("blobs/{etag}"), name);
        std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), snapshot.join(name)).unwrap();
    }
    (client, snapshot)
}

#[cfg(unix)]
#[test]
fn a_cache_of_python_is_found_by_branch_and_commit() {
    let (client, snapshot) = python_cache();
    for reference in ["org/name".to_owned(), format!("org/name@{COMMIT}")] {
        assert_eq!(client.cached(&reference).unwrap(), snapshot);
    }
    assert_eq!(missing(&client, "org/name@other"), "revision other");
    assert_eq!(missing(&client, "org/name/x.gguf"), "x.gguf");
    fs::remove_file(client.model().join("blobs/a1")).unwrap();
    assert_eq!(missing(&client, "org/name"), "model.safetensors", "a link to nothing is no file");
}

#[cfg(unix)]
#[test]
fn a_commit_may_be_known_to_have_no_tokenizer() {
    let (mut client, snapshot) = python_cache();
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    assert!(client.cached("org/name").is_some(), "without a network it is all there can be");
    client.settings.offline = false;
    assert_eq!(client.cached("org/name"), None);
    write(&client, &format!(".no_exist/{COMMIT}/tokenizer.json"), "");
    assert_eq!(client.cached("org/name").unwrap(), snapshot);
}

#[test]
fn a_ref_must_be_a_commit() {
    let client = offline();
    write(&client, "config.json", "{}");
    write(&client, "model.safetensors", "");
    for wrong in ["../../models--org--name", "..", "main", ""] {
        write(&client, "refs/main", wrong);
        fs::create_dir_all(client.model().join("snapshots/main")).unwrap();
        assert_eq!(missing(&client, "org/name"), "revision main");
    }
}

#[test]
fn a_snapshot_is_complete_with_config_and_every_shard() {
    let client = offline();
    write(&client, "refs/main", COMMIT);
    let put = |name: &str, text: &str| write(&client, &format!("snapshots/{COMMIT}/{name}"), text);
    let index = "model.safetensors.index.json";
    put("README.md", "");
    assert_eq!(missing(&client, "org/name"), "model.safetensors");
    put(index, r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}"#);
    assert_eq!(missing(&client, "org/name"), "config.json");
    put("config.json", "{}");
    put("1.safetensors", "");
    assert_eq!(missing(&client, "org/name"), "2.safetensors");
    put("2.safetensors", "");
    assert!(client.cached("org/name").is_some());
    assert_eq!(missing(&client, "org/name/x.gguf"), "x.gguf");
    put(index, "<html>");
    assert_eq!(missing(&client, "org/name"), "model.safetensors");
    put(index, r#"{"weight_map": {"a": "../../refs/main"}}"#);
    assert_eq!(missing(&client, "org/name"), "../../refs/main", "a shard does not lie elsewhere");
}

#[cfg(unix)]
#[test]
fn a_link_is_relative_and_replaces_a_wrong_one() {
    let server = faulty(Hub { files: [("a/b/m.gguf".to_owned(), b"GGUF".to_vec())].into(), ..hub() }, |_, _| None);
    let client = Client::of(&server);
    write(&client, "blobs/wrong", "wrong");
    let pointer = client.model().join("snapshots").join(COMMIT).join("a/b/m.gguf");
    fs::create_dir_all(pointer.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("../../../../blobs/wrong", &pointer).unwrap();
    assert_eq!(fs::read_to_string(&pointer).unwrap(), "wrong");
    assert_eq!(client.download("org/name/a/b/m.gguf").unwrap(), pointer);
    let target = format!("../../../../blobs/{}", etag_of("m.gguf", b"GGUF"));
    assert_eq!(fs::read_link(&pointer).unwrap(), Path::new(&target));
    assert_eq!(fs::read_to_string(&pointer).unwrap(), "GGUF");
}

#[test]
fn concurrent_downloads_leave_one_link_of_each_file() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    for _ in 0..10 {
        let snapshot = client.model().join("snapshots");
        let _ = fs::remove_dir_all(&snapshot);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| client.download("org/name@refs/pr/1").unwrap());
            }
        });
        let snapshot = snapshot.join(COMMIT);
        assert_eq!(names(&snapshot).len(), 5, "{:?}", names(&snapshot));
        assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), weights());
        assert_eq!(names(&client.model().join("refs/refs/pr")), ["1"], "no partial file is left");
    }
    assert_eq!(server.gets_of("model.safetensors").len(), 1);
}
