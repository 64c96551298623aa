//! Names of models, files and commits, tokens and endpoints: which are taken, and how a refusal is said.

use std::path::PathBuf;

use deepwide::hub::{HubError, HubReference, HubSettings, Token};

use super::server::{COMMIT, Hub, Reply};
use super::{Client, faulty, hub};

#[test]
fn a_reference_has_a_name_a_revision_and_perhaps_a_file() {
    let parse = |text: &str| text.parse::<HubReference>().unwrap();
    let model = parse("mistralai/Mistral-7B-v0.1");
    assert_eq!((model.repo(), model.revision(), model.gguf()), ("mistralai/Mistral-7B-v0.1", "main", None));
    assert_eq!(parse("a/b@refs/pr/1").revision(), "refs/pr/1");
    let file = parse("a/b/sub/model-Q8_0.gguf@v1.0");
    assert_eq!((file.repo(), file.revision(), file.gguf()), ("a/b", "v1.0", Some("sub/model-Q8_0.gguf")));
    assert_eq!(file.to_string(), "a/b/sub/model-Q8_0.gguf@v1.0");
}

#[test]
fn a_refused_name_is_shown_with_the_rule_it_breaks() {
    let cases = [
        ("gpt2", "no `/`"),
        ("", "no `/`"),
        ("/absolute/path", "empty"),
        ("./relative/path", "starts or ends with"),
        ("../up", "starts or ends with"),
        ("~/models", "character other than"),
        ("a\\b/c", "character other than"),
        ("C:/models", "character other than"),
        ("a/b/c", "no GGUF file"),
        ("a/b/../x.gguf", "no GGUF file"),
        ("a--b/c", "`--`"),
        ("a/b..c", "`..`"),
        ("a/b.git", ".git"),
        ("a/b@", "no branch"),
        ("a/b@../../x", "no branch"),
        ("a/b@/etc", "no branch"),
        ("a/b@x y", "no branch"),
    ];
    for (text, rule) in cases {
        let message = text.parse::<HubReference>().unwrap_err().to_string();
        assert!(message.contains(rule) && message.contains("expected org/name"), "{text}: {message}");
    }
    assert!(format!("a/{}", "b".repeat(95)).parse::<HubReference>().is_err());
    assert!(format!("a/{}", "b".repeat(94)).parse::<HubReference>().is_ok());
}

#[test]
fn a_listed_path_stays_inside_under_posix_and_windows_rules() {
    let listing = |name: &str| {
        let server = faulty(Hub { ghosts: vec![name.to_owned()], ..hub() }, |_, _| None);
        Client::of(&server).download("org/name")
    };
    for safe in ["a", "a/b.c", "..a", "a..", "a b"] {
        listing(safe).unwrap();
    }
    for name in ["", "../a", "a/../b", "/a", "a//b", "a/", "./a", r"a\b", r"C:\a", "C:a", r"\\srv\x", "a\0", "a\n"] {
        assert!(matches!(listing(name), Err(HubError::UnsafeName(_))), "{name:?}");
    }
}

#[test]
fn a_commit_is_forty_hexadecimal_digits() {
    for commit in ["main", &COMMIT[..39], &COMMIT.to_uppercase(), &COMMIT.replace('f', "g")] {
        let reply = Reply::new(200, serde_json::json!({ "sha": commit }).to_string());
        let server = faulty(hub(), move |_, request| request.target.contains("/api/").then(|| reply.clone()));
        let message = Client::of(&server).failure("org/name").1;
        assert!(message.contains(&format!("commit {commit:?}")), "{message}");
    }
}

#[test]
fn a_token_is_trimmed_and_never_shown() {
    let token = Token::new(" hf_secret\n").unwrap();
    assert_eq!(token.redact("Bearer hf_secret is wrong"), "Bearer [token] is wrong");
    let mut settings = HubSettings::new(PathBuf::from("cache"));
    settings.token = Some(token);
    settings.proxy = Some(ureq::Proxy::new("http://user:hidden@127.0.0.1:1").unwrap());
    let shown = format!("{settings:?}");
    assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
}

#[test]
fn a_token_cannot_split_a_header() {
    for text in ["", " \n", "a b", "a\r\nX: y", "tökén"] {
        let error = Token::new(text).unwrap_err();
        assert!(matches!(error, HubError::Argument(_)), "{text:?}");
        assert!(text.trim().is_empty() || !error.to_string().contains(text.trim()));
    }
}

#[test]
fn the_password_of_an_endpoint_is_not_shown() {
    for wrong in ["", "huggingface.co", "file:///x", "ftp://hub", "https://me:secret@hub.example", "https://hub/?a"] {
        let message = Client::at(wrong.to_owned()).failure("org/name").1;
        assert!(message.contains("expected an address") && !message.contains("secret"), "{message}");
    }
    let server = faulty(hub(), |_, _| None);
    Client::at(format!("{}/", server.url())).download("org/name").unwrap();
}
