//! Downloads with the real client into a real cache, from a local server that fails on request.

mod cache;
mod data_sets;
mod faults;
mod names;
mod protocol;
mod safety;
mod server;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deepwide::hub::{HubError, HubReference, HubSettings, Progress, Token, cached, download};
use server::{COMMIT, Hub, Reply, Request, Server, etag_of};

use crate::grow::names;

/// No message may contain it.
const SECRET: &str = "hf_SecretOfTheTests";

/// Weights of more than a few packets.
fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A model with a config, a tokenizer, weights, and a pickle, which is never downloaded.
fn hub() -> Hub {
    Hub::with(&[
        ("README.md", b"# name"),
        ("config.json", b"{\"model_type\": \"llama\"}"),
        ("generation_config.json", b"{}"),
        ("model.safetensors", &weights()),
        ("pytorch_model.bin", b"\x80\x02"),
        ("tokenizer.json", b"{\"version\": \"1.0\"}"),
    ])
}

/// A cache and the settings to reach one server. Waits are recorded and skipped.
struct Client {
    cache: tempfile::TempDir,
    settings: HubSettings,
    waits: Arc<Mutex<Vec<Duration>>>,
}

impl Client {
    fn of(server: &Server) -> Self {
        Self::at(server.url())
    }

    fn at(endpoint: String) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let mut settings = HubSettings::new(cache.path().join("hub"));
        settings.endpoint = endpoint;
        settings.token = Some(Token::new(SECRET).unwrap());
        let waits: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let noted = waits.clone();
        settings.patience.sleep = Arc::new(move |wait| noted.lock().unwrap().push(wait));
        Self { cache, settings, waits }
    }

    fn without_token(mut self) -> Self {
        self.settings.token = None;
        self
    }

    fn download(&self, reference: &str) -> Result<PathBuf, HubError> {
        download(&reference.parse().unwrap(), &self.settings, &mut |_| {})
    }

    /// The error of a failing download, and its message. No branch may point to an incomplete model.
    fn failure(&self, reference: &str) -> (HubError, String) {
        let error = self.download(reference).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains(SECRET) && !shown.contains("Signature"), "{shown}");
        }
        assert!(!self.model().join("refs/main").exists(), "a branch points to an incomplete model");
        let message = error.to_string();
        (error, message)
    }

    fn cached(&self, reference: &str) -> Option<PathBuf> {
        cached(&reference.parse().unwrap(), &self.settings)
    }

    fn model(&self) -> PathBuf {
        self.settings.cache.join("models--org--name")
    }

    fn blob(&self, name: &str, bytes: &[u8]) -> PathBuf {
        self.model().join("blobs").join(etag_of(name, bytes))
    }

    fn waits_s(&self) -> Vec<f64> {
        self.waits.lock().unwrap().iter().map(Duration::as_secs_f64).collect()
    }

    /// Asserts that the weights are those of the hub.
    fn has_weights(&self, snapshot: &Path) {
        assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), weights());
        assert!(self.cached("org/name").is_some_and(|path| path == snapshot));
    }
}

/// A server of `hub`; `fault` may answer first.
fn faulty(hub: Hub, fault: impl Fn(&Hub, &Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    Server::start(move |request| fault(&hub, request).unwrap_or_else(|| hub.reply(request)))
}

#[test]
fn the_cache_has_the_layout_of_python() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    assert_eq!(client.cached("org/name"), None);
    let snapshot = client.download("org/name").unwrap();
    assert_eq!(snapshot, client.model().join("snapshots").join(COMMIT));
    let wanted = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(names(&snapshot), wanted, "the card has the licence");
    assert_eq!(std::fs::read_to_string(client.model().join("refs/main")).unwrap(), COMMIT);
    client.has_weights(&snapshot);
    let blob = format!("../../blobs/{}", etag_of("model.safetensors", &weights()));
    #[cfg(unix)]
    assert_eq!(std::fs::read_link(snapshot.join("model.safetensors")).unwrap(), Path::new(&blob));
    assert_eq!(names(&client.model().join("blobs")).len(), 5, "no partial file is left");
    assert!(server.gets_of("pytorch_model.bin").is_empty());
}

#[test]
fn a_cached_model_is_not_downloaded_again() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    let snapshot = client.download("org/name").unwrap();
    let asked = server.asked().len();
    assert_eq!(client.cached("org/name").unwrap(), snapshot);
    assert_eq!(client.cached(&format!("org/name@{COMMIT}")).unwrap(), snapshot);
    assert_eq!(server.asked().len(), asked, "looking into the cache needs no network");
    assert_eq!(client.download("org/name").unwrap(), snapshot);
    assert_eq!(server.gets_of("model.safetensors").len(), 1);
    assert_eq!(server.gets_of("/config.json").len(), 1);
}

