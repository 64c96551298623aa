//! The order in which pieces are joined: written out as merges, or in the scores of what they make.

use std::collections::{HashMap, HashSet};

use super::VocabularyError;

/// Two tokens that together are a third.
pub(super) type Merge<'a> = (&'a str, &'a str);

/// The merges of a GGUF file as pairs.
///
/// # Errors
/// [`VocabularyError::BadMerge`] where one is not two tokens that make a token.
pub(super) fn parsed<'a>(merges: &'a [String], ids: &HashMap<&str, usize>) -> Result<Vec<Merge<'a>>, VocabularyError> {
    let pair = |(index, merge): (usize, &'a String)| {
        let bad = || VocabularyError::BadMerge { index, merge: merge.clone() };
        // A token may begin with a space: the one between is looked for from the second character on.
        let begin = merge.chars().next().map_or(0, char::len_utf8);
        let space = begin + merge[begin..].find(' ').ok_or_else(bad)?;
        let (left, right) = (&merge[..space], &merge[space + 1..]);
        let known = [left, right, &[left, right].concat()].into_iter().all(|token| ids.contains_key(token));
        if known { Ok((left, right)) } else { Err(bad()) }
    };
    merges.iter().enumerate().map(pair).collect()
}

/// The merges that scores imply: every way to cut a token into two tokens, best score first; within one score the longest
/// left part first, as transformers orders them.
///
/// # Panics
/// If a score is not a number.
pub(super) fn of_scores<'a>(tokens: &'a [String], scores: &[f32], ids: &HashMap<&str, usize>) -> Vec<Merge<'a>> {
    let mut merges: Vec<(f32, (usize, usize), Merge<'_>)> = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        let mut cuts: Vec<Merge<'_>> = cuts(token, ids).collect();
        cuts.sort_by_key(|(left, right)| (ids[left], ids[right]));
        merges.extend(cuts.into_iter().map(|cut| (score, (cut.0.chars().count(), cut.1.chars().count()), cut)));
    }
    // Stable: what is equal stays in the order of the tokens.
    merges.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("scores are numbers").then(b.1.cmp(&a.1)));
    merges.into_iter().map(|(.., merge)| merge).collect()
}

/// Every way to cut a token into two tokens.
fn cuts<'a>(token: &'a str, ids: &HashMap<&str, usize>) -> impl Iterator<Item = Merge<'a>> {
    let all = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
    all.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
}

/// The scores that say what these merges say: minus the rank of the token that they make, by id; what no merge makes has
/// the worst. Tokens whose merges are mixed, as those of equal scores are in what transformers writes, have one rank.
/// `text` tells which tokens can come of merges at all.
///
/// # Errors
/// [`VocabularyError::NotByScore`] where merges say more than scores can: those of several tokens are mixed in an order that
/// is not that of ties, or not every way to cut a token into two tokens is a merge. llama.cpp would join them all the same.
pub(super) fn scores(
    merges: &[Merge<'_>],
    tokens: &[String],
    ids: &HashMap<&str, usize>,
    text: impl Fn(usize) -> bool,
) -> Result<Vec<f32>, VocabularyError> {
    let made = |&(left, right): &Merge<'_>| {
        let id = ids.get([left, right].concat().as_str()).copied();
        id.ok_or_else(|| refused((left, right), "what it makes is no token"))
    };
    let made: Vec<usize> = merges.iter().map(made).collect::<Result<_, _>>()?;
    let mut ends = vec![0; tokens.len()];
    made.iter().enumerate().for_each(|(place, &id)| ends[id] = place + 1);
    let mut ranks = vec![None; tokens.len()];
    let (mut rank, mut begin) = (0, 0);
    while begin < merges.len() {
        let (mut place, mut end) = (begin, ends[made[begin]]);
        while place < end {
            ranks[made[place]] = Some(rank);
            end = end.max(ends[made[place]]);
            place += 1;
        }
        if !is_one_token(&made[begin..end]) && !are_ties(&merges[begin..end], ids) {
            return Err(refused(merges[begin], "other merges stand between it and those that make the same token"));
        }
        (rank, begin) = (rank + 1, end);
    }
    let known: HashSet<Merge<'_>> = merges.iter().copied().collect();
    for token in tokens.iter().enumerate().filter(|(id, _)| text(*id)).map(|(_, token)| token) {
        if let Some(missing) = cuts(token, ids).find(|cut| !known.contains(cut)) {
            return Err(refused(missing, "it is missing, though both parts and the whole are tokens"));
        }
    }
    Ok(ranks.into_iter().map(|own: Option<usize>| -(own.unwrap_or(rank) as f32)).collect())
}

