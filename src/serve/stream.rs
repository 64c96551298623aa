//! Answers, whole and as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel};
use tokio_stream::wrappers::ReceiverStream;

use super::answer::{AnswerHeader, ChoiceNews, Endpoint};
use super::helpers::Helpers;
use super::served::Served;
use super::texts::Texts;
use super::{ApiError, Update};

/// Events that wait for a slow client before its stream pauses; its texts go on meanwhile.
const WAITING_EVENTS: usize = 64;
/// Longest time without an event, or a comment in its place, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Tokens whose log-probabilities are made JSON on the thread of HTTP; those of more take longer than a helper takes to
/// begin.
const FEW_LOGPROBS: usize = 16;

/// An answer that is being computed. It holds one of the places of the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) header: AnswerHeader,
    pub(super) served: Arc<Served>,
    pub(super) helpers: Helpers,
    pub(super) texts: Texts,
    pub(super) updates: UnboundedReceiver<Update>,
    pub(super) include_usage: bool,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Answer {
    /// Waits for all texts, and answers with one object.
    pub(super) async fn whole(mut self) -> Result<Response, ApiError> {
        let mut whole: Vec<ChoiceNews> = Vec::new();
        while let Some(news) = self.next().await? {
            if whole.is_empty() {
                whole = (0..self.texts.len()).map(|index| ChoiceNews { index, ..ChoiceNews::default() }).collect();
            }
            let choice = &mut whole[news.index];
            (choice.logprobs, choice.routing, choice.offset) = (news.logprobs, news.routing, news.offset);
            choice.extend(news);
        }
        let (num_logprobs, usage) = (whole.iter().map(ChoiceNews::num_logprobs).sum(), self.texts.usage());
        let to_json = move |header: &AnswerHeader, served: &Served| {
            let choices = whole.iter().map(|news| header.choice(&served.tokenizer, news, false)).collect();
            header.whole(choices, usage).to_string()
        };
        let json = self.json(num_logprobs, to_json).await?;
        Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
    }

    /// Answers with a stream of parts.
    pub(super) fn stream(self) -> Response {
        let (events, stream) = channel(WAITING_EVENTS);
        // A connection without a sign of life ends.
        let interval = (self.served.limits.timeout / 2).min(KEEP_ALIVE);
        tokio::spawn(async move {
            // The client has hung up: dropping the answer gives up its texts.
            let _closed = self.send_all(&events).await;
        });
        Sse::new(ReceiverStream::new(stream)).keep_alive(KeepAlive::new().interval(interval)).into_response()
    }

    /// Sends the parts, and `[DONE]`. `None` if the client does not listen any more.
    async fn send_all(mut self, events: &Sender<Result<Event, Infallible>>) -> Option<()> {
        let send = async |json: String| events.send(Ok(Event::default().data(json))).await.ok();
        if self.header.endpoint == Endpoint::Chat {
            for index in 0..self.texts.len() {
                send(self.header.role_chunk(index).to_string()).await?;
            }
        }
        loop {
            // A client that hangs up is noticed while there are no news, too.
            let next = {
                let closed = std::pin::pin!(events.closed());
                let chunk = std::pin::pin!(self.next_chunk());
                first_of(chunk, closed).await?
            };
            match next {
                Ok(Some(chunk)) => send(chunk).await?,
                Ok(None) => break,
                Err(error) => {
                    send(error.to_json().to_string()).await?;
                    break;
                }
            }
        }
        if self.include_usage {
            send(self.header.usage_chunk(self.texts.usage()).to_string()).await?;
        }
        send("[DONE]".to_owned()).await
    }

    /// The next part of a stream, as JSON; `None` if all texts have ended.
    async fn next_chunk(&mut self) -> Result<Option<String>, ApiError> {
        let Some(news) = self.next().await? else { return Ok(None) };
        let num_logprobs = news.num_logprobs();
        let to_json = move |header: &AnswerHeader, served: &Served| {
            header.chunk(vec![header.choice(&served.tokenizer, &news, true)]).to_string()
        };
        self.json(num_logprobs, to_json).await.map(Some)
    }

    /// JSON with the log-probabilities of so many tokens, made by a helper if they are not few.
    async fn json(
        &self,
        num_logprobs: usize,
        to_json: impl FnOnce(&AnswerHeader, &Served) -> String + Send + 'static,
    ) -> Result<String, ApiError> {
        if num_logprobs <= FEW_LOGPROBS {
            return Ok(to_json(&self.header, &self.served));
        }
        let (header, served) = (self.header.clone(), self.served.clone());
        self.helpers.run(move || to_json(&header, &served)).await
    }

    /// The next part of a text; `None` if all have ended.
    async fn next(&mut self) -> Result<Option<ChoiceNews>, ApiError> {
        while !self.texts.are_done() {
            let Some(update) = self.updates.recv().await else {
                return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"));
            };
            if let Some(news) = self.texts.take(update)? {
                return Ok(Some(news));
            }
        }
        Ok(None)
    }
}

/// The result of a future, unless another one ends first.
async fn first_of<T>(
    mut wanted: std::pin::Pin<&mut impl Future<Output = T>>,
    mut end: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(value) = wanted.as_mut().poll(context) {
            return std::task::Poll::Ready(Some(value));
        }
        end.as_mut().poll(context).map(|()| None)
    })
    .await
}
