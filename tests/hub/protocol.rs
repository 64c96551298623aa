//! Forms of headers and names of files that a hub may use.

use super::server::{Hub, Reply, etag_of};
use super::{Client, SECRET, faulty, hub, weights};

const WEIGHTS: &str = "model.safetensors";

#[test]
fn every_form_of_retry_after_is_read() {
    let waits = |pairs: &[(&str, &str)]| {
        let busy = pairs.iter().fold(Reply::new(429, ""), |reply, (name, value)| reply.with(name, value));
        let server = faulty(hub(), move |_, request| {
            (request.target.contains("/api/") && request.before == 0).then(|| busy.clone())
        });
        let client = Client::of(&server);
        client.download("org/name").unwrap();
        client.waits_s()
    };
    assert_eq!(waits(&[("Retry-After", "7")]), [7.0]);
    let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
    assert_eq!(waits(&[("Retry-After", later), ("Date", date)]), [30.0]);
    assert_eq!(waits(&[("RateLimit", "\"api\";r=0;t=55")]), [55.0]);
    let (leap_day, march) = ("Thu, 29 Feb 2024 23:59:59 GMT", "Fri, 01 Mar 2024 00:00:01 GMT");
    assert_eq!(waits(&[("Retry-After", march), ("Date", leap_day)]), [2.0]);
    let unreadable = ["soon", "Sun, 06 Nov 1994", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Nov 0 08:49:37 GMT"];
    for text in unreadable.into_iter().chain([date]) {
        assert_eq!(waits(&[("Retry-After", text), ("Date", later)]), [0.5], "{text:?} says nothing");
    }
}

#[test]
fn an_etag_may_be_weak_or_bare() {
    for form in ["\"{}\"", "W/\"{}\"", "{}"] {
        let etag = etag_of("README.md", b"# name");
        let shown = form.replace("{}", &etag);
        let server = faulty(hub(), move |hub, request| {
            request.target.ends_with("README.md").then(|| hub.reply(request).with("ETag", &shown))
        });
        let client = Client::of(&server);
        client.has_weights(&client.download("org/name").unwrap());
        assert_eq!(std::fs::read(client.model().join("blobs").join(&etag)).unwrap(), b"# name", "{form}");
    }
}

#[test]
fn a_part_is_appended_only_with_its_range() {
    let requests = |range: &'static str| {
        let server = faulty(hub(), move |hub, request| match (request.is_get_of(WEIGHTS), request.before) {
            (true, 0) => Some(hub.reply(request).cut_after(100_000)),
            (true, 1) => Some(hub.reply(request).with("Content-Range", range)),
            _ => None,
        });
        let client = Client::of(&server);
        client.has_weights(&client.download("org/name").unwrap());
        server.gets_of(WEIGHTS).len()
    };
    for range in ["bytes 100000-299999/300000", "bytes 100000-299999/*"] {
        assert_eq!(requests(range), 2, "{range}");
    }
    for range in ["bytes */300000", "100000-299999/300000", "bytes 100000/300000", "none"] {
        assert_eq!(requests(range), 3, "{range}");
    }
}

#[test]
fn progress_counts_failures_from_zero() {
    let large: Vec<u8> = weights().into_iter().cycle().take(8 << 20).collect();
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), (WEIGHTS, &large)];
    let steps = |bytes: usize| {
        faulty(Hub::with(&files), move |hub, request| {
            (request.is_get_of(WEIGHTS) && request.before < 7).then(|| hub.reply(request).cut_after(bytes))
        })
    };
    let server = steps(1 << 20);
    Client::of(&server).download("org/name").unwrap();
    assert_eq!(server.gets_of(WEIGHTS).len(), 8, "each of seven failures came a mebibyte further");
    let message = Client::of(&steps(1000)).failure("org/name").1;
    assert!(message.contains("5000 of 8388608 bytes arrived") && message.contains("5 attempts"), "{message}");
}

