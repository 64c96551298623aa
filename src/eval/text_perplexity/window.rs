//! The windows of a text.

use crate::eval::error::EvalError;

/// How a text is cut into windows, and which of their tokens are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// `llama-perplexity`: windows that do not overlap; the second half of each is scored. The first token of a window is replaced
    /// by the one that begins a text, if the tokenizer adds it. A last window that is not full is left out.
    LlamaCpp,
    /// The guide of transformers: a window starts `stride` tokens after the one before, and its tokens that no earlier window had
    /// are scored.
    Transformers {
        /// Tokens from one window to the next.
        stride: usize,
    },
}

/// Tokens that a model reads at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The ids.
    pub ids: Vec<u32>,
    /// How many of its last ids are scored; fewer than `ids`, since nothing predicts the first.
    pub num_scored: usize,
    /// How many tokens it counts for in the mean over windows.
    pub weight: usize,
}

/// Cuts the ids of a text into windows of at most `context` tokens, of which there are at most `limit`. `bos` is the id that the
/// tokenizer adds at the beginning of a text, if it does.
///
/// # Errors
/// [`EvalError::ShortText`].
pub fn text_windows(
    ids: &[u32],
    convention: Convention,
    context: usize,
    bos: Option<u32>,
    limit: Option<usize>,
) -> Result<Vec<Window>, EvalError> {
    let windows = match convention {
        Convention::LlamaCpp => chunks(ids, context, bos),
        Convention::Transformers { stride } => strided(ids, context, stride),
    };
    let windows: Vec<Window> = windows.into_iter().take(limit.unwrap_or(usize::MAX)).collect();
    match windows.iter().all(|window| window.weight == 0) {
        true => {
            let least = if convention == Convention::LlamaCpp { context } else { 2 };
            Err(EvalError::ShortText { num_tokens: ids.len(), least })
        }
        false => Ok(windows),
    }
}

fn chunks(ids: &[u32], context: usize, bos: Option<u32>) -> Vec<Window> {
    let num_scored = (context - context / 2).saturating_sub(1);
    let window = |chunk: &[u32]| {
        let mut ids = chunk.to_vec();
        if let Some(bos) = bos {
            ids[0] = bos;
        }
        Window { ids, num_scored, weight: num_scored }
    };
    ids.chunks_exact(context).map(window).collect()
}

fn strided(ids: &[u32], context: usize, stride: usize) -> Vec<Window> {
    let (mut windows, mut scored) = (Vec::new(), 0);
    for start in (0..ids.len()).step_by(stride) {
        let end = (start + context).min(ids.len());
        let new = end - scored;
        scored = end;
        // The guide weighs the mean loss of a window by one token less than are new in it.
        let num_scored = new.min(end - start - 1);
        if num_scored > 0 {
            windows.push(Window { ids: ids[start..end].to_vec(), num_scored, weight: new.saturating_sub(1) });
        }
        if end == ids.len() {
            break;
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(num_ids: u32, convention: Convention, context: usize) -> Vec<(u32, u32, usize, usize)> {
        let ids: Vec<u32> = (0..num_ids).collect();
        let windows = text_windows(&ids, convention, context, None, None).unwrap();
        let ends = |window: &Window| (window.ids[0], *window.ids.last().unwrap(), window.num_scored, window.weight);
        windows.iter().map(ends).collect()
    }

    #[test]
    fn llama_scores_the_second_half_of_full_windows() {
        assert_eq!(windows(19, Convention::LlamaCpp, 8), [(0, 7, 3, 3), (8, 15, 3, 3)]);
        let ids: Vec<u32> = (10..26).collect();
        let begun = text_windows(&ids, Convention::LlamaCpp, 8, Some(1), Some(1)).unwrap();
        assert_eq!(begun.iter().map(|window| &window.ids[..2]).collect::<Vec<_>>(), [[1, 11]]);
    }

    #[test]
    fn transformers_scores_what_no_earlier_window_had() {
        let strided = Convention::Transformers { stride: 3 };
        assert_eq!(windows(12, strided, 8), [(0, 7, 7, 7), (3, 10, 3, 2), (6, 11, 1, 0)]);
        assert_eq!(windows(5, strided, 8), [(0, 4, 4, 4)]);
        let apart = Convention::Transformers { stride: 4 };
        assert_eq!(windows(8, apart, 4), [(0, 3, 3, 3), (4, 7, 3, 3)], "nothing predicts the first of a window");
    }

    #[test]
    fn a_text_shorter_than_a_window_is_refused_by_llama() {
        let error = text_windows(&[1, 2, 3], Convention::LlamaCpp, 8, None, None).unwrap_err();
        assert!(matches!(error, EvalError::ShortText { num_tokens: 3, least: 8 }));
        assert!(text_windows(&[1], Convention::Transformers { stride: 4 }, 8, None, None).is_err());
    }
}
