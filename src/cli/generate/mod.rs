//! `generate`: text from a prompt, and chats on a terminal.

mod args;
mod escape;
mod printer;
mod routing;
mod session;
mod talk;

pub use args::GenerateArgs;

use self::args::Input;
use self::session::Session;
use super::console;
use super::failure::Failure;

/// Generates text.
///
/// # Errors
/// If an option does not fit, the model cannot be loaded, or the prompt does not fit it.
pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    args.sampling()?;
    let input = args.input()?;
    if matches!(input, Input::Terminal) && args.samples > 1 {
        return Err(
            Failure::usage("a chat on a terminal has one text").for_option(format_args!("--samples {}", args.samples))
        );
    }
    if args.draws_nothing() {
        console::tell("note: without --temp every token is the most likely one; options of sampling change nothing");
    }
    args.model.threads.run(|| {
        let loaded = args.model.load(args.samples, args.model.ctx_size.or(args.most_tokens()).unwrap_or(usize::MAX))?;
        let session = Session::new(args, &loaded)?;
        match input {
            Input::Text(text) => session.once(&text),
            Input::Terminal => talk::talk(&session),
        }
    })
}
