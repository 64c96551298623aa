//! Safety: no answer of the hub may leak the token, write outside the cache, or mix two models.

use std::fs::File;
use std::sync::mpsc;
use std::time::Duration;

use deepwide::cli::Failure;
use deepwide::cli::hub::locate_with;
use deepwide::error::ErrorKind;
use deepwide::hub::{HubError, Progress, download};

use super::server::{COMMIT, Hub, Reply, Server, etag_of};
use super::{Client, SECRET, faulty, hub, names, weights};

const WEIGHTS: &str = "model.safetensors";

#[test]
fn cached_files_are_checked_by_size_and_on_request_by_hash() {
    let server = faulty(hub(), |_, _| None);
    let mut client = Client::of(&server);
    client.download("org/name").unwrap();
    let blob = client.blob(WEIGHTS, &weights());
    let gets = || server.gets_of(WEIGHTS).len();
    std::fs::write(&blob, &weights()[..1000]).unwrap();
    client.has_weights(&client.download("org/name").unwrap());
    assert_eq!(gets(), 2, "a file of the wrong size was fetched again");
    let mut altered = weights();
    altered[7] ^= 1;
    std::fs::write(&blob, &altered).unwrap();
    client.download("org/name").unwrap();
    assert_eq!((gets(), std::fs::read(&blob).unwrap()), (2, altered), "the hash is checked only on request");
    client.settings.verify = true;
    client.has_weights(&client.download("org/name").unwrap());
    assert_eq!(gets(), 3);
    client.download("org/name").unwrap();
    assert_eq!(gets(), 3, "a file with the right hash stays");
}

#[test]
fn a_name_that_leads_out_of_the_cache_is_refused() {
    for name in
        ["../evil.safetensors", "/evil.json", "C:\\evil.json", "\\\\server\\evil", "a/../../evil", "evil\n.json"]
    {
        let server = faulty(Hub { ghosts: vec![name.to_owned()], ..hub() }, |_, _| None);
        let client = Client::of(&server);
        let (error, message) = client.failure("org/name");
        assert!(matches!(error, HubError::UnsafeName(_)) && error.kind() == ErrorKind::Invalid, "{message}");
        assert!(message.contains("evil") && !message.contains('\n'), "{message}");
        assert!(!client.settings.cache.exists(), "nothing was created");
    }
    let index = br#"{"weight_map": {"a": "../../../evil.safetensors"}}"#;
    let sharded = Hub::with(&[("config.json", b"{}"), ("model.safetensors.index.json", index)]);
    let (error, message) = Client::of(&faulty(sharded, |_, _| None)).failure("org/name");
    assert!(matches!(error, HubError::UnsafeName(_)) && message.contains("evil"), "{message}");
    let named = faulty(hub(), |hub, request| {
        (request.method == "HEAD")
            .then(|| hub.reply(request).with("ETag", "\"../../../evil\"").without("X-Linked-Etag"))
    });
    let client = Client::of(&named);
    let (error, message) = client.failure("org/name");
    assert!(matches!(error, HubError::UnsafeName(_)) && message.contains("evil"), "{message}");
    assert_eq!(names(client.cache.path()), ["hub"]);
}

#[test]
fn only_the_hub_gets_the_token() {
    let storage = faulty(hub(), |hub, request| Some(hub.reply_of_storage(request)));
    let server = faulty(Hub { storage: Some(storage.url()), ..hub() }, |_, request| {
        // A model that has moved: the redirect stays on the Hub, and so may the token.
        let moved = request.target.strip_prefix("/api/models/old/name")?;
        Some(Reply::new(307, "").with("Location", format!("/api/models/org/name{moved}")))
    });
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    let bearer = format!("Bearer {SECRET}");
    let asked = server.asked();
    assert!(asked.iter().all(|request| request.header("Authorization") == Some(&bearer)), "{asked:?}");
    let asked = storage.asked();
    assert_eq!(asked.len(), 1, "the large file came from the storage");
    assert_eq!(asked[0].header("Authorization"), None);
    assert!(asked[0].target.contains("Signature"), "the signed address is used");
    let before = server.asked().len();
    let _ = client.download("old/name");
    let redirected = &server.asked()[before..];
    assert!(redirected.iter().any(|request| request.target.starts_with("/api/models/org/name")), "{redirected:?}");
    assert!(redirected.iter().all(|request| request.header("Authorization") == Some(&bearer)));
}

