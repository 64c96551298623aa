//! A small local HTTP/1.1 server with the Hub's routes. It records requests and fails on request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The commit of `main`.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request to the server.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    headers: Vec<(String, String)>,
    /// Number of earlier requests with this method and target.
    pub before: usize,
}

/// An answer of the server.
#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    manner: Manner,
}

/// How a body is sent.
#[derive(Clone, Copy)]
enum Manner {
    Whole,
    /// This many bytes, then the connection is closed.
    Cut(usize),
    /// One byte at a time.
    Dripping(Duration),
    /// The header is sent after this time.
    Late(Duration),
    /// Without end.
    Endless,
}

/// A running server; it stops when dropped.
pub struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    sent_bytes: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn is_get_of(&self, end: &str) -> bool {
        self.method == "GET" && self.target.ends_with(end)
    }
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), manner: Manner::Whole }
    }

    /// Sets a header.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn cut_after(self, bytes: usize) -> Self {
        Self { manner: Manner::Cut(bytes), ..self }
    }

    pub fn dripping(self, pause: Duration) -> Self {
        Self { manner: Manner::Dripping(pause), ..self }
    }

    pub fn late(self, by: Duration) -> Self {
        Self { manner: Manner::Late(by), ..self }
    }

    pub fn endless(self) -> Self {
        Self { manner: Manner::Endless, ..self }
    }

    fn send(&self, stream: &mut TcpStream, head: bool, sent: &AtomicU64) -> std::io::Result<()> {
        if let Manner::Late(by) = self.manner {
            std::thread::sleep(by);
        }
        let mut text = format!("HTTP/1.1 {} Scripted\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let endless = matches!(self.manner, Manner::Endless);
        if !endless && !self.headers.iter().any(|(name, _)| name == "Content-Length") {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        stream.write_all((text + "\r\n").as_bytes())?;
        if head {
            return Ok(());
        }
        let mut write = |bytes: &[u8]| {
            sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            stream.write_all(bytes)
        };
        match self.manner {
            Manner::Whole | Manner::Late(_) => write(&self.body),
            Manner::Cut(bytes) => write(&self.body[..bytes]),
            Manner::Dripping(pause) => self.body.chunks(1).try_for_each(|byte| {
                std::thread::sleep(pause);
                write(byte)
            }),
            Manner::Endless => loop {
                write(&[b'x'; 1 << 16])?;
            },
        }
    }
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            sent_bytes: Arc::default(),
            stopped: Arc::default(),
        };
        let (asked, sent, stopped) = (server.asked.clone(), server.sent_bytes.clone(), server.stopped.clone());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, asked, sent) = (answer.clone(), asked.clone(), sent.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(mut request) = read_request(&stream) else { return };
                    {
                        let mut asked = asked.lock().unwrap();
                        let same = |r: &&Request| (&r.method, &r.target) == (&request.method, &request.target);
                        request.before = asked.iter().filter(same).count();
                        asked.push(request.clone());
                    }
                    // The client may have closed the connection.
                    let _ = answer(&request).send(&mut stream, request.method == "HEAD", &sent);
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    pub fn gets_of(&self, end: &str) -> Vec<Request> {
        self.asked().into_iter().filter(|request| request.is_get_of(end)).collect()
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    Some(Request { method, target, headers, before: 0 })
}

/// The Hub with one model, `org/name`.
#[derive(Clone, Default)]
pub struct Hub {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names in the list of files without a file.
    pub ghosts: Vec<String>,
    /// Where large files are, if not on the Hub itself.
    pub storage: Option<String>,
}

impl Hub {
    pub fn with(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Self { files, ..Self::default() }
    }

    /// The answer of the Hub without a fault.
    pub fn reply(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap();
        let missing = |code| Reply::new(404, "{\"error\": \"not here\"}").with("X-Error-Code", code);
        if let Some(revision) = path.strip_prefix("/api/models/org/name/revision/") {
            return if self.has(revision) { Reply::new(200, self.listing()) } else { missing("RevisionNotFound") };
        }
        if path.starts_with("/api/models/org/name/tree/") {
            return Reply::new(200, self.tree());
        }
        let file = path.strip_prefix("/org/name/resolve/").and_then(|rest| rest.split_once('/'));
        match file {
            Some((revision, file)) if self.has(revision) => match self.files.get(file) {
                Some(bytes) => self.file(request, file, bytes),
                None => missing("EntryNotFound"),
            },
            Some(_) => missing("RevisionNotFound"),
            None => missing("RepoNotFound"),
        }
    }

    fn has(&self, revision: &str) -> bool {
        ["main", "refs%2Fpr%2F1", COMMIT].contains(&revision)
    }

    fn listing(&self) -> String {
        let names = self.files.keys().chain(&self.ghosts);
        let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
        serde_json::json!({ "id": "org/name", "sha": COMMIT, "siblings": siblings }).to_string()
    }

    fn tree(&self) -> String {
        let entries = self.files.iter().map(|(name, bytes)| {
            let mut entry = serde_json::json!({
                "type": "file", "path": name, "size": bytes.len(), "oid": etag_of(name, bytes)[..40],
            });
            if is_large(name) {
                entry["lfs"] = serde_json::json!({ "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 130 });
            }
            entry
        });
        serde_json::Value::from_iter(entries).to_string()
    }

    fn file(&self, request: &Request, name: &str, bytes: &[u8]) -> Reply {
        let etag = format!("\"{}\"", etag_of(name, bytes));
        if !is_large(name) {
            return ranged(request, bytes, &etag).with("X-Repo-Commit", COMMIT);
        }
        let reply = match &self.storage {
            Some(storage) => {
                Reply::new(302, "").with("Location", format!("{storage}/{}?Signature=signed", sha256(bytes)))
            }
            None => ranged(request, bytes, &etag),
        };
        let reply = reply.with("X-Repo-Commit", COMMIT);
        reply.with("X-Linked-Etag", etag).with("X-Linked-Size", bytes.len())
    }

    /// The answer of the storage of large files without a fault.
    pub fn reply_of_storage(&self, request: &Request) -> Reply {
        let name = request.target.split('?').next().unwrap().trim_start_matches('/');
        match self.files.values().find(|bytes| sha256(bytes) == name) {
            Some(bytes) => ranged(request, bytes, "\"of-storage\""),
            None => Reply::new(404, ""),
        }
    }
}

/// All bytes, or those from the start of a `Range`.
fn ranged(request: &Request, bytes: &[u8], etag: &str) -> Reply {
    let from = request.header("Range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let whole = || Reply::new(200, bytes).with("ETag", etag).with("Accept-Ranges", "bytes");
    match from {
        Some(from) if request.header("If-Range").is_none_or(|known| known == etag) => {
            if from >= bytes.len() {
                return Reply::new(416, "").with("ETag", etag);
            }
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[from..]).with("ETag", etag).with("Content-Range", range)
        }
        _ => whole(),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The etag of a file: its SHA-256, or for small files 40 digits as Git has them.
pub fn etag_of(name: &str, bytes: &[u8]) -> String {
    let mut etag = sha256(bytes);
    etag.truncate(if is_large(name) { 64 } else { 40 });
    etag
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin"].iter().any(|ending| name.ends_with(ending))
}
