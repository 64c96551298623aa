//! A SentencePiece model and its settings as `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::added::{AddedToken, added_tokens};
use super::model::{Algorithm, SentencePieceModel};
use super::piece::Piece;
use super::settings::Settings;
use super::{SentencePieceFault, merges};
use crate::error::InFile;
use crate::output::disk::Disk;
use crate::output::read::read_bounded;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::text::refuse_stand_ins;

/// Largest file: those of 256,000 pieces have 4 MiB.
const LIMIT_BYTES: u64 = 32 << 20;

/// The tokenizer that transformers' `LlamaTokenizer` makes of a directory with `tokenizer.model` alone.
#[derive(Debug)]
pub(crate) struct SentencePieceTokenizer {
    path: PathBuf,
    model: SentencePieceModel,
    settings: Settings,
    added: Vec<AddedToken>,
}

/// `tokenizer.json`.
#[derive(Serialize)]
struct Form<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: &'a [AddedToken],
    normalizer: (),
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'a>,
}

/// Its `model`.
#[derive(Serialize)]
#[serde(tag = "type")]
enum Model<'a> {
    #[serde(rename = "BPE")]
    Bpe {
        dropout: (),
        unk_token: &'a str,
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        #[serde(serialize_with = "ids_by_text")]
        vocab: &'a [Piece],
        merges: Vec<(&'a str, &'a str)>,
    },
    Unigram {
        unk_id: usize,
        byte_fallback: bool,
        vocab: Vec<(&'a str, f32)>,
    },
}

fn ids_by_text<S: Serializer>(pieces: &&[Piece], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pieces.iter().map(|piece| &piece.text).zip(0u32..))
}

impl SentencePieceTokenizer {
    /// Reads `tokenizer.model`, `tokenizer_config.json` and, without an `added_tokens_decoder` in it, `special_tokens_map.json`
    /// and `added_tokens.json`.
    ///
    /// # Errors
    /// [`TokenizerError::SentencePiece`]; those of reading the settings; [`TokenizerError::MovedToken`].
    pub fn open_on(disk: &dyn Disk, directory: &Path) -> Result<Self, TokenizerError> {
        let path = directory.join("tokenizer.model");
        let bytes = read_bounded(disk, &path, LIMIT_BYTES)?;
        refuse_stand_ins(&path, &bytes)?;
        let model = SentencePieceModel::parse(&bytes).map_err(InFile::at(&path))?;
        drop(bytes);
        let settings = Settings::read(disk, directory)?;
        if !model.add_dummy_prefix && settings.add_prefix_space.is_none() {
            let fault = SentencePieceFault::Unsupported {
                field: "normalizer_spec.add_dummy_prefix",
                found: "false".to_owned(),
                expected: "true, or add_prefix_space in tokenizer_config.json",
            };
            return Err(InFile::new(path, fault).into());
        }
        let added = added_tokens(&model, &settings);
        for (&expected, token) in &settings.added {
            let token = token.content();
            let found = added.iter().find(|added| added.content == token).map(|added| added.id);
            if found != Some(expected) {
                return Err(TokenizerError::MovedToken { path, token: token.to_owned(), expected, found });
            }
        }
        Ok(Self { path, model, settings, added })
    }

    /// Path of the `tokenizer.model`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How text is cut into pieces.
    pub fn algorithm(&self) -> Algorithm {
        self.model.algorithm
    }

    /// The pieces, by id.
    pub fn pieces(&self) -> &[Piece] {
        &self.model.pieces
    }

    /// The added tokens that the settings list with an id, or that are no pieces.
    pub fn listed(&self) -> impl Iterator<Item = &AddedToken> {
        let num_pieces = self.model.pieces.len();
        self.added
            .iter()
            .filter(move |token| token.id as usize >= num_pieces || self.settings.added.contains_key(&token.id))
    }

    /// The id that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.meant("bos_token", self.model.bos_id).map(|token| token.id)
    }

    /// The id that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.meant("eos_token", self.model.eos_id).map(|token| token.id)
    }

    /// The token that the settings name by `key`, or else the piece with this id.
    fn meant(&self, key: &str, id: Option<usize>) -> Option<&AddedToken> {
        let named = self.settings.named.iter().find(|(name, _)| *name == key);
        self.added.iter().find(|token| match named {
            Some((_, named)) => named.content() == token.content,
            None => Some(token.id as usize) == id,
        })
    }

    /// The text of `tokenizer.json`.
    pub fn to_json(&self) -> String {
        let pieces = self.model.pieces.as_slice();
        let model = match self.model.algorithm {
            Algorithm::Bpe => Model::Bpe {
                dropout: (),
                unk_token: &pieces[self.model.unk_id].text,
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: true,
                byte_fallback: true,
                ignore_merges: false,
                vocab: pieces,
                merges: merges::of_scores(pieces),
            },
            Algorithm::Unigram => Model::Unigram {
                unk_id: self.model.unk_id,
                byte_fallback: true,
                vocab: pieces.iter().map(|piece| (piece.text.as_str(), piece.score)).collect(),
            },
        };
        let prefix = self.settings.add_prefix_space.unwrap_or(true);
        let form = Form {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: &self.added,
            normalizer: (),
            pre_tokenizer: json!({
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": if !prefix { "never" } else if self.settings.legacy { "always" } else { "first" },
                "split": false,
            }),
            post_processor: self.post_processor(),
            decoder: decoder(prefix),
            model,
        };
        serde_json::to_string(&form).expect("its keys are text")
    }

    /// Puts a beginning before a text and an end behind it, where the settings ask for them.
    fn post_processor(&self) -> Value {
        let bos = self.meant("bos_token", self.model.bos_id).filter(|_| self.settings.add_bos);
        let eos = self.meant("eos_token", self.model.eos_id).filter(|_| self.settings.add_eos);
        let around = |sequence: &str, kind: u32| {
            let special = |token: &AddedToken| json!({"SpecialToken": {"id": token.content, "type_id": kind}});
            let middle = json!({"Sequence": {"id": sequence, "type_id": kind}});
            bos.map(special).into_iter().chain([middle]).chain(eos.map(special)).collect::<Vec<_>>()
        };
        let special: serde_json::Map<String, Value> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|AddedToken { id, content, .. }| {
                (content.clone(), json!({"id": content, "ids": [id], "tokens": [content]}))
            })
            .collect();
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special})
    }
}

/// Turns `▁` into spaces and bytes into text, without the space that was put before the text.
fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    steps.extend(prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
    json!({"type": "Sequence", "decoders": steps})
}