#[test]
fn a_redirect_may_be_relative_absolute_or_several() {
    let bearer = format!("Bearer {SECRET}");
    let last = faulty(hub(), |hub, request| Some(hub.reply_of_storage(request)));
    let to = last.url();
    let first =
        faulty(hub(), move |_, request| Some(Reply::new(302, "").with("Location", format!("{to}{}", request.target))));
    let hub = Hub { storage: Some(first.url()), ..hub() };
    let server = faulty(hub, |_, request| {
        // The test servers do not know their own addresses.
        let moved = request.target.strip_prefix("/api/models/old/name")?;
        let host = request.header("Host").unwrap();
        Some(Reply::new(307, "").with("Location", format!("http://{host}/api/models/org/name{moved}")))
    });
    let client = Client::of(&server);
    client.has_weights(&client.download("org/name").unwrap());
    for request in first.asked().iter().chain(&last.asked()) {
        assert_eq!(request.header("Authorization"), None);
    }
    assert_eq!((first.asked().len(), last.asked().len()), (1, 1));
    let _ = client.download("old/name");
    let moved = server.asked().into_iter().filter(|request| request.target.starts_with("/api/models/org/name"));
    assert!(moved.count() == 2 && server.asked().iter().all(|r| r.header("Authorization") == Some(&bearer)));
    for nowhere in ["z", "//host/z", "ftp://host/z", "http:///z", ""] {
        let server = faulty(super::hub(), move |_, _| Some(Reply::new(302, "").with("Location", nowhere)));
        let message = Client::of(&server).failure("org/name").1;
        assert!(message.contains("with a redirect to neither http nor https"), "{nowhere}: {message}");
    }
}

#[test]
fn a_file_name_is_escaped_in_its_url() {
    let server = faulty(Hub { ghosts: vec!["a/b c?+.gguf".to_owned()], ..hub() }, |_, _| None);
    Client::of(&server).failure("org/name/a/b c?+.gguf");
    let asked = server.asked().pop().unwrap().target;
    assert!(asked.ends_with("/a/b%20c%3F%2B.gguf"), "{asked}");
}

#[test]
fn a_split_gguf_is_all_its_parts_and_another_is_itself() {
    let listing = |names: &[&str]| {
        let files = names.iter().map(|name| ((*name).to_owned(), b"GGUF".to_vec())).collect();
        faulty(Hub { files, ..Hub::default() }, |_, _| None)
    };
    for name in ["m.gguf", "m-00002-of-00003.gguf", "m-00001-of-00000.gguf", "m-1-of-3.gguf"] {
        let server = listing(&[name, "other.gguf"]);
        let path = Client::of(&server).download(&format!("org/name/{name}")).unwrap();
        assert!(path.ends_with(name) && server.gets_of(".gguf").len() == 1, "{path:?}");
    }
    let server = listing(&["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf", "q/m-00001-of-00003.gguf"]);
    let client = Client::of(&server);
    let path = client.download("org/name/q/m-00001-of-00002.gguf").unwrap();
    assert_eq!(super::names(path.parent().unwrap()), ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
    let message = Client::of(&server).failure("org/name/q/m-00001-of-00003.gguf").1;
    assert!(message.contains("no file \"q/m-00002-of-00003.gguf\""), "{message}");
    for unclear in [&["a.gguf", "b.gguf"] as &[_], &["q/a.gguf"], &["a.gguf", "q/b.gguf"]] {
        let message = Client::of(&listing(unclear)).failure("org/name").1;
        assert!(message.contains(&format!("as in org/name/{}", unclear.join(", "))), "{message}");
    }
    assert!(Client::of(&listing(&["m.gguf", "README.md"])).download("org/name").unwrap().ends_with("m.gguf"));
}

#[test]
fn a_checkpoint_without_its_config_or_weights_is_refused() {
    let message = |names: &[(&str, &[u8])]| Client::of(&faulty(Hub::with(names), |_, _| None)).failure("org/name").1;
    assert!(message(&[("config.json", b"{}")]).contains("expected model.safetensors"));
    assert!(message(&[("model.safetensors", b"")]).contains("no file \"config.json\""));
}

#[test]
fn named_chat_templates_belong_to_a_checkpoint() {
    let templates = ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"];
    let others = ["additional_chat_templates/x.py", "additional_chat_templates/old/x.jinja", "x.gguf"];
    let names = [&["config.json", "model.safetensors"], &templates[..], &others].concat();
    let files = names.iter().map(|name| ((*name).to_owned(), b"{}".to_vec())).collect();
    let server = faulty(Hub { files, ..Hub::default() }, |_, _| None);
    let client = Client::of(&server);
    let snapshot = client.download("org/name").unwrap();
    for name in names {
        assert_eq!(snapshot.join(name).is_file(), !others.contains(&name), "{name}");
    }
}
