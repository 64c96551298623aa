//! A SentencePiece model: its pieces, and the settings that decide how text is cut into them.
//!
//! Field numbers: `sentencepiece_model.proto` of <https://github.com/google/sentencepiece>.

use std::collections::HashMap;

use super::SentencePieceFault as Fault;
use super::piece::{Piece, PieceKind};
use super::spec::{Normalizer, Trainer};
use super::wire::Fields;

/// More than any published vocabulary has.
const MAX_PIECES: usize = 1 << 20;

/// A checked model: pieces are distinct and not empty, scores finite.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SentencePieceModel {
    /// The pieces, by id.
    pub pieces: Vec<Piece>,
    /// How text is cut into pieces.
    pub algorithm: Algorithm,
    /// The id for what has no piece.
    pub unk_id: usize,
    /// The id that begins a text.
    pub bos_id: Option<usize>,
    /// The id that ends a text.
    pub eos_id: Option<usize>,
    /// Whether a space goes before a text.
    pub add_dummy_prefix: bool,
}

/// `TrainerSpec.ModelType`, as far as transformers knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// The segmentation of the highest probability.
    Unigram,
    /// Joins the pair with the highest score first.
    Bpe,
}

impl SentencePieceModel {
    /// Reads the bytes of a `tokenizer.model`.
    ///
    /// transformers' `LlamaTokenizer` joins BPE without `precompiled_charsmap` and `remove_extra_whitespaces`, so both are
    /// ignored there. For Unigram there is no such precedent, and both are refused.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if is_tiktoken(bytes) {
            return Err(Fault::Tiktoken);
        }
        let mut pieces = Vec::new();
        let (mut trainer, mut normalizer): (Option<Trainer>, Option<Normalizer>) = (None, None);
        let mut fields = Fields::new(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 if pieces.len() == MAX_PIECES => return Err(Fault::TooManyPieces { limit: MAX_PIECES }),
                1 => pieces.push(Piece::parse(pieces.len(), field.message("pieces")?)?),
                2 => trainer.get_or_insert_default().merge(field.message("trainer_spec")?)?,
                3 => normalizer.get_or_insert_default().merge(field.message("normalizer_spec")?)?,
                _ => {}
            }
        }
        if pieces.is_empty() {
            return Err(Fault::Missing { part: "pieces" });
        }
        let trainer = trainer.ok_or(Fault::Missing { part: "trainer_spec" })?;
        let normalizer = normalizer.ok_or(Fault::Missing { part: "normalizer_spec" })?;
        Self::checked(pieces, &trainer, &normalizer)
    }

    /// The ids by text.
    pub fn ids(&self) -> HashMap<&str, usize> {
        self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect()
    }

    fn checked(pieces: Vec<Piece>, trainer: &Trainer, normalizer: &Normalizer) -> Result<Self, Fault> {
        let unsupported = |field, found: &dyn ToString, expected| {
            Err(Fault::Unsupported { field, found: found.to_string(), expected })
        };
        let algorithm = match trainer.model_type {
            1 => Algorithm::Unigram,
            2 => Algorithm::Bpe,
            found => return unsupported("trainer_spec.model_type", &found, "1 (Unigram) or 2 (BPE)"),
        };
        if trainer.treat_whitespace_as_suffix {
            return unsupported("trainer_spec.treat_whitespace_as_suffix", &true, "false");
        }
        if !normalizer.escape_whitespaces {
            return unsupported("normalizer_spec.escape_whitespaces", &false, "true");
        }
        if algorithm == Algorithm::Unigram && normalizer.has_charsmap {
            let field = "normalizer_spec.precompiled_charsmap";
            return unsupported(field, &"a table", "none beside Unigram (normalization \"identity\")");
        }
        if algorithm == Algorithm::Unigram && normalizer.remove_extra_whitespaces {
            return unsupported("normalizer_spec.remove_extra_whitespaces", &true, "false beside Unigram");
        }
        let mut ids = HashMap::with_capacity(pieces.len());
        for (second, piece) in pieces.iter().enumerate() {
            if let Some(first) = ids.insert(piece.text.as_str(), second) {
                return Err(Fault::PieceTwice { piece: piece.text.clone(), first, second });
            }
        }
        for byte in (0..=u8::MAX).filter(|_| trainer.byte_fallback) {
            let piece = format!("<0x{byte:02X}>");
            if !ids.get(piece.as_str()).is_some_and(|&id| pieces[id].kind == PieceKind::Byte) {
                return Err(Fault::MissingByte { piece });
            }
        }
        let with_kind =
            |id: i64, kind| usize::try_from(id).ok().filter(|id| pieces.get(*id).is_some_and(|p| p.kind == kind));
        let Some(unk_id) = with_kind(trainer.unk_id, PieceKind::Unknown) else {
            return unsupported("trainer_spec.unk_id", &trainer.unk_id, "the id of a piece of type unknown");
        };
        let (bos_id, eos_id) =
            (with_kind(trainer.bos_id, PieceKind::Control), with_kind(trainer.eos_id, PieceKind::Control));
        Ok(Self { algorithm, unk_id, bos_id, eos_id, add_dummy_prefix: normalizer.add_dummy_prefix, pieces })
    }
}

