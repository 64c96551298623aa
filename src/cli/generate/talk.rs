//! A chat of several turns on a terminal.

use std::io::{self, BufRead, Write};
use std::path::Path;

use super::printer::Printer;
use super::session::Session;
use crate::cli::failure::Failure;
use crate::cli::{console, output};
use crate::generate::Engine;
use crate::model::AnyDecoder;
use crate::tokenizer::Message;

const HELP: &str = "/reset begins anew, /exit or Ctrl-D ends";

/// Reads messages from stdin and answers each, until stdin ends.
///
/// # Errors
/// If stdin or stdout fails, or a message cannot be answered.
pub(super) fn talk(session: &Session<'_>) -> Result<(), Failure> {
    let begin =
        || -> Vec<Message> { session.args.system_prompt.iter().map(|system| Message::new("system", system)).collect() };
    console::tell(HELP);
    let (mut messages, mut engine) = (begin(), session.chat_engine());
    let mut lines = io::stdin().lock().lines();
    loop {
        // The prompt is no output: it goes to the terminal that stderr is.
        let _closed = write!(io::stderr(), "> ").and_then(|()| io::stderr().flush());
        let Some(line) = lines.next().transpose().map_err(Failure::reading(Path::new("stdin")))? else { return Ok(()) };
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/reset" => messages = begin(),
            text => {
                messages.push(Message::new("user", text));
                match answer(session, &mut engine, &messages) {
                    Ok(text) => messages.push(Message::new("assistant", &text)),
                    // Such as a chat that has outgrown the context.
                    Err(failure) => {
                        messages.pop();
                        console::fail(format_args!("error: {failure} ({HELP})"));
                    }
                }
            }
        }
    }
}

/// Prints the next turn of the assistant, and returns it.
fn answer(session: &Session<'_>, engine: &mut Engine<'_, AnyDecoder>, messages: &[Message]) -> Result<String, Failure> {
    let printer = Printer::new(false, 1, session.routing.as_ref());
    let ids = session.chat_ids(messages)?;
    let (outputs, timings) = session.complete(engine, ids, &mut |delta| printer.delta(delta))?;
    output::print("\n")?;
    console::detail(timings.line());
    Ok(outputs.into_iter().next().expect("a chat has one sample").text)
}
