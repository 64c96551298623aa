//! `deepwide serve` and `generate`, run as a user runs them, over real HTTP.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deepwide::config::{DecoderConfig, ModelType, MoeConfig};
use deepwide::formats::write_hf_directory;
use deepwide::tokenizer::Tokenizer;
use deepwide::weights::{Dtype, MemoryWeights};
use serde_json::{Value, json};

use crate::grow::{deepwide, deepwide_for_signals, printed, run};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}\
                        {% if add_generation_prompt %}assistant{% endif %}";

/// A mixture of two layers with words as tokens, and a chat template.
fn mixture() -> &'static Path {
    static MODEL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
    &MODEL.get_or_init(|| saved(ModelType::Mixtral, Some(moe), 512)).1
}

/// The same without experts.
fn dense() -> &'static Path {
    static MODEL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &MODEL.get_or_init(|| saved(ModelType::Llama, None, 512)).1
}

/// A dense model with room for prompts of several chunks.
fn long() -> &'static Path {
    static MODEL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &MODEL.get_or_init(|| saved(ModelType::Llama, None, 2048)).1
}

fn saved(model_type: ModelType, moe: Option<MoeConfig>, num_positions: usize) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("tiny");
    let config = DecoderConfig::pico()
        .with(|fields| {
            (fields.model_type, fields.moe) = (model_type, moe);
            (fields.num_hidden_layers, fields.vocab_size, fields.max_position_embeddings) = (2, 64, num_positions);
        })
        .unwrap();
    write_hf_directory(&MemoryWeights::untrained(config, 0.2, 11), None, Some(Dtype::Float32), &path).unwrap();
    let words = ["<bos>", "<eos>", "<unk>", "user", "assistant", "system"].map(String::from).into_iter();
    let words: Vec<String> = words.chain((0..58).map(|i| format!("w{i}"))).collect();
    Tokenizer::word_level(&words).save(&path).unwrap();
    std::fs::write(path.join("chat_template.jinja"), TEMPLATE).unwrap();
    (root, path)
}

/// A running server, killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    /// Reads what the server says after its address, so that it never waits for a reader.
    #[cfg_attr(not(unix), expect(dead_code))]
    messages: Option<JoinHandle<Vec<String>>>,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        Self::of(mixture(), options)
    }

    fn of(model: &Path, options: &[&str]) -> Self {
        let mut child = deepwide_for_signals()
            .arg("serve")
            .arg(model)
            .args(["--port", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("an address before the end").unwrap();
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.parse().unwrap();
            }
        };
        let messages = Some(std::thread::spawn(move || lines.map_while(Result::ok).collect()));
        Self { child, address, messages }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(self.url(path)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_as(path, &body.to_string(), &[("Content-Type", "application/json")])
    }

    fn post_as(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = agent().post(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send(body).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
    }

    fn complete(&self, body: Value) -> Value {
        let (status, answer) = self.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The objects of a stream, and whether it ended with `[DONE]`.
    fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let request = agent().post(self.url(path)).header("Content-Type", "application/json");
        let mut response = request.send(body.to_string()).unwrap();
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        let text = response.body_mut().read_to_string().unwrap();
        let mut data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{text}");
        data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// The value of a counter.
    fn counter(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }

    /// The exit code; a server that does not end fails the test, as where a parent had SIGINT ignored.
    #[cfg(unix)]
    fn code(&mut self) -> Option<i32> {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server goes on after a signal");
    }

    #[cfg(unix)]
    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A client that takes errors as responses.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into()
}

fn greedy(prompt: impl Into<Value>, max_tokens: usize) -> Value {
    json!({"prompt": prompt.into(), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true})
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

fn with(mut body: Value, fields: Value) -> Value {
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

#[test]
fn a_completion_has_the_form_of_openai_and_the_text_of_generate() {
    let server = Server::start(&[]);
    let answer = server.complete(greedy("w1 w2 w3", 8));
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["model"], "tiny");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-") && answer["created"].is_u64());
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(answer["usage"], usage);
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["index"], &choice["finish_reason"], &choice["logprobs"]),
        (&json!(0), &json!("length"), &Value::Null)
    );
    let model = mixture().to_str().unwrap();
    let generated = printed(&["generate", model, "-p", "w1 w2 w3", "-n", "8", "--ignore-eos"]);
    assert_eq!(generated, format!("{}\n", text(&answer)));
    let object: Value =
        serde_json::from_str(&printed(&["generate", model, "-p", "w1 w2 w3", "-n", "8", "--ignore-eos", "--json"]))
            .unwrap();
    assert_eq!((&object["choices"], &object["usage"]), (&answer["choices"], &answer["usage"]));
    // Prompts of every form; `n` texts of each.
    for (prompt, count) in
        [(json!(["w1 w2 w3", "w4"]), 2), (json!([7, 8, 9]), 1), (json!([[7, 8, 9], [10]]), 2), (json!("w1 w2 w3"), 1)]
    {
        let answer = server.complete(with(greedy(prompt, 8), json!({"n": 2})));
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 2 * count);
        assert!(choices.iter().enumerate().all(|(index, choice)| choice["index"] == index));
        assert_eq!(choices[0]["text"], choice["text"]);
        assert_eq!(choices[1]["text"], choice["text"], "greedy texts of a prompt are equal");
    }
}

