//! `generate`: text from a prompt, and chats on a terminal.

mod args;
mod escape;
mod printer;
mod routing;
mod session;
mod talk;

pub use args::GenerateArgs;

use self::args::Input;
use self::session::{Session, prompt};
use super::console;
use super::failure::Failure;
use crate::tokenizer::{ChatTemplate, Tokenizer};

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
        let loaded =
            args.model.load(args.samples, |tokenizer, template| most_positions(args, &input, tokenizer, template))?;
        let session = Session::new(args, &loaded)?;
        match input {
            Input::Text(text) => session.once(&text),
            Input::Terminal => talk::talk(&session),
        }
    })
}

/// Tokens of the prompt and its text at most. The turns of a chat on a terminal are not known yet.
fn most_positions(
    args: &GenerateArgs,
    input: &Input,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<usize, Failure> {
    match (args.model.ctx_size, args.most_tokens(), input) {
        (Some(context), ..) => Ok(context),
        (None, None, _) => Ok(usize::MAX),
        (None, Some(num_output), Input::Terminal) => Ok(num_output),
        (None, Some(num_output), Input::Text(text)) => {
            Ok(prompt(args, tokenizer, template, text)?.len().saturating_add(num_output))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::args::tests::parsed;
    use super::*;

    #[test]
    fn memory_is_foreseen_for_the_prompt_and_its_text() {
        let words = ["user", "a", "b"].map(str::to_owned);
        let tokenizer = Tokenizer::word_level(&words);
        let source = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}";
        let template = ChatTemplate::new("t.jinja", source, [].into()).unwrap();
        let positions = |words: &str, text: Option<&str>| {
            let args = parsed(&format!("m {words}")).unwrap();
            let input = text.map_or(Input::Terminal, |text| Input::Text(text.to_owned()));
            most_positions(&args, &input, &tokenizer, Some(&template)).unwrap()
        };
        assert_eq!(positions("-n 5", Some("a b a")), 8);
        assert_eq!(positions("-n 5 --chat", Some("a b a")), 9, "the template adds a word");
        assert_eq!(positions("-n 5 --chat", None), 5);
        assert_eq!(positions("-n 5 -c 100", Some("a b a")), 100);
        assert_eq!(positions("-n -1", Some("a b a")), usize::MAX, "until the context is full");
    }
}
