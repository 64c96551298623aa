//! Faults of the network and the server: refusals, overload, cut transfers, changed files, stalls.

use std::time::{Duration, Instant};

use deepwide::error::ErrorKind;
use deepwide::hub::HubError;

use super::server::{Hub, Reply, Request, Server, sha256};
use super::{Client, faulty, hub, weights};

const WEIGHTS: &str = "model.safetensors";

/// A server that gives this answer to a request for the list of files.
fn refusing(reply: Reply) -> Server {
    faulty(hub(), move |_, request| request.target.contains("/api/").then(|| reply.clone()))
}

#[test]
fn a_gated_model_says_where_to_accept_its_terms() {
    for status in [401, 403] {
        let page = Reply::new(status, "<html>log in</html>").with("X-Error-Code", "GatedRepo");
        let server = faulty(hub(), move |_, request| (request.method == "HEAD").then(|| page.clone()));
        let client = Client::of(&server).without_token();
        let (error, message) = client.failure("org/name");
        assert!(matches!(error, HubError::Access(_)) && error.kind() == ErrorKind::NotFound);
        let terms = format!("org/name is gated ({status}): accept its terms at {}/org/name", server.url());
        assert!(message.contains(&terms) && message.contains("HF_TOKEN"), "{message}");
        assert!(!client.model().join("snapshots").exists(), "the page is saved nowhere");
        let message = Client::of(&server).failure("org/name").1;
        assert!(message.contains("the token that was sent has no access"), "{message}");
    }
}

#[test]
fn a_refused_token_is_not_a_gate() {
    let server = refusing(Reply::new(401, "{\"error\": \"Invalid credentials\"}"));
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::Access(_)) && message.contains("Invalid credentials"), "{message}");
    assert!(message.contains("refuses access (401") && !message.contains("gated"), "{message}");
    let server = refusing(Reply::new(403, "<!DOCTYPE html><p>no</p>"));
    assert!(Client::of(&server).failure("org/name").1.contains("an HTML page"));
}

#[test]
fn a_missing_model_revision_and_file_are_distinguished() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    let (error, message) = client.failure("org/other");
    assert!(matches!(error, HubError::Access(_)) && message.contains("no model org/other"), "{message}");
    let (error, message) = client.failure("org/name@v9");
    assert!(matches!(error, HubError::Absent(_)) && message.contains("revision \"v9\""), "{message}");
    let (error, message) = client.failure("org/name/x.gguf");
    assert!(matches!(error, HubError::Absent(_)) && message.contains("file \"x.gguf\""), "{message}");
    let private = Reply::new(401, "").with("X-Error-Code", "RepoNotFound");
    let message = Client::of(&refusing(private)).without_token().failure("org/name").1;
    assert!(message.contains("or it is private") && message.contains("HF_TOKEN"), "{message}");
    let gone = faulty(hub(), |_, request| {
        let gone = request.method == "HEAD" && request.target.ends_with("tokenizer.json");
        gone.then(|| Reply::new(404, "").with("X-Error-Code", "EntryNotFound"))
    });
    assert!(Client::of(&gone).failure("org/name").1.contains("no file \"tokenizer.json\""));
    assert_eq!(Client::of(&gone).failure("org/name").0.kind(), ErrorKind::NotFound);
}

#[test]
fn retry_after_is_respected() {
    let busy = |_: &Hub, request: &Request| {
        let wait = request.target.contains("/api/") && request.before < 2;
        wait.then(|| Reply::new(429, "slow down").with("Retry-After", 7))
    };
    let server = faulty(hub(), busy);
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    assert_eq!(client.waits_s(), [7.0, 7.0]);
}

#[test]
fn a_busy_server_is_tried_five_times() {
    let server = refusing(Reply::new(429, "slow down"));
    let client = Client::of(&server);
    let (error, message) = client.failure("org/name");
    assert!(matches!(error, HubError::Unreachable { tries: 5, .. }), "{message}");
    assert!(message.contains("429") && message.contains("5 attempts"), "{message}");
    assert_eq!(client.waits_s(), [0.5, 1.0, 2.0, 4.0], "each wait is twice the one before");
    assert_eq!(server.asked().len(), 5);
    let server = refusing(Reply::new(429, "").with("Retry-After", 4000));
    let client = Client::of(&server);
    assert!(client.failure("org/name").1.contains("try again in 4000 s"));
    assert!(client.waits_s().is_empty() && server.asked().len() == 1, "a wait of an hour is refused");
}

