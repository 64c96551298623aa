//! Routes, limits and shutdown of the server.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{AnswerHeader, Endpoint};
use super::body::Body;
use super::chat_body::ChatBody;
use super::completion_body::CompletionBody;
use super::connection::{Client, Connections};
use super::echo::Echo;
use super::helpers::Helpers;
use super::served::{Limits, Served};
use super::stream::Answer;
use super::texts::Texts;
use super::{ApiError, Job, Metrics, Worker};
use crate::error::quoted;
use crate::generate::{Engine, Request as TextRequest};
use crate::model::CausalLm;

/// How long texts may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often the server looks whether it was told to stop.
const TICK: Duration = Duration::from_millis(50);
/// Open connections at most, below the 1,024 files that a process may usually have open.
const MAX_CONNECTIONS: usize = 512;
/// The chat page.
const PAGE: &str = include_str!("page.html");

/// Why a server has failed.
#[derive(Debug, thiserror::Error)]
#[error("the server failed: {0}")]
pub struct ServeError(#[from] std::io::Error);

/// State that handlers share.
#[derive(Debug)]
struct App {
    served: Arc<Served>,
    metrics: Arc<Metrics>,
    jobs: Sender<Job>,
    /// Places of requests that are computed or wait.
    places: Arc<Semaphore>,
    num_places: usize,
    /// Tokenize prompts.
    readers: Helpers,
    /// Write long answers.
    writers: Helpers,
    /// Whether only this machine is served; then a browser must not be led here under another name.
    is_local: bool,
}

/// Serves a model until `is_stopped`. The calling thread computes. Requests that are answered then have ten more seconds.
///
/// # Errors
/// [`ServeError`].
pub fn serve<M: CausalLm>(
    engine: Engine<'_, M>,
    served: Arc<Served>,
    listener: TcpListener,
    is_stopped: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let (jobs, inbox) = channel();
    let metrics = Arc::new(Metrics::default());
    let num_places = served.limits.parallel + served.limits.queue;
    let is_local = listener.local_addr()?.ip().is_loopback();
    let places = Arc::new(Semaphore::new(num_places));
    let (readers, writers) = (Helpers::default(), Helpers::default());
    let metrics_of_app = metrics.clone();
    let app = Arc::new(App { served, metrics: metrics_of_app, jobs, places, num_places, readers, writers, is_local });
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let http = std::thread::Builder::new().name("http".to_owned());
    let http = http.spawn(move || {
        let ended = runtime.block_on(answer_until(app, listener, is_stopped));
        // A long prompt that is being tokenized does not hold up the end.
        runtime.shutdown_background();
        ended
    })?;
    Worker::new(engine, &metrics).run(&inbox);
    http.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(())
}

async fn answer_until(
    app: Arc<App>,
    listener: TcpListener,
    is_stopped: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = Connections::new(listener, MAX_CONNECTIONS, app.served.limits.timeout);
    let service = router(app).into_make_service_with_connect_info::<Client>();
    let server = axum::serve(connections, service).with_graceful_shutdown(stopped(is_stopped.clone()));
    let mut server = tokio::spawn(server.into_future());
    while !is_stopped() {
        match tokio::time::timeout(TICK, &mut server).await {
            Ok(ended) => return ended.unwrap_or(Ok(())),
            Err(_) => continue,
        }
    }
    // Connections that are still open are closed with the runtime.
    let _open = tokio::time::timeout(GRACE, server).await;
    Ok(())
}

async fn stopped(is_stopped: impl Fn() -> bool) {
    while !is_stopped() {
        tokio::time::sleep(TICK).await;
    }
}

fn router(app: Arc<App>) -> Router {
    let limit = DefaultBodyLimit::max(app.served.limits.body_bytes);
    Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/health", get(async || Json(json!({"status": "ok"}))))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not allow this method")
        })
        .layer(limit)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Checks a request before its body is read, and counts its response.
async fn guard(
    State(app): State<Arc<App>>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
    next: Next,
) -> Response {
    let _answering = client.answering();
    const PATHS: [&str; 6] = ["/", "/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions"];
    let path = PATHS.into_iter().find(|path| *path == request.uri().path()).unwrap_or("other");
    let response = match app.admit(path, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    app.metrics.respond(path, response.status().as_u16());
    response
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.to_text())
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [app.model()]}))
}

