//! Answers, whole and as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel};
use tokio_stream::wrappers::ReceiverStream;

use super::answer::{AnswerHeader, ChoiceNews, Endpoint};
use super::served::Served;
use super::texts::Texts;
use super::{ApiError, Update};

/// Events that wait for a slow client before its stream pauses; its texts go on meanwhile.
const WAITING_EVENTS: usize = 64;
/// Longest time without an event, or a comment in its place, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An answer that is being computed. It holds one of the places of the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) header: AnswerHeader,
    pub(super) served: Arc<Served>,
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
        let choices = whole.iter().map(|news| self.header.choice(&self.served.tokenizer, news, false)).collect();
        Ok(Json(self.header.whole(choices, self.texts.usage())).into_response())
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
        let send = async |value: Value| events.send(Ok(Event::default().data(value.to_string()))).await.ok();
        if self.header.endpoint == Endpoint::Chat {
            for index in 0..self.texts.len() {
                send(self.header.role_chunk(index)).await?;
            }
        }
        loop {
            // A client that hangs up is noticed while there are no news, too.
            let next = {
                let closed = std::pin::pin!(events.closed());
                let news = std::pin::pin!(self.next());
                first_of(news, closed).await?
            };
            match next {
                Ok(Some(news)) => {
                    let choice = self.header.choice(&self.served.tokenizer, &news, true);
                    send(self.header.chunk(vec![choice])).await?;
                }
                Ok(None) => break,
                Err(error) => {
                    send(error.to_json()).await?;
                    break;
                }
            }
        }
        if self.include_usage {
            send(self.header.usage_chunk(self.texts.usage())).await?;
        }
        events.send(Ok(Event::default().data("[DONE]"))).await.ok()
    }

    /// The next part of a text; `None` if all have ended.
    async fn next(&mut self) -> Result<Option<ChoiceNews>, ApiError> {
        while !self.texts.are_done() {
            let Some(update) = self.updates.recv().await else {
                return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"));
            };
            if let Some(news) = self.texts.take(&self.served.tokenizer, update)? {
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
