//! Errors as OpenAI's API has them.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::generate::GenerateError;

/// An error that a client receives: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status of the response.
    pub status: StatusCode,
    /// Found and expected.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

impl ApiError {
    /// 400: a field of the request.
    pub fn field(param: &str, message: impl ToString) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// An error with this status.
    pub fn new(status: StatusCode, message: impl ToString) -> Self {
        Self { status, message: message.to_string(), param: None, code: None }
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let message = "the API key is missing or wrong, expected the header Authorization: Bearer KEY";
        Self { code: Some("invalid_api_key"), ..Self::new(StatusCode::UNAUTHORIZED, message) }
    }

    /// 503: the queue is full.
    pub fn overloaded(most: usize) -> Self {
        let message =
            format!("{most} requests are running or waiting, which is the limit of this server: try again later");
        Self { code: Some("overloaded"), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// The error as JSON.
    pub fn to_json(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        let code = match error {
            GenerateError::NotFinite { .. } | GenerateError::Tokenizer(_) => {
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, error);
            }
            GenerateError::Sampling(fault) => return Self::field(fault.field, fault),
            GenerateError::PromptTooLong { .. } => Some("context_length_exceeded"),
            GenerateError::EmptyPrompt | GenerateError::UnknownToken { .. } => None,
        };
        Self { code, ..Self::field("prompt", error) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}