async fn model(
    State(app): State<Arc<App>>,
    // axum would answer a name that is not UTF-8 with plain text.
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let found = match id {
        Ok(Path(id)) if id == app.served.name => return Ok(Json(app.model())),
        Ok(Path(id)) => quoted(&id),
        Err(_) => "with a name that is not UTF-8".to_owned(),
    };
    let message = format!("there is no model {found}, expected {}", quoted(&app.served.name));
    Err(ApiError::new(StatusCode::NOT_FOUND, message))
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (place, parsed) = app.parsed(request, CompletionBody::parse).await?;
    let CompletionBody { body, requests, echoes } = parsed;
    app.answer(Endpoint::Completion, body, requests, echoes, place).await
}

async fn chat_completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (place, parsed) = app.parsed(request, ChatBody::parse).await?;
    let ChatBody { body, requests } = parsed;
    app.answer(Endpoint::Chat, body, requests, Vec::new(), place).await
}

impl App {
    fn model(&self) -> Value {
        let Served { name, created, limits, num_experts, num_sparse_layers, template, .. } = &*self.served;
        json!({
            "id": name, "object": "model", "created": created, "owned_by": "deepwide", "max_model_len": limits.context,
            "max_tokens": limits.max_tokens,
            "num_experts": num_experts, "num_sparse_layers": num_sparse_layers, "chat": template.is_some(),
        })
    }

    fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // A page of another site can let its own name mean this machine, and the browser would take us for that site. With a key,
        // which such a page lacks, a proxy may hand on the name by which it is called.
        let has_key = self.served.api_key.is_some();
        if self.is_local && !has_key && !text(header::HOST).is_none_or(is_local_name) {
            let message = "found another name than localhost in the Host header of a server for this machine only";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message));
        }
        let Some(key) = self.served.api_key.as_deref().filter(|_| !["/", "/health"].contains(&path)) else {
            return Ok(());
        };
        let credentials = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
        let given = credentials.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key);
        match given.is_some_and(|given| is_same(given.as_bytes(), key.as_bytes())) {
            true => Ok(()),
            false => Err(ApiError::unauthorized()),
        }
    }

    /// The body of a request that says that it is JSON: a page of another site cannot send such a request unasked.
    async fn json(&self, request: Request) -> Result<Bytes, ApiError> {
        let Limits { timeout, body_bytes, .. } = self.served.limits;
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.trim().to_ascii_lowercase().starts_with("application/json") {
            let message = format!("found Content-Type {kind:?}, expected application/json");
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {timeout:?}"));
        let body = tokio::time::timeout(timeout, Bytes::from_request(request, &())).await.map_err(late)?;
        body.map_err(|error| match error.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::new(status, format!("the body is larger than {body_bytes} bytes"))
            }
            status => ApiError::new(status, error),
        })
    }

    /// Takes a place in the queue and parses a request. Tokenizing is work, too: it keeps the place until it is done, even
    /// if the client hangs up meanwhile.
    async fn parsed<T: Send + 'static>(
        &self,
        request: Request,
        parse: fn(&[u8], &Served) -> Result<T, ApiError>,
    ) -> Result<(OwnedSemaphorePermit, T), ApiError> {
        let bytes = self.json(request).await?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| ApiError::overloaded(self.num_places))?;
        let served = self.served.clone();
        let (place, parsed) = self.readers.run(move || (place, parse(&bytes, &served))).await?;
        Ok((place, parsed?))
    }

    /// Hands the texts of a request to the computing thread, and answers as they come.
    async fn answer(
        &self,
        endpoint: Endpoint,
        body: Body,
        requests: Vec<TextRequest>,
        echoes: Vec<Echo>,
        place: OwnedSemaphorePermit,
    ) -> Result<Response, ApiError> {
        let (reply, updates) = tokio::sync::mpsc::unbounded_channel();
        let texts = Texts::new(&requests, echoes);
        self.jobs
            .send(Job { requests, stop: body.stop, reply })
            .map_err(|_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"))?;
        let (served, helpers, include_usage) = (self.served.clone(), self.writers.clone(), body.include_usage);
        let header = AnswerHeader::new(endpoint, served.name.clone());
        let answer = Answer { header, served, helpers, texts, updates, include_usage, _place: place };
        if body.stream { Ok(answer.stream()) } else { answer.whole().await }
    }
}

/// Whether a `Host` header names this machine.
fn is_local_name(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Compares secrets in a time that depends on their lengths only.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known_with_and_without_a_port() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "[::1]:8080", "127.1.2.3"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["example.com", "localhost.example.com:80", "10.0.0.1:8080", "127.0.0.1.example.com", ""] {
            assert!(!is_local_name(host), "{host}");
        }
        assert!(is_same(b"key", b"key") && !is_same(b"key", b"kez") && !is_same(b"key", b"key2"));
    }
}