#[test]
fn server_errors_are_retried() {
    for status in [500, 502, 503, 504, 408] {
        let server = faulty(hub(), move |_, request| (request.before < 1).then(|| Reply::new(status, "sorry")));
        let client = Client::of(&server);
        client.has_weights(&client.download("org/name").unwrap());
    }
    let server = refusing(Reply::new(500, "sorry"));
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::Unreachable { tries: 5, .. }), "{message}");
    assert!(message.contains("500") && message.contains("sorry"), "{message}");
    let server = refusing(Reply::new(418, "teapot"));
    let client = Client::of(&server);
    let (error, message) = client.failure("org/name");
    assert!(matches!(error, HubError::Answer { .. }) && message.contains("answers 418"), "{message}");
    assert!(client.waits_s().is_empty(), "an error that a retry cannot change is not retried");
}

#[test]
fn an_unknown_host_is_not_retried() {
    let client = Client::at("http://hub.invalid".to_owned());
    let (error, message) = client.failure("org/name");
    assert!(matches!(error, HubError::NoSuchHost(_)) && error.kind() == ErrorKind::NotFound, "{message}");
    assert!(message.contains("cannot resolve host \"hub.invalid\"") && client.waits_s().is_empty(), "{message}");
    let server = faulty(hub(), |_, _| None);
    let mut behind_proxy = Client::of(&server);
    behind_proxy.settings.proxy = Some(ureq::Proxy::new("http://proxy.invalid:3128").unwrap());
    assert!(behind_proxy.failure("org/name").1.contains("\"proxy.invalid\""), "the proxy is not found");
}

#[test]
fn an_unreachable_server_is_named() {
    let closed = Client::at(format!("http://{}", {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }));
    let plain = faulty(hub(), |_, _| None);
    let tls = Client::at(plain.url().replace("http:", "https:"));
    let mut behind_proxy = Client::of(&plain);
    behind_proxy.settings.proxy = Some(ureq::Proxy::new(&closed.settings.endpoint).unwrap());
    for client in [&closed, &tls, &behind_proxy] {
        let (error, message) = client.failure("org/name");
        assert!(matches!(error, HubError::Unreachable { tries: 5, .. }), "{message}");
        assert!(message.contains(&client.settings.endpoint) && client.waits_s().len() == 4, "{message}");
    }
}

#[test]
fn a_cut_transfer_resumes() {
    let server = faulty(hub(), |hub, request| {
        let cut = request.is_get_of(WEIGHTS) && request.before == 0;
        cut.then(|| hub.reply(request).cut_after(100_000))
    });
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    let gets = server.gets_of(WEIGHTS);
    assert_eq!(gets.len(), 2);
    assert_eq!(gets[1].header("Range"), Some("bytes=100000-"));
    assert_eq!(gets[1].header("If-Range").unwrap().trim_matches('"'), sha256(&weights()));
}

#[test]
fn the_next_download_resumes_a_cut_one() {
    let server = faulty(hub(), |hub, request| {
        let more = if request.header("Range").is_some() { 0 } else { 100_000 };
        (request.is_get_of(WEIGHTS) && request.before < 5).then(|| hub.reply(request).cut_after(more))
    });
    let client = Client::of(&server);
    let (error, message) = client.failure("org/name");
    assert!(matches!(error, HubError::Unreachable { tries: 5, .. }), "{message}");
    assert!(message.contains("100000 of 300000 bytes"), "{message}");
    assert!(!client.blob(WEIGHTS, &weights()).exists(), "an incomplete file has no final name");
    client.has_weights(&client.download("org/name").unwrap());
    assert_eq!(server.gets_of(WEIGHTS).last().unwrap().header("Range"), Some("bytes=100000-"));
}

#[test]
fn a_body_of_another_size_is_refused() {
    let server = faulty(hub(), |hub, request| {
        request.is_get_of(WEIGHTS).then(|| hub.reply(request).with_body(&weights()[..200_000]))
    });
    let (error, message) = Client::of(&server).failure("org/name");
    assert!(matches!(error, HubError::Unreachable { .. }), "{message}");
    assert!(message.contains("200000 bytes is announced, expected 300000"), "{message}");
    let server = faulty(hub(), |hub, request| {
        let longer = [weights(), b"more".to_vec()].concat();
        request.is_get_of(WEIGHTS).then(|| hub.reply(request).with_body(longer))
    });
    let client = Client::of(&server);
    client.failure("org/name");
    assert!(!client.blob(WEIGHTS, &weights()).exists());
}

#[test]
fn a_server_may_ignore_the_range() {
    let server = faulty(hub(), |hub, request| match request.is_get_of(WEIGHTS) {
        true if request.before == 0 => Some(hub.reply(request).cut_after(100_000)),
        true => Some(Reply::new(200, weights()).with("ETag", format!("\"{}\"", sha256(&weights())))),
        false => None,
    });
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    let gets = server.gets_of(WEIGHTS);
    assert!(gets.len() == 2 && gets[1].header("Range").is_some(), "the whole file was accepted");
}

