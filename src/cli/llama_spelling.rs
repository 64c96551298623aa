//! The spelling of llama.cpp's programs.
//!
//! Their short options have several letters, which the parser here would read as several options, or as one with a value. The commonest
//! ones without a counterpart get their long names, so that the parser refuses them by name.

use std::ffi::OsString;

/// Names of options by command: that of llama-cli, llama-server and llama-perplexity, and the one here.
const NAMES: [(&str, &[(&str, &str)]); 3] = [
    (
        "generate",
        &[
            ("-cnv", "--chat"),
            ("--conversation", "--chat"),
            ("-no-cnv", "--no-conversation"),
            ("-sys", "--system-prompt"),
            ("-ngl", "--n-gpu-layers"),
        ],
    ),
    ("serve", &[("-np", "--parallel"), ("-ngl", "--n-gpu-layers")]),
    ("perplexity", &[("-ngl", "--n-gpu-layers")]),
];
/// Options whose value is any text, which is kept as it is.
const TEXTS: [&str; 7] = ["-p", "--prompt", "--stop", "-sys", "--system", "--system-prompt", "--chat-template"];
/// Short options without a counterpart, and their long names.
const UNKNOWN: [(&str, &str); 18] = [
    ("-cb", "--cont-batching"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-dev", "--device"),
    ("-fa", "--flash-attn"),
    ("-hf", "--hf-repo"),
    ("-lv", "--log-verbosity"),
    ("-mg", "--main-gpu"),
    ("-nkvo", "--no-kv-offload"),
    ("-ot", "--override-tensor"),
    ("-sm", "--split-mode"),
    ("-sp", "--special"),
    ("-st", "--single-turn"),
    ("-sysf", "--system-prompt-file"),
    ("-tb", "--threads-batch"),
    ("-to", "--timeout"),
    ("-ts", "--tensor-split"),
    ("-ub", "--ubatch-size"),
];
/// The option whose value is the model, which is an argument here.
const MODEL: [&str; 2] = ["-m", "--model"];

/// The words of a command line: behind one of these commands, options of llama.cpp become those that the parser knows.
pub fn llama_spelled(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter().peekable();
    let mut spelled: Vec<OsString> = words.next().into_iter().collect();
    for word in words.by_ref() {
        let is_command = !word.to_string_lossy().starts_with('-');
        spelled.push(word);
        if is_command {
            break;
        }
    }
    let command = spelled.last().and_then(|word| word.to_str()).unwrap_or_default();
    if let Some((_, names)) = NAMES.iter().find(|(name, _)| *name == command) {
        let mut is_value = false;
        while let Some(word) = words.next() {
            if is_value {
                is_value = false;
                spelled.push(word);
                continue;
            }
            is_value = TEXTS.iter().any(|option| word == *option);
            if word == "--" {
                spelled.push(word);
                break;
            }
            let is_last = words.peek().is_none();
            spelled.extend(spelled_word(word, names, is_last));
        }
    }
    spelled.extend(words);
    spelled
}

/// A word, with the value that follows `=`; `None` if it only announces the model, which the last word cannot.
fn spelled_word(word: OsString, names: &[(&str, &str)], is_last: bool) -> Option<OsString> {
    let Some(text) = word.to_str() else { return Some(word) };
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    if MODEL.contains(&name) && !(is_last && value.is_none()) {
        return value.map(OsString::from);
    }
    match (names.iter().chain(&UNKNOWN).find(|(theirs, _)| *theirs == name), value) {
        (Some((_, ours)), None) => Some(ours.into()),
        (Some((_, ours)), Some(value)) => Some(format!("{ours}={value}").into()),
        (None, _) => Some(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(line: &str) -> String {
        let words = llama_spelled(line.split(' ').map(OsString::from));
        words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_options_of_llama_become_ours() {
        for (theirs, ours) in [
            ("deepwide generate -m a.gguf -p b -n 4 -no-cnv", "deepwide generate a.gguf -p b -n 4 --no-conversation"),
            ("deepwide -q generate --model=a -cnv -sys= b", "deepwide -q generate a --chat --system-prompt= b"),
            ("deepwide serve -m a -ngl 99 -np 4", "deepwide serve a --n-gpu-layers 99 --parallel 4"),
            ("deepwide generate a -fa on -ub 512", "deepwide generate a --flash-attn on --ubatch-size 512"),
            ("deepwide perplexity -ngl=99 -m a -f b", "deepwide perplexity --n-gpu-layers=99 a -f b"),
        ] {
            assert_eq!(spelled(theirs), ours);
        }
    }

    #[test]
    fn other_commands_and_options_and_words_behind_two_dashes_stay() {
        for line in [
            "deepwide bench -m a -ngl 99",
            "deepwide sft -np 4",
            "deepwide",
            "deepwide -q",
            "deepwide generate -np 4 -- -m",
            "deepwide generate a -m",
            "deepwide generate a --stop -fa --stop -m -p -ngl",
            "deepwide perplexity -sys a",
        ] {
            assert_eq!(spelled(line), line);
        }
    }
}