#[test]
fn redirects_end() {
    let server = Server::start(|request| Reply::new(302, "").with("Location", &request.target));
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::Answer { .. }) && message.contains("more than 10"), "{message}");
    let server = Server::start(|_| Reply::new(302, "").with("Location", format!("ftp://host/{SECRET}")));
    assert!(Client::of(&server).failure("org/name").1.contains("neither http nor https"));
}

#[test]
fn no_message_contains_the_token() {
    for status in [400, 401, 403, 404, 418, 429, 500, 200] {
        for echo in
            [format!("{{\"error\": \"{SECRET} is wrong\"}}"), format!("{SECRET} is wrong"), format!("<{SECRET}>")]
        {
            let reply = Reply::new(status, echo.clone());
            let header = Reply::new(status, "").with("X-Error-Message", &echo);
            for reply in [reply, header] {
                let server = faulty(hub(), move |_, _| Some(reply.clone()));
                Client::of(&server).failure("org/name");
            }
        }
    }
    let server = faulty(hub(), |_, request| {
        request.target.contains("/api/").then(|| Reply::new(400, format!("{{\"error\": \"{SECRET} is wrong\"}}")))
    });
    assert!(Client::of(&server).failure("org/name").1.contains("[token] is wrong"), "the rest of the message is shown");
    let secret_commit = |_: &Hub, request: &super::Request| {
        request.target.contains("/api/").then(|| Reply::new(200, format!("{{\"sha\": \"{SECRET}\"}}")))
    };
    Client::of(&faulty(hub(), secret_commit)).failure("org/name");
    let name = Hub { ghosts: vec![format!("../{SECRET}")], ..hub() };
    Client::of(&faulty(name, |_, _| None)).failure("org/name");
    let etag = |hub: &Hub, request: &super::Request| {
        (request.method == "HEAD").then(|| hub.reply(request).with("ETag", format!("\"../{SECRET}\"")))
    };
    Client::of(&faulty(hub(), etag)).failure("org/name");
}

#[test]
fn offline_mode_sends_no_request() {
    let server = faulty(hub(), |_, _| None);
    let mut client = Client::of(&server);
    client.settings.offline = true;
    let (error, message) = client.failure("org/name");
    assert!(matches!(error, HubError::Offline(_)) && error.kind() == ErrorKind::NotFound);
    assert!(message.contains("org/name@main") && message.contains("HF_HUB_OFFLINE"), "{message}");
    assert!(server.asked().is_empty() && !client.settings.cache.exists());
    client.settings.offline = false;
    let snapshot = client.download("org/name").unwrap();
    let asked = server.asked().len();
    client.settings.offline = true;
    assert_eq!(client.download("org/name").unwrap(), snapshot);
    std::fs::remove_file(client.blob(WEIGHTS, &weights())).unwrap();
    let message = client.download("org/name").unwrap_err().to_string();
    assert!(message.contains("\"model.safetensors\" is missing"), "{message}");
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn concurrent_downloads_fetch_a_file_once() {
    let server = faulty(hub(), |hub, request| {
        if request.is_get_of(WEIGHTS) {
            std::thread::sleep(Duration::from_millis(200));
        }
        Some(hub.reply(request))
    });
    let client = Client::of(&server);
    std::thread::scope(|scope| {
        let downloads: Vec<_> = (0..3).map(|_| scope.spawn(|| client.download("org/name").unwrap())).collect();
        for download in downloads {
            client.has_weights(&download.join().unwrap());
        }
    });
    assert_eq!(server.gets_of(WEIGHTS).len(), 1);
}

#[test]
fn a_lock_of_python_is_respected() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    let locks = client.settings.cache.join(".locks/models--org--name");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = File::create(locks.join(format!("{}.lock", etag_of(WEIGHTS, &weights())))).unwrap();
    lock.lock().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let settings = &client.settings;
        let download = scope.spawn(move || {
            download(&"org/name".parse().unwrap(), settings, &mut |progress| {
                if let Progress::Waiting { reason, .. } = progress {
                    tell.send(reason.to_owned()).unwrap();
                }
            })
        });
        assert!(told.recv().unwrap().contains("another download"));
        assert!(server.gets_of(WEIGHTS).is_empty() && !download.is_finished());
        drop(lock);
        client.has_weights(&download.join().unwrap().unwrap());
    });
}

