//! A SentencePiece model and its settings as `tokenizer.json`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::added::{AddedToken, added_tokens};
use super::model::{Algorithm, SentencePieceModel};
use super::piece::Piece;
use super::settings::Settings;
use super::{SentencePieceFault, json};
use crate::error::InFile;
use crate::output::disk::Disk;
use crate::output::read::read_bounded;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::text::refuse_stand_ins;

/// Largest file. Those of 256,000 pieces have 4 MiB.
const LIMIT_BYTES: u64 = 16 << 20;

/// The tokenizer that transformers' `LlamaTokenizer` makes of a directory with `tokenizer.model` alone.
#[derive(Debug)]
pub(crate) struct SentencePieceTokenizer {
    path: PathBuf,
    model: SentencePieceModel,
    settings: Settings,
    added: Vec<AddedToken>,
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
        let ids: HashMap<&str, u32> = added.iter().map(|token| (token.content.as_str(), token.id)).collect();
        for (&expected, token) in &settings.added {
            let found = ids.get(token.content()).copied();
            if found != Some(expected) {
                let (path, token) = (settings.added_in, token.content().to_owned());
                return Err(TokenizerError::MovedToken { path, token, expected, found });
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

    /// The token that begins a text.
    pub fn bos(&self) -> Option<&AddedToken> {
        self.meant("bos_token", self.model.bos_id)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<&AddedToken> {
        self.meant("eos_token", self.model.eos_id)
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
    ///
    /// # Errors
    /// [`SentencePieceFault::TooManyMerges`].
    pub fn to_json(&self) -> Result<String, InFile<SentencePieceFault>> {
        json::text(&self.model, &self.settings, &self.added, self.bos(), self.eos()).map_err(InFile::at(&self.path))
    }
}
