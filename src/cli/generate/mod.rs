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
    args.model.threads.run(|| match &input {
        Input::Text(text) => {
            let mut ids = None;
            let loaded = args.model.load(args.samples, |tokenizer, template| {
                let ids = ids.insert(prompt(args, tokenizer, template, text)?);
                Ok(most_positions(args, ids.len()))
            })?;
            Session::new(args, &loaded)?.once(ids.expect("a loaded model has encoded the prompt"))
        }
        Input::Terminal => {
            // The turns are not known yet.
            let loaded = args.model.load(args.samples, |_, _| Ok(most_positions(args, 0)))?;
            talk::talk(&Session::new(args, &loaded)?)
        }
    })
}

/// Tokens of a prompt and its text at most.
fn most_positions(args: &GenerateArgs, num_prompt: usize) -> usize {
    let most = args.most_tokens().map_or(usize::MAX, |num_output| num_prompt.saturating_add(num_output));
    args.model.ctx_size.unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::args::tests::parsed;
    use super::*;
    use crate::tokenizer::{ChatTemplate, Tokenizer};

    #[test]
    fn memory_is_foreseen_for_the_prompt_and_its_text() {
        let words = ["user", "a", "b"].map(str::to_owned);
        let tokenizer = Tokenizer::word_level(&words);
        let source = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}";
        let template = ChatTemplate::new("t.jinja", source, [].into()).unwrap();
        let positions = |words: &str, text: Option<&str>| {
            let args = parsed(&format!("m {words}")).unwrap();
            let num_prompt = text.map_or(0, |text| prompt(&args, &tokenizer, Some(&template), text).unwrap().len());
            most_positions(&args, num_prompt)
        };
        assert_eq!(positions("-n 5", Some("a b a")), 8);
        assert_eq!(positions("-n 5 --chat", Some("a b a")), 9, "the template adds a word");
        assert_eq!(positions("-n 5 --chat", None), 5);
        assert_eq!(positions("-n 5 -c 100", Some("a b a")), 100);
        assert_eq!(positions("-n -1", Some("a b a")), usize::MAX, "until the context is full");
    }
}
