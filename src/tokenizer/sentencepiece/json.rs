//! A SentencePiece model as `tokenizer.json`.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::added::AddedToken;
use super::model::{Algorithm, SentencePieceModel};
use super::piece::Piece;
use super::settings::Settings;
use super::{SentencePieceFault as Fault, merges};

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
        vocab: Vec<(&'a str, f64)>,
    },
}

fn ids_by_text<S: Serializer>(pieces: &&[Piece], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pieces.iter().map(|piece| &piece.text).zip(0u32..))
}

/// The text of `tokenizer.json`. `bos` and `eos` go around a text if the settings ask for them.
///
/// # Errors
/// [`Fault::TooManyMerges`].
pub(super) fn text(
    model: &SentencePieceModel,
    settings: &Settings,
    added: &[AddedToken],
    bos: Option<&AddedToken>,
    eos: Option<&AddedToken>,
) -> Result<String, Fault> {
    let pieces = model.pieces.as_slice();
    let joined = match model.algorithm {
        Algorithm::Bpe => Model::Bpe {
            dropout: (),
            unk_token: &pieces[model.unk_id].text,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: pieces,
            merges: merges::of_scores(pieces)?,
        },
        Algorithm::Unigram => Model::Unigram {
            unk_id: model.unk_id,
            byte_fallback: true,
            vocab: pieces.iter().map(|piece| (piece.text.as_str(), f64::from(piece.score))).collect(),
        },
    };
    let prefix = settings.add_prefix_space.unwrap_or(true);
    let form = Form {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added,
        normalizer: (),
        pre_tokenizer: json!({
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": if !prefix { "never" } else if settings.legacy { "always" } else { "first" },
            "split": false,
        }),
        post_processor: post_processor(bos.filter(|_| settings.add_bos), eos.filter(|_| settings.add_eos)),
        decoder: decoder(prefix),
        model: joined,
    };
    Ok(serde_json::to_string(&form).expect("its keys are text"))
}

/// Puts these tokens before and behind a text.
fn post_processor(bos: Option<&AddedToken>, eos: Option<&AddedToken>) -> Value {
    let around = |sequence: &str, kind: u32| {
        let special = |token: &AddedToken| json!({"SpecialToken": {"id": token.content, "type_id": kind}});
        let middle = json!({"Sequence": {"id": sequence, "type_id": kind}});
        bos.map(special).into_iter().chain([middle]).chain(eos.map(special)).collect::<Vec<_>>()
    };
    let special = bos.into_iter().chain(eos);
    let special = special.map(|AddedToken { id, content, .. }| {
        (content.clone(), json!({"id": content, "ids": [id], "tokens": [content]}))
    });
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": special.collect::<Map<_, _>>(),
    })
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