#[test]
fn a_part_with_another_start_is_not_appended() {
    let server = faulty(hub(), |hub, request| {
        let shifted = request.is_get_of(WEIGHTS) && request.before == 1;
        let cut = request.is_get_of(WEIGHTS) && request.before == 0;
        let reply = || hub.reply(request);
        let range = "bytes 99999-299999/300000";
        shifted.then(|| reply().with("Content-Range", range)).or_else(|| cut.then(|| reply().cut_after(100_000)))
    });
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    assert_eq!(server.gets_of(WEIGHTS)[2].header("Range"), None, "the download started anew");
}

#[test]
fn a_file_with_the_wrong_hash_is_put_aside() {
    let wrong = || weights().into_iter().rev().collect::<Vec<u8>>();
    let server = faulty(hub(), move |hub, request| {
        (request.is_get_of(WEIGHTS) && request.before == 0).then(|| hub.reply(request).with_body(wrong()))
    });
    let client = Client::of(&server);
    let (error, message) = client.failure("org/name");
    let HubError::Hash { kept, .. } = &error else { panic!("{message}") };
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(message.contains(&sha256(&weights())) && message.contains(&sha256(&wrong())), "{message}");
    assert_eq!(std::fs::read(kept).unwrap(), wrong());
    assert!(!client.blob(WEIGHTS, &weights()).exists());
    assert!(!client.model().join("snapshots").join(super::COMMIT).join(WEIGHTS).exists());
    client.has_weights(&client.download("org/name").unwrap());
    assert_eq!(server.gets_of(WEIGHTS)[1].header("Range"), None, "a damaged file is not resumed");
}

#[test]
fn a_damaged_partial_file_is_restarted() {
    let server = faulty(hub(), |_, _| None);
    let client = Client::of(&server);
    let blob = client.blob(WEIGHTS, &weights());
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::write(blob.with_extension("incomplete"), vec![0; 1000]).unwrap();
    client.has_weights(&client.download("org/name").unwrap());
    let ranges: Vec<_> = server.gets_of(WEIGHTS).iter().map(|get| get.header("Range").map(str::to_owned)).collect();
    assert_eq!(ranges, [Some("bytes=1000-".to_owned()), None]);
    let longer = vec![0; 300_001];
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(blob.with_extension("incomplete"), longer).unwrap();
    client.has_weights(&client.download("org/name").unwrap());
}

#[test]
fn parts_of_two_versions_are_not_joined() {
    let storage = faulty(hub(), |hub, request| {
        let reply = hub.reply_of_storage(request);
        Some(match request.before {
            0 => reply.cut_after(100_000),
            1 => reply.with("ETag", "\"another version\""),
            _ => reply,
        })
    });
    let server = faulty(Hub { storage: Some(storage.url()), ..hub() }, |_, _| None);
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    let asked = storage.asked();
    assert_eq!(asked[1].header("If-Range"), Some("\"of-storage\""));
    assert_eq!(asked[2].header("Range"), None, "the other version was not appended to");
}

#[test]
fn a_file_that_changes_on_the_hub_is_downloaded_anew() {
    let old = Hub { files: [(WEIGHTS.to_owned(), b"old".to_vec())].into(), ..Hub::default() };
    let server = faulty(hub(), move |_, request| {
        (request.method == "HEAD" && request.target.ends_with(WEIGHTS) && request.before == 0)
            .then(|| old.reply(request))
    });
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    assert!(!client.blob(WEIGHTS, b"old").exists());
}

#[test]
fn endless_answers_are_read_up_to_a_limit() {
    for status in [404, 500, 200] {
        let server = refusing(Reply::new(status, "").endless());
        let mut client = Client::of(&server);
        client.settings.patience.tries = 1;
        let (_, message) = client.failure("org/name");
        assert!(message.len() < 1000, "{} bytes of message", message.len());
        let bound = if status == 200 { 64 << 20 } else { 16 << 20 };
        assert!(server.sent_bytes() < bound, "{} bytes were taken of {status}", server.sent_bytes());
    }
}

#[test]
fn a_stalled_transfer_ends() {
    let drip = |hub: &Hub, request: &Request| {
        request.is_get_of(WEIGHTS).then(|| hub.reply(request).dripping(Duration::from_millis(10)))
    };
    let silence = |_: &Hub, request: &Request| {
        request.is_get_of(WEIGHTS).then(|| Reply::new(200, "").late(Duration::from_secs(5)))
    };
    for server in [faulty(hub(), drip), faulty(hub(), silence)] {
        let mut client = Client::of(&server);
        (client.settings.patience.stall, client.settings.patience.tries) = (Duration::from_millis(150), 2);
        let began = Instant::now();
        let (error, message) = client.failure("org/name");
        assert!(matches!(error, HubError::Unreachable { .. }), "{message}");
        assert!(message.contains("2 attempts") && began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert!(!client.blob(WEIGHTS, &weights()).exists());
    }
}
