//! The merges that the scores of a BPE model imply.

use std::collections::HashMap;

use super::SentencePieceFault as Fault;
use super::piece::{Piece, PieceKind};

/// More than any published vocabulary implies: 256,000 pieces have a million.
const MAX_MERGES: usize = 1 << 22;

/// Every way to cut a piece into two pieces, in the order in which they are joined: highest score of the whole first. Within
/// one score, lowest id first, then shortest left part: SentencePiece takes the leftmost pair instead, which is the same
/// except where pairs of equal score overlap.
///
/// transformers 5 sorts by id alone. That is the same where scores fall with the id, but not for the runs of spaces of Llama
/// and Mistral, which have low ids and the lowest score; their published `tokenizer.json` is sorted by score.
///
/// # Errors
/// [`Fault::TooManyMerges`].
pub(super) fn of_scores(pieces: &[Piece]) -> Result<Vec<(&str, &str)>, Fault> {
    let is_text = |piece: &Piece| matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined);
    let text = || pieces.iter().enumerate().filter(|(_, piece)| is_text(piece));
    let ids: HashMap<&str, usize> = text().map(|(id, piece)| (piece.text.as_str(), id)).collect();
    let mut wholes: Vec<_> = text().collect();
    wholes.sort_by(|(id, a), (other, b)| b.score.total_cmp(&a.score).then(id.cmp(other)));
    let known = |(left, right): &(&str, &str)| ids.contains_key(left) && ids.contains_key(right);
    let merges = wholes.into_iter().flat_map(|(_, piece)| cuts(&piece.text)).filter(known);
    let merges: Vec<_> = merges.take(MAX_MERGES + 1).collect();
    if merges.len() > MAX_MERGES { Err(Fault::TooManyMerges { limit: MAX_MERGES }) } else { Ok(merges) }
}

/// Every way to cut a text in two.
fn cuts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).map(|(at, _)| text.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(list: &[(&str, f32)], control: &str) -> Vec<Piece> {
        let kind = |text: &str| if text == control { PieceKind::Control } else { PieceKind::Normal };
        list.iter().map(|&(text, score)| Piece { text: text.to_owned(), score, kind: kind(text) }).collect()
    }

    #[test]
    fn the_highest_score_is_joined_first_then_the_lowest_id() {
        let list = [("▁▁", -9.0), ("▁▁▁", -9.0), ("aé", -1.0), ("▁aé", -2.0), ("▁", -5.0), ("a", -6.0), ("é", -7.0)];
        let merges = [("a", "é"), ("▁", "aé"), ("▁", "▁"), ("▁", "▁▁"), ("▁▁", "▁")];
        assert_eq!(of_scores(&pieces(&list, "")).unwrap(), merges);
    }

    #[test]
    fn control_pieces_are_neither_joined_nor_made() {
        let list = [("<", -1.0), ("s>", -2.0), ("<s>", 0.0), ("a", -3.0), ("<s>a", -4.0)];
        assert_eq!(of_scores(&pieces(&list, "<s>")).unwrap(), []);
        assert_eq!(of_scores(&pieces(&list, "")).unwrap(), [("<", "s>"), ("<s>", "a")]);
    }

    #[test]
    fn the_number_of_merges_is_bounded() {
        // All words of up to 18 letters of an alphabet of two: each can be cut everywhere.
        let words = (1..=18).flat_map(|length| (0..1_u32 << length).map(move |word| (length, word)));
        let text =
            |(length, word): (u32, u32)| (0..length).map(|at| if word >> at & 1 == 0 { 'a' } else { 'b' }).collect();
        let pieces = words.map(|word| Piece { text: text(word), score: 0.0, kind: PieceKind::Normal });
        assert_eq!(of_scores(&pieces.collect::<Vec<_>>()), Err(Fault::TooManyMerges { limit: MAX_MERGES }));
    }
}