#[test]
fn a_stream_has_the_text_of_the_whole_answer() {
    let server = Server::start(&[]);
    let body = greedy("w5 w6", 12);
    let whole = server.complete(body.clone());
    let asked = with(body, json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut chunks = server.stream("/v1/completions", &asked);
    let usage = chunks.pop().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    assert!(chunks.len() > 6, "parts come token by token");
    let joined: String = chunks.iter().map(text).collect();
    assert_eq!(joined, text(&whole));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");

    let chat = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "w1"}]}], "temperature": 0,
                      "max_tokens": 9, "logprobs": true, "top_logprobs": 2, "routing": true});
    let (status, whole) = server.post("/v1/chat/completions", &chat);
    assert_eq!((status, &whole["object"]), (200, &json!("chat.completion")), "{whole}");
    assert_eq!(whole["usage"]["prompt_tokens"], 3, "user w1 assistant");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap());
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(content[0]["logprob"], content[0]["top_logprobs"][0]["logprob"]);
    let routing = whole["choices"][0]["routing"].as_array().unwrap();
    assert!(routing.iter().all(|token| token["experts"].as_array().unwrap().len() == 2), "one expert per layer");
    let chunks = server.stream("/v1/chat/completions", &with(chat, json!({"stream": true})));
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let delta = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    assert_eq!(chunks.iter().map(delta).collect::<String>(), message["content"].as_str().unwrap());
}

#[test]
fn sixty_four_clients_at_once_get_the_texts_that_each_gets_alone() {
    let server = Server::start(&["--parallel", "8"]);
    let body = |client: usize| {
        let prompt: Vec<String> = (0..=client % 7).map(|word| format!("w{}", (client * 5 + word) % 58)).collect();
        let sampled = json!({"temperature": 1.0, "seed": client, "top_p": 0.9});
        with(greedy(prompt.join(" "), 5 + client % 11), if client.is_multiple_of(2) { json!({}) } else { sampled })
    };
    let alone: Vec<Value> = (0..64).map(|client| server.complete(body(client))["choices"].clone()).collect();
    let server = &server;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..64).map(|client| scope.spawn(move || server.complete(body(client)))).collect();
        for (client, answer) in clients.into_iter().enumerate() {
            assert_eq!(answer.join().unwrap()["choices"], alone[client], "client {client}");
        }
    });
    wait_for(server, "deepwide_sequences_running ", |running| running == 0);
    assert_eq!(server.counter("deepwide_responses_total{path=\"/v1/completions\",status=\"200\"} "), 128);
}

