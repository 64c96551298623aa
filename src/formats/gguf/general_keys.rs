//! The keys `general.*` of a GGUF file that say where it comes from and how it was quantized.

use super::failure::Failure;
use super::file_type;
use super::metadata::Metadata;
use crate::formats::origin::{License, Origin};

/// The most models that a file is said to be made of.
const MOST_MODELS: usize = 64;

/// Where its models are.
const HUB: &str = "https://huggingface.co/";

/// Where the file comes from, as far as it says.
pub(super) fn origin(keys: &Metadata<'_>) -> Result<Origin, Failure> {
    let text = |key: &str| told(keys.text(key));
    let license = match text("general.license")? {
        Some(id) => License::new(id, text("general.license.name")?, text("general.license.link")?),
        None => None,
    };
    let count = told(keys.count("general.base_model.count"))?.unwrap_or(0).min(MOST_MODELS);
    let mut models = Vec::new();
    for i in 0..count {
        let url = text(&format!("general.base_model.{i}.repo_url"))?;
        models.extend(url.as_deref().and_then(|url| url.strip_prefix(HUB)).map(str::to_owned));
    }
    Ok(Origin { license, base_models: Vec::new() }.with_base_models(models))
}

/// What llama.cpp calls the number types of the file together, if the file says which.
pub(super) fn file_type(keys: &Metadata<'_>) -> Result<Option<&'static str>, Failure> {
    Ok(told(keys.count("general.file_type"))?.and_then(file_type::name))
}

/// A key of another type than it should have tells nothing, which is no fault: nothing is computed from these.
fn told<T>(asked: Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
    match asked {
        Err(Failure::Fault(_)) => Ok(None),
        asked => asked,
    }
}
