//! How byte-level BPE splits text into words, by the name that llama.cpp gives each way.

use serde_json::{Value, json};

use super::VocabularyError;
use super::error::not_representable;

/// One way to split, and what llama.cpp takes with the name.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// What GGUF files call it; the first is written.
    pub names: &'static [&'static str],
    /// What is split off, one after the other.
    pub splits: &'static [&'static str],
    /// Whether a word that is a token stays whole, whatever the merges.
    pub ignore_merges: bool,
    /// Whether a beginning of text is added where the file does not say.
    pub add_bos: bool,
}

/// Each decimal digit, or other number of one character, by itself.
const DIGIT: &str = r"\p{N}";

/// GPT-2's words: contractions, letters, numbers, the rest, and white space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What llama.cpp does where no name is given.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// From `src/llama-vocab.cpp` of llama.cpp.
static KNOWN: [PreTokenizer; 8] = [
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "mellum",
        ],
        splits: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        splits: &[DIGIT, GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        splits: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenizer { names: &["smaug-bpe", "dbrx"], splits: &[LLAMA3], ignore_merges: false, add_bos: false },
    PreTokenizer {
        names: &[
            "qwen2",
            "stablelm2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        splits: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer { names: &["tekken"], splits: &[TEKKEN], ignore_merges: true, add_bos: true },
    PreTokenizer {
        names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        splits: &[GPT4O],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer { names: &["default"], splits: &DEFAULT, ignore_merges: false, add_bos: false },
];

impl PreTokenizer {
    /// The way with this name; where there is none, `default`, as in llama.cpp.
    ///
    /// # Errors
    /// [`VocabularyError::UnknownPreTokenizer`].
    pub fn named(name: Option<&str>) -> Result<&'static Self, VocabularyError> {
        let name = name.unwrap_or("default");
        KNOWN.iter().find(|known| known.names.contains(&name)).ok_or_else(|| VocabularyError::UnknownPreTokenizer {
            found: name.to_owned(),
            expected: KNOWN.iter().flat_map(|known| known.names).copied().collect::<Vec<_>>().join(", "),
        })
    }

    /// The `pre_tokenizer` of a `tokenizer.json` that splits like this.
    pub fn to_json(&self) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        if self.splits == [GPT2] {
            return byte_level(true);
        }
        let (ends_as_gpt2, before) = match self.splits {
            [before @ .., GPT2] => (true, before),
            splits => (false, splits),
        };
        let step = |split: &&str| match *split {
            DIGIT => json!({"type": "Digits", "individual_digits": true}),
            regex => json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}),
        };
        let steps: Vec<Value> = before.iter().map(step).chain([byte_level(ends_as_gpt2)]).collect();
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    /// The way in which the `pre_tokenizer` of a `tokenizer.json` splits.
    ///
    /// # Errors
    /// [`VocabularyError::NotRepresentable`] if llama.cpp knows no such way.
    pub fn of_json(pre_tokenizer: &Value, ignore_merges: bool) -> Result<&'static Self, VocabularyError> {
        let refused = |found: &Value, expected: &str| not_representable("pre_tokenizer", found, expected);
        let one = std::slice::from_ref(pre_tokenizer);
        let steps = match pre_tokenizer["type"].as_str() {
            Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().map_or(one, Vec::as_slice),
            _ => one,
        };
        let mut splits = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            match step["type"].as_str() {
                Some("Digits") if step["individual_digits"] == true => splits.push(DIGIT),
                Some("Split") if step["behavior"] == "Isolated" && step["invert"] != true => {
                    let regex = step["pattern"]["Regex"].as_str();
                    splits.push(regex.ok_or_else(|| refused(step, "a Split by a Regex"))?);
                }
                Some("ByteLevel") if i + 1 == steps.len() && step["add_prefix_space"] == false => {
                    // Older files leave `use_regex` out, which means yes.
                    splits.extend((step["use_regex"] != false).then_some(GPT2));
                }
                _ => {
                    return Err(refused(
                        step,
                        "Digits one by one, an isolated Split, or last ByteLevel without a prefix space",
                    ));
                }
            }
        }
        let ends_in_bytes = steps.last().is_some_and(|step| step["type"] == "ByteLevel");
        let known = KNOWN.iter().find(|known| known.splits == splits && known.ignore_merges == ignore_merges);
        known.filter(|_| ends_in_bytes).ok_or_else(|| {
            let names: Vec<&str> = KNOWN.iter().map(|known| known.names[0]).collect();
            refused(
                &json!({"splits": splits, "ignore_merges": ignore_merges}),
                &format!("the way of one of {}", names.join(", ")),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_split_is_found_again_in_what_it_writes() {
        for known in &KNOWN {
            let found = PreTokenizer::of_json(&known.to_json(), known.ignore_merges).unwrap();
            assert_eq!(found.names, known.names);
            for name in known.names {
                assert_eq!(PreTokenizer::named(Some(name)).unwrap().names, known.names);
            }
        }
        assert_eq!(PreTokenizer::named(None).unwrap().names, ["default"]);
    }

    #[test]
    fn an_unknown_way_is_refused_by_name() {
        let error = PreTokenizer::named(Some("kimi-k2")).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.ggml.pre is \"kimi-k2\", expected one of gpt-2, phi-2,"), "{error}");
        let byte_level = KNOWN[0].to_json();
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let mut spaced = byte_level.clone();
        spaced["add_prefix_space"] = json!(true);
        for (bad, told) in [
            (spaced, "add_prefix_space"),
            (json!({"type": "Sequence", "pretokenizers": [split("[a-z]+"), byte_level]}), "[a-z]+"),
            (json!({"type": "Whitespace"}), "Whitespace"),
            (json!({"type": "Sequence", "pretokenizers": [split(GPT2)]}), "'ll"),
            (Value::Null, "null"),
        ] {
            let error = PreTokenizer::of_json(&bad, false).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let error = PreTokenizer::of_json(&PreTokenizer::named(Some("tekken")).unwrap().to_json(), false).unwrap_err();
        assert!(matches!(error, VocabularyError::NotRepresentable { key: "pre_tokenizer", .. }), "{error}");
    }
}
