//! Calls into the `tokenizers` library.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the library, and turns what it says on failure, panics included, into a sentence.
pub(super) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // The library only reads what the closures share with us, so a panic leaves nothing half-changed behind.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
            Err(format!("the tokenizers library panicked: {}", said.unwrap_or("without a message")))
        }
    }
}