fn refused((left, right): Merge<'_>, reason: &'static str) -> VocabularyError {
    VocabularyError::NotByScore { merge: format!("{left} {right}"), reason }
}

fn is_one_token(made: &[usize]) -> bool {
    made.iter().all(|&id| id == made[0])
}

/// Whether these merges stand in an order in which transformers writes merges of one score: longest left part first, or, in
/// older versions, by the ids of the parts.
fn are_ties(merges: &[Merge<'_>], ids: &HashMap<&str, usize>) -> bool {
    let lengths = |(left, right): &Merge<'_>| (left.chars().count(), right.chars().count());
    let by_id = |(left, right): &Merge<'_>| (ids.get(left).copied(), ids.get(right).copied());
    merges.is_sorted_by(|a, b| lengths(a) >= lengths(b)) || merges.is_sorted_by_key(by_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(list: &[&str]) -> Vec<String> {
        list.iter().map(|token| (*token).to_owned()).collect()
    }

    fn ids(tokens: &[String]) -> HashMap<&str, usize> {
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect()
    }

    #[test]
    fn scores_and_merges_say_the_same() {
        let tokens = tokens(&["é", "a", "b", "ab", "éa", "éab"]);
        let ids = ids(&tokens);
        let merges = of_scores(&tokens, &[-9.0, -9.0, -9.0, -2.0, -1.0, -3.0], &ids);
        assert_eq!(merges, [("é", "a"), ("a", "b"), ("éa", "b"), ("é", "ab")]);
        let scores = scores(&merges, &tokens, &ids, |_| true).unwrap();
        assert_eq!(scores, [-3.0, -3.0, -3.0, -1.0, -0.0, -2.0]);
        assert_eq!(of_scores(&tokens, &scores, &ids), merges);
    }

    #[test]
    fn merges_that_no_scores_can_say_are_refused() {
        let tokens = tokens(&["a", "b", "ab", "ba", "aba"]);
        let ids = ids(&tokens);
        let said = |merges: &[Merge<'_>]| scores(merges, &tokens, &ids, |_| true).unwrap_err().to_string();
        let error = said(&[("a", "b"), ("b", "a"), ("ab", "a")]);
        assert!(error.contains("\"a ba\"") && error.contains("it is missing"), "{error}");
        let error = said(&[("a", "b"), ("ab", "a"), ("b", "a"), ("a", "ba")]);
        assert!(error.contains("\"ab a\"") && error.contains("stand between"), "{error}");
        let error = said(&[("b", "b")]);
        assert!(error.contains("\"b b\"") && error.contains("no token"), "{error}");
        assert!(scores(&[("a", "b")], &tokens, &ids, |id| id < 3).is_ok());
    }

    #[test]
    fn tokens_of_one_score_stay_in_their_order() {
        let tokens = tokens(&["a", "b", "ab", "aa", "aaa", "aaaa"]);
        let ids = ids(&tokens);
        let merges = of_scores(&tokens, &[0.0, 0.0, -1.0, -7.0, -7.0, -7.0], &ids);
        assert_eq!(merges[1..4], [("aaa", "a"), ("aa", "aa"), ("aa", "a")]);
        let scores = scores(&merges, &tokens, &ids, |_| true).unwrap();
        assert_eq!(scores[2..], [-0.0, -2.0, -1.0, -1.0]);
        assert_eq!(of_scores(&tokens, &scores, &ids), merges);
    }

    #[test]
    fn a_merge_is_two_tokens_that_make_a_token() {
        let tokens = tokens(&["a", " ", " a", "b"]);
        let ids = ids(&tokens);
        let read = |merge: &str| parsed(&[merge.to_owned()], &ids).map(|merges| format!("{merges:?}"));
        assert_eq!(read("  a").unwrap(), r#"[(" ", "a")]"#);
        for bad in ["ab", "a b", "a c", "", " ", "a "] {
            let error = read(bad).unwrap_err();
            assert!(matches!(&error, VocabularyError::BadMerge { index: 0, .. }), "{error}");
        }
    }
}