/// Waits until a counter has a value; a server that never gets there fails the test.
fn wait_for(server: &Server, name: &str, is_there: impl Fn(u64) -> bool) {
    for _ in 0..600 {
        if is_there(server.counter(name)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{name} {}", server.counter(name));
}

/// Sends a request and reads its first bytes.
fn begun(server: &Server, body: &Value) -> TcpStream {
    let mut connection = TcpStream::connect(server.address).unwrap();
    let body = body.to_string();
    write!(
        connection,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    connection
}

#[test]
fn a_client_that_hangs_up_gives_its_place_to_another() {
    let server = Server::start(&["--parallel", "1", "--queue", "1"]);
    // The tiny model is fast; so many texts one after another take minutes.
    let endless = with(greedy("w1", 500), json!({"n": 256}));
    for (hung_up, stream) in [(1, true), (2, false)] {
        let mut connection = begun(&server, &with(endless.clone(), json!({"stream": stream})));
        if stream {
            connection.read_exact(&mut [0; 64]).unwrap();
        } else {
            wait_for(&server, "deepwide_sequences_running ", |running| running == 1);
        }
        drop(connection);
        wait_for(&server, "deepwide_cancelled_total ", |cancelled| cancelled == hung_up);
        assert_eq!(server.complete(greedy("w2", 2))["usage"]["completion_tokens"], 2);
    }
    wait_for(&server, "deepwide_sequences_running ", |running| running == 0);
}

#[test]
fn every_text_of_a_body_has_random_numbers_of_its_own() {
    let body = json!({"prompt": ["w1 w2", "w1 w2", "w1 w2"], "n": 2, "temperature": 1.5, "seed": 3, "max_tokens": 12,
                      "ignore_eos": true});
    let texts = |options: &[&str]| -> Vec<String> {
        let answer = Server::start(options).complete(body.clone());
        answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].to_string()).collect()
    };
    let alone = texts(&["--parallel", "1"]);
    assert_eq!(alone.iter().collect::<HashSet<_>>().len(), 6, "{alone:?}");
    assert_eq!(texts(&["--parallel", "5"]), alone);
}

#[test]
fn a_client_that_stalls_is_given_up() {
    let server = Server::start(&["--timeout", "1", "--parallel", "24"]);
    let answer = |request: &str| {
        let mut connection = TcpStream::connect(server.address).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(answer("POST /v1/completions HTTP/1.1\r\nHost: loc"), "", "half a head");
    let half = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    assert!(answer(half).starts_with("HTTP/1.1 408"), "half a body");
    // An answer that is not read: larger than the buffers on its way.
    let long = with(greedy("w1", 500), json!({"stream": true, "n": 64, "logprobs": 20}));
    let unread = begun(&server, &long);
    wait_for(&server, "deepwide_cancelled_total ", |cancelled| cancelled == 1);
    wait_for(&server, "deepwide_sequences_running ", |running| running == 0);
    drop(unread);
}

#[test]
fn a_full_queue_is_told() {
    let server = Server::start(&["--parallel", "1", "--queue", "0"]);
    let mut connection = begun(&server, &with(greedy("w1", 500), json!({"stream": true, "n": 256})));
    connection.read_exact(&mut [0; 64]).unwrap();
    let (status, error) = server.post("/v1/completions", &greedy("w2", 1));
    assert_eq!((status, &error["error"]["code"]), (503, &json!("overloaded")));
    drop(connection);
}

#[test]
fn echo_with_log_probabilities_scores_a_text_as_lm_eval_asks() {
    let server = Server::start(&[]);
    let body = json!({"prompt": [[7, 8, 9, 10]], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true, "seed": 1234});
    let answer = server.complete(body);
    let choice = &answer["choices"][0];
    let logprobs = &choice["logprobs"];
    let list = |key: &str| logprobs[key].as_array().unwrap().clone();
    assert!(choice["text"].as_str().unwrap().starts_with("w1 w2 w3 w4"));
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(key).len(), 5, "{key}");
    }
    assert_eq!((&list("token_logprobs")[0], &list("top_logprobs")[0]), (&Value::Null, &Value::Null));
    assert_eq!(list("tokens")[0], "w1");
    for position in 1..5 {
        let top = list("top_logprobs")[position].as_object().unwrap().clone();
        assert_eq!(top.len(), 1);
        let best = top.values().next().unwrap().as_f64().unwrap();
        assert!(list("token_logprobs")[position].as_f64().unwrap() <= best && best <= 0.0);
    }
    // Each token is at its offset.
    let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
    for (token, offset) in list("tokens").iter().zip(list("text_offset")) {
        let from: String = text[offset.as_u64().unwrap() as usize..].iter().collect();
        assert!(from.trim_start().starts_with(token.as_str().unwrap()), "{token} at {offset} in {choice}");
    }
    // An answer has a bounded number of them.
    let many = json!({"prompt": "w1", "n": 256, "max_tokens": 400, "logprobs": 20});
    let (status, error) = server.post("/v1/completions", &many);
    assert_eq!((status, &error["error"]["param"]), (400, &json!("logprobs")), "{error}");
    // Nothing is generated, and the prompt is scored all the same.
    let answer = server.complete(json!({"prompt": [7, 8, 9], "max_tokens": 0, "logprobs": 0, "echo": true}));
    assert_eq!(answer["choices"][0]["text"], "w1 w2 w3");
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().len(), 3);
}

