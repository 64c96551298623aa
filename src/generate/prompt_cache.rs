//! Keys and values of recent prompts.

use std::collections::VecDeque;

use super::prefill::CHUNK;
use crate::model::KvCache;

/// Recent prompts with their keys and values, for prompts that begin with the same tokens.
///
/// A prompt is computed chunk by chunk, and a whole chunk has the bits that its tokens and those before it give, in any
/// prompt. So whole chunks are reused, and a prompt whose first chunks are reused has the bits of one that is computed
/// from the beginning. Outputs are not kept: a decoding step sums in another order than a chunk does.
#[derive(Debug)]
pub(super) struct PromptCache {
    /// The least recently used one first.
    prompts: VecDeque<CachedPrompt>,
    /// Positions of all of them together, at most.
    max_positions: usize,
}

#[derive(Debug)]
struct CachedPrompt {
    ids: Vec<u32>,
    /// Of all of these ids, alone.
    cache: KvCache,
}

impl PromptCache {
    /// A cache without prompts.
    pub(super) fn new(max_positions: usize) -> Self {
        Self { prompts: VecDeque::new(), max_positions }
    }

    /// The cache whose prompt has the longest beginning in common with this one, and the length of that beginning in whole
    /// chunks. The last token is not part of it: the chunk that computes it gives the first logits.
    pub(super) fn find(&mut self, prompt: &[u32]) -> Option<(&KvCache, usize)> {
        let reusable = &prompt[..prompt.len().saturating_sub(1)];
        let lens = self.prompts.iter().map(|cached| whole_chunks(common_len(&cached.ids, reusable)));
        let (at, len) = lens.enumerate().max_by_key(|(_, len)| *len).filter(|(_, len)| *len > 0)?;
        let found = self.prompts.remove(at)?;
        self.prompts.push_back(found);
        self.prompts.back().map(|cached| (&cached.cache, len))
    }

    /// Keeps a computed prompt if its whole chunks are new, in place of prompts whose whole chunks it has, and of the
    /// least recently used ones if there is no room.
    pub(super) fn keep(&mut self, ids: Vec<u32>, cache: KvCache) {
        let len = whole_chunks(ids.len());
        let is_known = self.prompts.iter().any(|cached| common_len(&cached.ids, &ids) >= len);
        if len == 0 || is_known || ids.len() > self.max_positions {
            return;
        }
        self.prompts.retain(|cached| whole_chunks(cached.ids.len()) > common_len(&cached.ids, &ids));
        let mut room = self.max_positions - ids.len();
        // The most recently used ones stay as long as there is room.
        let num_kept = self.prompts.iter().rev().take_while(|cached| {
            let fits = cached.ids.len() <= room;
            room = room.saturating_sub(cached.ids.len());
            fits
        });
        let num_dropped = self.prompts.len() - num_kept.count();
        self.prompts.drain(..num_dropped);
        self.prompts.push_back(CachedPrompt { ids, cache });
    }
}

/// Tokens of the whole chunks among so many.
fn whole_chunks(len: usize) -> usize {
    len / CHUNK * CHUNK
}

/// Tokens with which both begin.
fn common_len(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::config::DecoderConfig;

    /// A prompt of one token again and again.
    fn prompt(id: u32, len: usize) -> Vec<u32> {
        vec![id; len]
    }

    fn keep(prompts: &mut PromptCache, ids: Vec<u32>) {
        prompts.keep(ids, KvCache::new(&DecoderConfig::pico(), 1, 0, &Device::flex()));
    }

    /// Tokens of a prompt that are reused.
    fn reused(prompts: &mut PromptCache, ids: &[u32]) -> usize {
        prompts.find(ids).map_or(0, |(_, len)| len)
    }

    #[test]
    fn whole_chunks_before_the_last_token_are_reused() {
        let mut prompts = PromptCache::new(10 * CHUNK);
        keep(&mut prompts, prompt(1, 2 * CHUNK + 9));
        for (len, expected) in [(CHUNK, 0), (CHUNK + 1, CHUNK), (2 * CHUNK, CHUNK), (4 * CHUNK, 2 * CHUNK)] {
            assert_eq!(reused(&mut prompts, &prompt(1, len)), expected, "{len}");
        }
        let other = [prompt(1, 2 * CHUNK - 1), prompt(2, CHUNK)].concat();
        assert_eq!(reused(&mut prompts, &other), CHUNK);
        assert_eq!(reused(&mut prompts, &prompt(2, 4 * CHUNK)), 0);
    }

    #[test]
    fn a_longer_prompt_takes_the_place_of_its_beginning() {
        let mut prompts = PromptCache::new(10 * CHUNK);
        keep(&mut prompts, prompt(1, CHUNK - 1));
        assert!(prompts.prompts.is_empty(), "no whole chunk");
        keep(&mut prompts, prompt(1, CHUNK + 7));
        let longer = [prompt(1, CHUNK), prompt(2, CHUNK)].concat();
        keep(&mut prompts, longer.clone());
        keep(&mut prompts, prompt(1, CHUNK));
        let kept: Vec<_> = prompts.prompts.iter().map(|cached| &cached.ids).collect();
        assert_eq!(kept, [&longer]);
    }

    #[test]
    fn the_least_recently_used_prompts_make_room() {
        let mut prompts = PromptCache::new(3 * CHUNK);
        (1..=3).for_each(|id| keep(&mut prompts, prompt(id, CHUNK)));
        assert_eq!(reused(&mut prompts, &prompt(1, 2 * CHUNK)), CHUNK);
        keep(&mut prompts, prompt(4, CHUNK));
        let found = [1, 2, 3, 4].map(|id| reused(&mut prompts, &prompt(id, 2 * CHUNK)));
        assert_eq!(found, [CHUNK, 0, CHUNK, CHUNK]);
        keep(&mut prompts, prompt(5, 3 * CHUNK + 1));
        assert_eq!(prompts.prompts.len(), 3, "a prompt that never fits is not kept");
        keep(&mut prompts, prompt(6, 2 * CHUNK));
        let found = [1, 3, 4, 6].map(|id| reused(&mut prompts, &prompt(id, 2 * CHUNK)));
        assert_eq!(found, [0, 0, CHUNK, CHUNK]);
    }
}
