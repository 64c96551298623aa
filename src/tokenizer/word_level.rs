//! Tokenizers whose tokens are words.

use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

use super::Tokenizer;

const UNKNOWN_WORD: &str = "<unk>";

impl Tokenizer {
    /// A tokenizer whose tokens are words between white space; the id of a word is its place in `vocab`.
    ///
    /// Words outside the vocabulary become `<unk>` if it is in `vocab`, and are an error otherwise. The words `<bos>` and
    /// `<eos>`, if they are there, begin and end a text.
    ///
    /// # Panics
    /// If `vocab` is empty, holds a word twice, or holds one that is empty or has white space in it.
    pub fn word_level(vocab: &[String]) -> Self {
        assert!(!vocab.is_empty(), "a vocabulary needs at least one word");
        if let Some(word) = vocab.iter().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
            panic!("{word:?} is not one word");
        }
        let ids = vocab.iter().cloned().zip(0..).collect();
        let model = WordLevel::builder().vocab(ids).unk_token(UNKNOWN_WORD.to_owned()).build();
        let mut inner = tokenizers::Tokenizer::new(model.expect("a vocabulary in memory needs no file"));
        inner.with_pre_tokenizer(Some(WhitespaceSplit));
        assert_eq!(inner.get_vocab_size(false), vocab.len(), "a word stands twice in the vocabulary");
        let bos = inner.token_to_id("<bos>");
        let eos = inner.token_to_id("<eos>").into_iter().collect();
        Self { inner, vocab_size: vocab.len(), bos, eos }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::tokenizer::TokenizerError;

    fn colours() -> Tokenizer {
        Tokenizer::word_level(&["<bos>", "red", "green", "<eos>"].map(String::from))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn word_level_encoding_gives_back_any_ids(ids in prop::collection::vec(0_u32..4, 0..50)) {
            let text = colours().decode(&ids).unwrap();
            prop_assert_eq!(colours().encode(&text).unwrap(), ids);
        }
    }

    #[test]
    fn an_unknown_word_is_an_error_unless_the_vocabulary_has_one_for_it() {
        let error = colours().encode("red  blue green").unwrap_err();
        assert!(
            matches!(&error, TokenizerError::UnknownWord { word, offset_bytes: 5, vocab_size: 4 } if word == "blue")
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let forgiving = Tokenizer::word_level(&["red", "<unk>"].map(String::from));
        assert_eq!(forgiving.encode("red blue").unwrap(), [0, 1]);
    }

    #[test]
    #[should_panic(expected = "stands twice")]
    fn a_vocabulary_holds_a_word_once() {
        Tokenizer::word_level(&["red", "red"].map(String::from));
    }

    #[test]
    #[should_panic(expected = "is not one word")]
    fn a_word_has_no_white_space() {
        Tokenizer::word_level(&["dark red".to_owned()]);
    }

    #[test]
    fn an_id_without_a_token_is_an_error() {
        let error = colours().decode(&[1, 4]).unwrap_err();
        assert!(matches!(error, TokenizerError::UnknownId { id: 4, position: 1, vocab_size: 4 }));
    }
}