#[test]
fn every_file_is_of_one_commit() {
    let server = faulty(hub(), |_, _| None);
    Client::of(&server).download("org/name").unwrap();
    let files = server.asked().into_iter().filter(|request| request.target.contains("/resolve/"));
    let commits: Vec<bool> =
        files.map(|file| file.target.starts_with(&format!("/org/name/resolve/{COMMIT}/"))).collect();
    assert!(commits.len() >= 8 && commits.iter().all(|pinned| *pinned));
    let moved = "f".repeat(40);
    let server = faulty(hub(), move |hub, request| {
        let weights = request.method == "HEAD" && request.target.ends_with(WEIGHTS);
        weights.then(|| hub.reply(request).with("X-Repo-Commit", &moved))
    });
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::Answer { .. }) && message.contains("ffff"), "{message}");
}

#[test]
fn pickles_are_never_downloaded() {
    let pickles = Hub::with(&[("config.json", b"{}"), ("pytorch_model.bin", b"\x80\x02")]);
    let server = faulty(pickles, |_, _| None);
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::NoSafetensors(_)) && error.kind() == ErrorKind::Invalid);
    assert!(message.contains("only PyTorch pickles, which are never read"), "{message}");
    assert_eq!(server.asked().len(), 1, "the list of files was enough");
}

#[test]
fn a_model_that_does_not_fit_on_the_disk_is_refused() {
    let server = faulty(hub(), |hub, request| {
        let head = request.method == "HEAD" && request.target.ends_with(WEIGHTS);
        head.then(|| hub.reply(request).with("X-Linked-Size", 1u64 << 60))
    });
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::NoSpace { .. }) && error.kind() == ErrorKind::Io, "{message}");
    assert!(message.contains("1152921504606846976"), "{message}");
    assert!(server.gets_of(WEIGHTS).is_empty());
}

#[test]
fn a_cache_that_cannot_be_created_is_an_io_failure() {
    let server = faulty(hub(), |_, _| None);
    let mut client = Client::of(&server);
    let file = client.cache.path().join("file");
    std::fs::write(&file, "").unwrap();
    client.settings.cache = file.join("hub");
    let (error, message) = client.failure("org/name");
    assert!(matches!(error, HubError::File(_)) && message.contains("file/hub"), "{message}");
    assert_eq!(Failure::from(error).code(), 1);
}

#[test]
fn a_malformed_answer_is_refused() {
    for (body, found) in [("<html>portal</html>", "expected value"), ("{\"sha\": \"main\"}", "main"), ("[]", "line 1")]
    {
        let server = faulty(hub(), move |_, request| request.target.contains("/api/").then(|| Reply::new(200, body)));
        let (error, message) = Client::of(&server).failure("org/name");
        assert!(matches!(error, HubError::Answer { .. }) && message.contains(found), "{message}");
    }
    let broken = Hub::with(&[("config.json", b"{}"), ("model.safetensors.index.json", b"<html>")]);
    let message = Client::of(&faulty(broken, |_, _| None)).failure("org/name").1;
    assert!(message.contains("weight_map"), "{message}");
    let silent = faulty(hub(), |hub, request| (request.method == "HEAD").then(|| hub.reply(request).without("ETag")));
    assert!(Client::of(&silent).failure("org/name").1.contains("without an ETag"));
}

#[test]
fn the_cache_is_searched_before_the_hub() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    let locate = |argument: &str| locate_with(argument, || Ok(client.settings.clone()));
    let located = locate("org/name").unwrap();
    assert!(located.ends_with("config.json"), "the path names the format of the snapshot: {located:?}");
    client.has_weights(located.parent().unwrap());
    let asked = server.asked().len();
    assert_eq!(locate("org/name").unwrap(), located);
    assert_eq!(server.asked().len(), asked, "no request was needed");
    let error = locate("org/other").unwrap_err();
    assert_eq!(error.code(), 4);
    assert!(error.to_string().contains("org/other"), "{error}");
}
