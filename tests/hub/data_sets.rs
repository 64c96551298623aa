//! Data sets: the Parquet files of the hub's conversion, in the cache of Python.

use deepwide::hub::{DataSetFiles, HubError, data_set_files};

use super::server::{COMMIT, Hub, Reply, Request, Server};
use super::{Client, SECRET};

const SPLIT: &str = "ARC-Challenge/test";

/// A data set with a split of two files, beside others.
fn hub() -> Hub {
    Hub::with(&[
        ("ARC-Challenge/test/0000.parquet", b"first"),
        ("ARC-Challenge/test/0001.parquet", b"second"),
        ("ARC-Challenge/train/0000.parquet", b"train"),
        ("ARC-Easy/test/0000.parquet", b"easy"),
    ])
}

/// The hub, which has `org/name` as a data set with its conversion.
fn reply(hub: &Hub, request: &Request) -> Reply {
    let target = &request.target;
    let converted = "/api/datasets/org/name/revision/refs%2Fconvert%2Fparquet";
    let as_model = match target.strip_prefix("/datasets/") {
        Some(rest) => format!("/{rest}"),
        None if target == converted => "/api/models/org/name/revision/main".to_owned(),
        None => "/neither".to_owned(),
    };
    let mut moved = request.clone();
    moved.target = as_model;
    hub.reply(&moved)
}

fn server() -> Server {
    let hub = hub();
    Server::start(move |request| reply(&hub, request))
}

fn files(client: &Client, id: &str, folder: &str) -> Result<DataSetFiles, HubError> {
    data_set_files(id, folder, &client.settings, &mut |_| ())
}

#[test]
fn a_split_is_downloaded_once_into_the_layout_of_python() {
    let server = server();
    let client = Client::of(&server);
    let found = files(&client, "org/name", SPLIT).unwrap();
    let root = client.settings.cache.join("datasets--org--name");
    let snapshot = root.join("snapshots").join(COMMIT);
    assert_eq!(found.commit, COMMIT);
    assert_eq!(found.paths, ["0000.parquet", "0001.parquet"].map(|name| snapshot.join(SPLIT).join(name)));
    assert_eq!(
        found.paths.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>().concat(),
        b"firstsecond"
    );
    assert_eq!(std::fs::read_to_string(root.join("refs/refs/convert/parquet")).unwrap(), COMMIT);
    assert!(!snapshot.join("ARC-Challenge/train").exists(), "nothing else is downloaded");
    let asked = server.asked();
    assert!(asked.iter().all(|request| request.header("Authorization").is_some_and(|value| value.ends_with(SECRET))));
    assert_eq!(files(&client, "org/name", SPLIT).unwrap(), found);
    assert_eq!(server.asked().len(), asked.len(), "the cache has all");
    // Another split of the same commit.
    let train = files(&client, "org/name", "ARC-Challenge/train").unwrap();
    assert_eq!(std::fs::read(&train.paths[0]).unwrap(), b"train");
}

#[test]
fn a_split_that_was_cut_off_is_completed() {
    let server = server();
    let client = Client::of(&server);
    let found = files(&client, "org/name", SPLIT).unwrap();
    std::fs::remove_file(&found.paths[1]).unwrap();
    assert_eq!(files(&client, "org/name", SPLIT).unwrap(), found);
    assert!(found.paths[1].is_file());
}

#[test]
fn without_a_network_the_cache_is_used_or_the_split_is_named() {
    let server = server();
    let mut client = Client::of(&server);
    let found = files(&client, "org/name", SPLIT).unwrap();
    client.settings.offline = true;
    let num_asked = server.asked().len();
    assert_eq!(files(&client, "org/name", SPLIT).unwrap(), found);
    let message = files(&client, "org/name", "ARC-Easy/test").unwrap_err().to_string();
    let expected =
        format!("\"ARC-Easy/test\" of the data set org/name is not in the cache {:?}", client.settings.cache);
    assert!(message.contains(&expected), "{message}");
    assert_eq!(server.asked().len(), num_asked);
}

#[test]
fn an_unknown_data_set_or_split_is_named() {
    let server = server();
    let client = Client::of(&server).without_token();
    let message = files(&client, "org/name", "ARC-Challenge/dev").unwrap_err().to_string();
    assert!(message.contains("org/name has no file \"ARC-Challenge/dev/0000.parquet\""), "{message}");
    let message = files(&client, "org/other", SPLIT).unwrap_err().to_string();
    assert!(message.contains("has no data set org/other, or it is private: set HF_TOKEN"), "{message}");
}