/// Whether the first line is a token in base64 and its rank, as in the `tokenizer.model` of Llama 3.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.iter().take(256).position(|byte| *byte == b'\n').map(|end| &bytes[..end]);
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    line.and_then(|line| Some(line.split_at(line.iter().position(|byte| *byte == b' ')?))).is_some_and(
        |(token, rank)| {
            !token.is_empty() && token.iter().all(base64) && rank.len() > 1 && rank[1..].iter().all(u8::is_ascii_digit)
        },
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIGRAM: u8 = 1;
    const BPE: u8 = 2;

    fn message(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        // A length below 128 is one byte, a longer one two.
        let length = if length < 0x80 { vec![length] } else { vec![length, 1] };
        [vec![number << 3 | 2], length, content.to_vec()].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        message(1, &[message(1, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec(), vec![0x18, kind]].concat())
    }

    fn pieces() -> Vec<u8> {
        [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("a", -1.0, 1), piece("▁", -2.0, 1)].concat()
    }

    fn trainer(model_type: u8, rest: &[u8]) -> Vec<u8> {
        message(2, &[&[0x18, model_type][..], rest].concat())
    }

    fn identity(rest: &[u8]) -> Vec<u8> {
        message(3, &[&[0x20, 0][..], rest].concat())
    }

    fn whole() -> Vec<u8> {
        [pieces(), trainer(BPE, &[]), identity(&[])].concat()
    }

    fn refusal(parts: &[Vec<u8>]) -> String {
        SentencePieceModel::parse(&parts.concat()).unwrap_err().to_string()
    }

    #[test]
    fn a_model_has_the_defaults_of_its_format() {
        let model = SentencePieceModel::parse(&whole()).unwrap();
        assert_eq!((model.algorithm, model.unk_id, model.bos_id, model.eos_id), (Algorithm::Bpe, 0, Some(1), None));
        assert!(model.add_dummy_prefix);
        let texts: Vec<&str> = model.pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(texts, ["<unk>", "<s>", "a", "▁"]);
        assert_eq!(model.pieces[3], Piece { text: "▁".to_owned(), score: -2.0, kind: PieceKind::Normal });
    }

    #[test]
    fn a_file_cut_off_at_any_length_is_refused() {
        let whole = whole();
        for length in 0..whole.len() {
            assert!(SentencePieceModel::parse(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        let model = || (trainer(BPE, &[]), identity(&[]));
        let with = |more: Vec<u8>| refusal(&[pieces(), more, model().0, model().1]);
        assert!(refusal(&[]).starts_with("no pieces,"));
        assert!(refusal(&[pieces()]).starts_with("no trainer_spec,"));
        assert!(refusal(&[pieces(), model().0]).starts_with("no normalizer_spec,"));
        assert_eq!(with(piece("a", 0.0, 1)), "pieces 2 and 4 are both \"a\", expected each once");
        assert_eq!(with(piece("b", f32::NAN, 1)), "the score of piece 4 is NaN, expected a finite number");
        assert_eq!(with(piece("", 0.0, 1)), "piece 4 has 0 bytes, expected 1 to 256");
        assert!(with(piece("b", 0.0, 5)).starts_with("type is 5 for piece 4, expected 1 (normal)"));
        let spec = |rest: &[u8]| refusal(&[pieces(), trainer(BPE, rest), identity(&[])]);
        assert_eq!(spec(&[0xc0, 0x02, 2]), "trainer_spec.unk_id is 2, expected the id of a piece of type unknown");
        assert!(spec(&[0xc0, 0x01, 1]).starts_with("trainer_spec.treat_whitespace_as_suffix is true"));
        assert_eq!(spec(&[0x98, 0x02, 1]), "no piece <0x00> of type byte, expected all 256 for byte_fallback");
        assert!(refusal(&[pieces(), trainer(3, &[]), identity(&[])]).starts_with("trainer_spec.model_type is 3"));
        let normalizer = |kind, rest: &[u8]| refusal(&[pieces(), trainer(kind, &[]), identity(rest)]);
        assert!(normalizer(BPE, &[0x28, 0]).starts_with("normalizer_spec.escape_whitespaces is false"));
        assert!(normalizer(UNIGRAM, &[0x12, 1, 0]).starts_with("normalizer_spec.precompiled_charsmap is a table"));
        assert!(normalizer(UNIGRAM, &[0x20, 1]).starts_with("normalizer_spec.remove_extra_whitespaces is true"));
    }

    #[test]
    fn a_vocabulary_of_tiktoken_is_named() {
        assert_eq!(SentencePieceModel::parse(b"IQ== 0\nIg== 1\n"), Err(Fault::Tiktoken));
        assert_ne!(SentencePieceModel::parse(b"a word\n"), Err(Fault::Tiktoken));
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        let bytes = message(1, &message(1, b"a")).repeat(MAX_PIECES + 1);
        assert_eq!(SentencePieceModel::parse(&bytes), Err(Fault::TooManyPieces { limit: MAX_PIECES }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn changed_bytes_never_panic(changes in prop::collection::vec((0_usize..80, any::<u8>()), 1..4)) {
            let mut bytes = whole();
            for (at, byte) in changes {
                let length = bytes.len();
                bytes[at % length] = byte;
            }
            if let Ok(model) = SentencePieceModel::parse(&bytes) {
                prop_assert!(model.unk_id < model.pieces.len());
            }
        }
    }
}
