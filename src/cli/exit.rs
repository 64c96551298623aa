//! How a command ends: its failure printed, its exit code returned.

use std::process::ExitCode;

use super::failure::Failure;
use super::{console, interrupt, output};

/// Prints a failure, on stderr as text or on stdout as one JSON object, and returns the exit code of the process.
///
/// After a signal the code is that of the signal, which is then the cause of the failure.
pub fn finish(result: Result<(), Failure>, json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = interrupt::exit_code().unwrap_or_else(|| failure.code());
            // If stdout is broken, the message goes to stderr.
            if !json || output::print(&format!("{}\n", failure.to_json(code))).is_err() {
                console::fail(format_args!("error: {failure}"));
            }
            ExitCode::from(code)
        }
    }
}
