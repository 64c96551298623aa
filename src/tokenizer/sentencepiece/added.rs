//! Tokens that are found in a text before it is cut into pieces.

use std::collections::HashSet;

use serde::Serialize;

use super::model::SentencePieceModel;
use super::piece::PieceKind;
use super::settings::{Settings, Token, TokenForm};

/// An entry of `added_tokens` in `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

/// The added tokens, as transformers collects them: first those that the settings list with an id, then those that they name,
/// then further special ones, then control and user-defined pieces. The first with a text decides how it is found. One that
/// is no piece gets the next id behind the pieces.
pub(super) fn added_tokens(model: &SentencePieceModel, settings: &Settings) -> Vec<AddedToken> {
    let named = || settings.named.iter().map(|(_, token)| token).chain(&settings.extra);
    let contents: HashSet<&str> = named().map(Token::content).collect();
    let listed = settings.added.values().map(|token| {
        let form = token.form();
        TokenForm { special: form.special || contents.contains(token.content()), ..form }
    });
    let named = named().map(|token| TokenForm { special: true, ..token.form() });
    let pieces = model.pieces.iter().filter_map(|piece| {
        let special = match piece.kind {
            PieceKind::Control | PieceKind::Unknown => true,
            PieceKind::UserDefined => false,
            PieceKind::Normal | PieceKind::Byte => return None,
        };
        Some(TokenForm { content: piece.text.clone(), normalized: Some(false), special, ..TokenForm::default() })
    });
    let ids = model.ids();
    let (mut seen, mut next) = (HashSet::new(), model.pieces.len());
    let forms = listed.chain(named).chain(pieces).filter(|form| !form.content.is_empty());
    let new = forms.filter(|form| seen.insert(form.content.clone()));
    let token = |TokenForm { content, single_word, lstrip, rstrip, normalized, special }| {
        let id = ids.get(content.as_str()).copied().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        let normalized = normalized.unwrap_or(!special);
        AddedToken { id: id as u32, content, single_word, lstrip, rstrip, normalized, special }
    };
    new.map(token).collect()
}