#[test]
fn echo_repeats_a_text_as_it_was_given() {
    let server = Server::start(&[]);
    let prompt = "  w1   w2 ";
    let body = json!({"prompt": [prompt, prompt], "max_tokens": 2, "temperature": 0, "logprobs": 1, "echo": true});
    let choices = server.complete(body.clone())["choices"].clone();
    assert_eq!(choices[0]["text"], choices[1]["text"]);
    let of_ids = server.complete(with(body, json!({"prompt": [7, 8]})))["choices"][0].clone();
    let output = of_ids["text"].as_str().unwrap().strip_prefix("w1 w2").unwrap();
    assert_eq!(choices[0]["text"], format!("{prompt}{output}"));
    let (found, expected) = (&choices[0]["logprobs"], &of_ids["logprobs"]);
    for key in ["tokens", "token_logprobs", "top_logprobs"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
    let offsets: Vec<u64> = found["text_offset"].as_array().unwrap().iter().map(|at| at.as_u64().unwrap()).collect();
    assert_eq!(offsets[..3], [0, 4, 10]);
}

#[test]
fn a_prompt_that_begins_as_an_earlier_one_is_computed_from_there() {
    let server = Server::of(long(), &[]);
    let prompt = |salt: usize, len: usize| (0..len).map(|i| 6 + (i * i + salt) % 58).collect::<Vec<_>>();
    let (first, second) = (prompt(0, 600), [prompt(0, 600), prompt(7, 80)].concat());
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(&server.complete(greedy(first.clone(), 4))), 0);
    let body = with(greedy(second.clone(), 12), json!({"temperature": 1, "seed": 5, "logprobs": 2, "n": 2}));
    let whole = server.complete(with(body.clone(), json!({"cache_prompt": false})));
    let reused = server.complete(body.clone());
    assert_eq!((cached(&whole), cached(&reused)), (0, 512));
    assert_eq!(whole["choices"], reused["choices"]);
    assert_eq!(server.counter("deepwide_prompt_tokens_cached_total "), 512);
    // Each prompt of a body counts once, and the stream has the same numbers.
    let both =
        with(body, json!({"prompt": [first, second], "stream": true, "stream_options": {"include_usage": true}}));
    assert_eq!(cached(server.stream("/v1/completions", &both).last().unwrap()), 1024);
    let (status, error) = server.post("/v1/completions", &with(greedy("w1", 1), json!({"cache_prompt": 1})));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("cache_prompt")));
}

#[test]
fn log_probabilities_of_a_stream_are_those_of_the_whole_answer() {
    let server = Server::start(&[]);
    let prompt: Vec<usize> = (6..46).collect();
    let body = with(greedy(prompt, 24), json!({"logprobs": 2, "echo": true, "n": 2}));
    let whole = server.complete(body.clone());
    let chunks = server.stream("/v1/completions", &with(body, json!({"stream": true})));
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let of_choice = || chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index);
        let text: String = of_choice().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(choice["text"], text);
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let parts = of_choice().flat_map(|choice| choice["logprobs"][key].as_array().unwrap().clone());
            let parts: Vec<Value> = parts.collect();
            assert_eq!(parts.len(), 64, "{key}");
            assert_eq!(choice["logprobs"][key], json!(parts), "{key}");
        }
    }
}