#[test]
fn a_sharded_model_is_its_index_and_the_shards_that_it_names() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("consolidated.safetensors", b"all"),
    ];
    let server = faulty(Hub::with(&files), |_, _| None);
    let client = Client::of(&server);
    let snapshot = client.download("org/name@refs/pr/1").unwrap();
    let expected = ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(names(&snapshot), expected);
    assert_eq!(client.cached("org/name@refs/pr/1").unwrap(), snapshot, "the commit is known to have no tokenizer");
    assert_eq!(client.cached("org/name"), None, "the default branch is not cached");
    let asked = server.asked();
    let at = |end: &str| asked.iter().position(|request| request.is_get_of(end)).unwrap();
    assert!(at("index.json") < at("model-1.safetensors"));

    let unnamed: Vec<_> = files.iter().filter(|(name, _)| *name != "model-2.safetensors").copied().collect();
    let server = faulty(Hub::with(&unnamed), |_, _| None);
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::Absent(_)) && message.contains("model-2.safetensors"), "{message}");
    assert!(server.gets_of("model-1.safetensors").is_empty(), "no shard of an incomplete model is fetched");
}

#[test]
fn a_gguf_file_is_downloaded_alone() {
    let server =
        faulty(Hub::with(&[("q/m-Q4_0.gguf", b"GGUF"), ("m-Q8_0.gguf", b"GGUF8"), ("config.json", b"{}")]), |_, _| {
            None
        });
    let client = Client::of(&server);
    let path = client.download("org/name/q/m-Q4_0.gguf").unwrap();
    assert!(path.ends_with(format!("snapshots/{COMMIT}/q/m-Q4_0.gguf")), "{path:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"GGUF");
    assert_eq!(client.cached("org/name/q/m-Q4_0.gguf").unwrap(), path);
    assert_eq!(client.cached("org/name/m-Q8_0.gguf"), None);
    assert_eq!(server.gets_of(".gguf").len(), 1);
    let message = Client::of(&server).failure("org/name").1;
    assert!(message.contains("m-Q8_0.gguf, q/m-Q4_0.gguf") && message.contains("no safetensors"), "{message}");
}

#[test]
fn the_only_gguf_of_a_model_without_safetensors_is_the_model() {
    let parts: [(&str, &[u8]); 2] = [("m-00001-of-00002.gguf", b"GGUF1"), ("m-00002-of-00002.gguf", b"GGUF2")];
    let server = faulty(Hub::with(&parts), |_, _| None);
    let client = Client::of(&server);
    let path = client.download("org/name").unwrap();
    assert!(path.ends_with("m-00001-of-00002.gguf"), "{path:?}");
    for (name, bytes) in parts {
        assert_eq!(std::fs::read(path.with_file_name(name)).unwrap(), bytes);
    }
    for reference in ["org/name", "org/name/m-00001-of-00002.gguf"] {
        assert_eq!(client.cached(reference).unwrap(), path, "{reference}");
    }
    std::fs::remove_file(path.with_file_name(parts[1].0)).unwrap();
    assert_eq!(client.cached("org/name"), None, "a part is missing");
}

#[test]
fn a_cached_gguf_does_not_replace_the_safetensors() {
    let server =
        faulty(Hub::with(&[("m.gguf", b"GGUF"), ("config.json", b"{}"), ("model.safetensors", b"one")]), |_, _| None);
    let client = Client::of(&server);
    client.download("org/name/m.gguf").unwrap();
    assert_eq!(client.cached("org/name"), None);
    assert!(client.download("org/name").unwrap().is_dir());
}

#[test]
fn progress_reports_the_commit_every_file_and_its_bytes() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    let (mut commit, mut files, mut arrived) = (String::new(), Vec::new(), 0);
    let reference: HubReference = "org/name".parse().unwrap();
    download(&reference, &client.settings, &mut |progress| match progress {
        Progress::Resolved(found) => commit = found.to_owned(),
        Progress::File { name, size_bytes } => files.push((name.to_owned(), size_bytes.unwrap())),
        Progress::Arrived(bytes) => arrived = bytes,
        Progress::Waiting { reason, .. } => panic!("{reason}"),
    })
    .unwrap();
    assert_eq!((commit.as_str(), arrived), (COMMIT, 300_000));
    assert_eq!(files[0], ("config.json".to_owned(), 23));
    assert_eq!(files.last().unwrap(), &("model.safetensors".to_owned(), 300_000));
}