#[test]
fn bad_requests_are_refused_in_the_form_of_openai() {
    let server = Server::start(&["--max-body", "10KB", "--ctx-size", "64"]);
    let json_type = [("Content-Type", "application/json")];
    for (body, param, said) in [
        ("{", Value::Null, "is not JSON"),
        ("[1]", Value::Null, "expected a JSON object"),
        ("{}", json!("prompt"), "found no prompt"),
        (r#"{"prompt": 5}"#, json!("prompt"), "expected a string"),
        (r#"{"prompt": []}"#, json!("prompt"), "empty array"),
        (r#"{"prompt": ["a", 1]}"#, json!("prompt"), "expected a string"),
        (r#"{"prompt": [1, -2]}"#, json!("prompt"), "expected a string"),
        (r#"{"prompt": [64]}"#, json!("prompt"), "token 64 of the prompt is not below 64"),
        (
            r#"{"prompt": "w1", "temperature": -1}"#,
            json!("temperature"),
            "found temperature = -1, expected a number of at least 0",
        ),
        (r#"{"prompt": "w1", "temperature": "hot"}"#, json!("temperature"), "expected a number"),
        (r#"{"prompt": "w1", "top_p": 1.5}"#, json!("top_p"), "from 0 to 1"),
        (r#"{"prompt": "w1", "n": 0}"#, json!("n"), "from 1 to 256"),
        (r#"{"prompt": "w1", "max_tokens": 65}"#, json!("max_tokens"), "from 0 to 64"),
        (r#"{"prompt": "w1", "logprobs": 21}"#, json!("logprobs"), "from 0 to 20"),
        (r#"{"prompt": "w1", "stop": 1}"#, json!("stop"), "expected a string or an array"),
        (r#"{"prompt": "w1", "best_of": 4}"#, json!("best_of"), "not supported"),
        (r#"{"prompt": "w1", "logit_bias": {"5": 1}}"#, json!("logit_bias"), "not supported"),
        (r#"{"prompt": "w1", "max_token": 4}"#, json!("max_token"), "did you mean `max_tokens`?"),
    ] {
        let (status, answer) = server.post_as("/v1/completions", body, &json_type);
        let error = &answer["error"];
        assert_eq!((status, &error["type"], &error["param"]), (400, &json!("invalid_request_error"), &param), "{body}");
        assert!(error["message"].as_str().unwrap().contains(said), "{body}: {error}");
    }
    for (num_prompt, max_tokens) in [(64, 1), (65, 0), (65, 1)] {
        let (status, answer) = server.post("/v1/completions", &greedy(vec![7; num_prompt], max_tokens));
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
    }
    // A prompt may fill the context if nothing is to follow it; an answer ends there.
    assert_eq!(server.complete(greedy(vec![7; 64], 0))["usage"]["completion_tokens"], 0);
    let cut = server.complete(greedy(vec![7; 62], 8));
    assert_eq!(
        (&cut["usage"]["completion_tokens"], &cut["choices"][0]["finish_reason"]),
        (&json!(2), &json!("length"))
    );
    for (body, param, said) in [
        (json!({}), "messages", "found no messages"),
        (json!({"messages": []}), "messages", "at least one"),
        (json!({"messages": [{"content": "w1"}]}), "messages[0]", "role"),
        (json!({"messages": [{"role": "user", "content": "w1"}], "top_logprobs": 2}), "top_logprobs", "logprobs"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0]",
            "expected \"text\"",
        ),
        (json!({"messages": [{"role": "user", "content": "w1"}], "tools": [{}]}), "tools", "not supported"),
    ] {
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(said), "{answer}");
    }
    let large = json!({"prompt": "w1 ".repeat(5000)}).to_string();
    assert_eq!(server.post_as("/v1/completions", &large, &json_type).0, 413);
    assert_eq!(server.post_as("/v1/completions", "{}", &[("Content-Type", "text/plain")]).0, 415);
    assert_eq!(server.post("/v1/nothing", &json!({})).0, 404);
    for (path, said) in [("/v1/models/other", "no model \"other\""), ("/v1/models/%FF", "not UTF-8")] {
        let (status, answer) = server.get(path);
        let error = &serde_json::from_str::<Value>(&answer).unwrap()["error"];
        assert_eq!((status, &error["type"]), (404, &json!("invalid_request_error")), "{path}");
        assert!(error["message"].as_str().unwrap().contains(said), "{path}: {error}");
    }
    assert_eq!(server.get("/v1/completions").0, 405);
    let elsewhere = [("Content-Type", "application/json"), ("Host", "example.com")];
    assert_eq!(server.post_as("/v1/completions", "{}", &elsewhere).0, 403);
    // After all that, it still works.
    assert_eq!(server.complete(greedy("w1", 3))["usage"]["completion_tokens"], 3);
    assert_eq!(server.get("/health"), (200, "{\"status\":\"ok\"}".to_owned()));
}

#[test]
fn a_key_is_asked_for_everywhere_but_at_the_page_and_the_health() {
    let server = Server::start(&["--api-key", "secret"]);
    let status = |path: &str, key: Option<&str>| {
        let mut request = agent().get(server.url(path));
        if let Some(key) = key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        request.call().unwrap().status().as_u16()
    };
    for path in ["/v1/models", "/metrics", "/v1/completions"] {
        assert_eq!((status(path, None), status(path, Some("secre"))), (401, 401), "{path}");
    }
    assert_eq!((status("/v1/models", Some("secret")), status("/", None), status("/health", None)), (200, 200, 200));
}

#[test]
fn the_page_needs_nothing_from_the_network() {
    let server = Server::start(&["--alias", "my model"]);
    let (status, page) = server.get("/");
    assert!(status == 200 && page.starts_with("<!doctype html>"));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
    let (_, models) = server.get("/v1/models");
    let models: Value = serde_json::from_str(&models).unwrap();
    let model = &models["data"][0];
    assert_eq!(
        (&model["id"], &model["num_sparse_layers"], &model["chat"]),
        (&json!("my model"), &json!(2), &json!(true))
    );
    let (status, one) = server.get("/v1/models/my%20model");
    assert_eq!((status, &serde_json::from_str::<Value>(&one).unwrap()), (200, model));
    assert_eq!(server.get("/v1/models/org/other").0, 404);
}

#[cfg(unix)]
#[test]
fn a_signal_lets_running_texts_end() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut server = Server::start(&["--parallel", "2"]);
        // About two seconds of tokens, so that they end within the grace on any machine and in any build.
        let start = Instant::now();
        server.complete(with(greedy("w1", 8), json!({"n": 2})));
        let count = (16.0 / start.elapsed().as_secs_f64()).clamp(8.0, 500.0) as usize;
        let mut connection = begun(&server, &with(greedy("w1", count), json!({"stream": true, "n": 2})));
        connection.read_exact(&mut [0; 64]).unwrap();
        server.signal(signal);
        let mut rest = String::new();
        connection.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: [DONE]"), "the stream is whole");
        assert_eq!(server.code(), Some(code));
        let messages = server.messages.take().expect("taken once").join().unwrap();
        assert_eq!(messages, ["stopped"], "a signal is no error");
    }
}

#[test]
fn generate_takes_its_prompt_from_a_pipe_and_never_chats_there() {
    let model = mixture().to_str().unwrap();
    let piped = |options: &[&str], input: &str| {
        let mut child = deepwide()
            .args(["generate", model, "-n", "6", "--ignore-eos"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(piped(&[], "w1 w2"), printed(&["generate", model, "-n", "6", "--ignore-eos", "-p", "w1 w2"]));
    let chat = piped(&["--chat"], "w1");
    assert_eq!(chat, printed(&["generate", model, "-n", "6", "--ignore-eos", "--chat", "-p", "w1"]));
    assert_eq!(chat, printed(&["generate", model, "-n", "6", "--ignore-eos", "-p", "user w1 assistant"]));
    let sampled = |seed: &str| piped(&["--temp", "1.2", "--seed", seed, "--samples", "3"], "w1");
    assert_eq!(sampled("7"), sampled("7"));
    assert_ne!(sampled("7"), sampled("8"));
    let routed = piped(&["--show-routing=1", "--top-k-experts", "1"], "w1");
    assert!(routed.starts_with('['), "{routed}");
}

#[test]
fn without_tokens_to_generate_no_speed_is_told() {
    let output = run(&["generate", mixture().to_str().unwrap(), "-p", "w1 w2 w3", "-n", "0"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("3 prompt tokens, not computed"), "{stderr}");
    assert!(!stderr.contains("t/s"), "{stderr}");
}

#[test]
fn generate_refuses_before_it_loads() {
    let model = mixture().to_str().unwrap();
    let (dense, untold) = (dense().to_str().unwrap(), tempfile::tempdir().unwrap());
    let untold = crate::grow::tiny_base(&untold.path().join("dense"));
    let untold = untold.to_str().unwrap();
    for (words, code, said) in [
        (vec![model, "-p", "w1", "--temp", "-1"], 2, "--temp -1: expected a number of at least 0"),
        (vec![model, "-p", "w1", "--show-routing=2"], 3, "--show-routing=2: the model has 2 layers"),
        (vec![model, "-p", "w1", "--top-k-experts", "5"], 3, "--top-k-experts 5"),
        (vec![model, "-p", "w1", "--ctx-size", "513"], 3, "--ctx-size 513: the model has 512 positions"),
        (vec![model, "-p", "w1", "--stop-token", "w99"], 3, "--stop-token \"w99\": the vocabulary has no such token"),
        (vec![model, "-p", "w1 w1 w1", "-c", "2"], 3, "the prompt has 3 tokens, expected at most 1: the context has 2"),
        (vec![dense, "-p", "w1", "--show-routing"], 3, "--show-routing: the model has no experts"),
        (vec![dense, "-p", "w1", "--top-k-experts", "1"], 3, "the model has no experts"),
        (vec![dense, "-p", "w1", "--moe", "2", "--moe-top-k", "3"], 3, "--moe 2: num_experts_per_tok 3"),
        (vec![dense, "-p", "w1", "--moe-top-k", "3"], 2, "--moe"),
        (vec![untold, "-p", "w1", "--chat"], 3, "has no chat template (--chat-template solar, or a file, gives one)"),
        (vec!["nowhere", "-p", "w1"], 4, "nowhere"),
    ] {
        let output = run(&[vec!["generate"], words.clone()].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
}

#[test]
fn a_model_grown_on_the_fly_gives_the_text_of_the_written_one() {
    let base = dense().to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = |model: &str, options: &[&str]| {
        let words = [
            "generate",
            model,
            "-p",
            "w1 w2",
            "-n",
            "24",
            "--ignore-eos",
            "--temp",
            "1",
            "--top-k",
            "40",
            "--seed",
            "5",
        ];
        printed(&[&words[..], options].concat())
    };
    let plain = text(base, &[]);
    for (name, grown, same) in [
        ("deep", &["--dus", "0"][..], &["--dus", "0"][..]),
        (
            "wide",
            &["--moe", "4", "--top-k", "1", "--noise", "0.5", "--seed", "9"][..],
            &["--moe", "4", "--moe-top-k", "1", "--noise", "0.5", "--growth-seed", "9"][..],
        ),
    ] {
        let out = folder.path().join(name);
        let out = out.to_str().unwrap();
        printed(&[&["grow", base, out], grown].concat());
        let written = text(out, &[]);
        assert_eq!(text(base, same), written, "{name}");
        assert_ne!(written, plain, "{name}");
    }
    let object: Value = serde_json::from_str(&text(base, &["--dus", "0", "--json"])).unwrap();
    assert_eq!(object["model"], "tiny-depth-up-scaling-m-0");
}
