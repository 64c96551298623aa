//! Which nodes of a plan are computed together.

use std::cmp::Reverse;

use super::plan::{Node, Plan};
use crate::config::DecoderConfig;
use crate::profile::memory::kv_cache_bytes_per_token;

/// The version of the passes. It changes with them, because a log of answers continues with the bits of the passes that began it.
pub const PASSES_VERSION: u32 = 2;

/// Tokens that make the products of a pass large. Beyond them, a sequence joins only if it needs little padding.
const ENOUGH_TOKENS: usize = 256;

/// Bytes of keys and values beyond which no sequence joins a pass that is large enough: the first use of more memory costs more
/// than larger products gain.
const ENOUGH_CACHE_BYTES: u128 = 256 << 20;

/// Tokens of a pass of prefixes with their continuations, whatever the limits: it bounds memory. Twice as many were 5 % faster.
const MAX_FORK_TOKENS: usize = 4096;

/// Bounds of a pass of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences at once. A context and its endings are one where they are computed together.
    pub max_sequences: usize,
    /// Tokens at once, padding included; a longer sequence has a pass of its own.
    pub max_tokens: usize,
    /// Bytes of the keys and values of a pass; those of the passes whose prefixes it continues come on top.
    pub max_cache_bytes: u64,
}

impl Default for Limits {
    /// 64 sequences of 4096 tokens in all, and 1 GiB of keys and values.
    fn default() -> Self {
        Self { max_sequences: 64, max_tokens: 4096, max_cache_bytes: 1 << 30 }
    }
}

/// A pass: nodes, each with the sequence of the cache that it continues.
pub(super) type Pass<'a> = Vec<(&'a Node, usize)>;

/// The passes of a plan.
pub(super) struct Schedule<'a> {
    plan: &'a Plan,
    limits: Limits,
    /// Bytes of the keys and values of a token.
    token_bytes: u128,
    /// Whether a prefix and its continuations can be parts of one sequence.
    can_fork: bool,
    sliding_window: Option<usize>,
    /// The requests that are not answered yet. Those that are answered change no pass.
    is_open: Vec<bool>,
}

/// The roots of a plan by how they are computed.
#[derive(Default)]
pub(super) struct Roots<'a> {
    /// With all below them, in one pass.
    pub forks: Vec<&'a Node>,
    /// Level by level.
    pub others: Pass<'a>,
}

impl<'a> Schedule<'a> {
    /// The passes that a model of this shape takes for the open requests.
    pub fn new(plan: &'a Plan, limits: Limits, config: &DecoderConfig, can_fork: bool, is_open: Vec<bool>) -> Self {
        let token_bytes = kv_cache_bytes_per_token(config, 4);
        Self { plan, limits, token_bytes, can_fork, sliding_window: config.sliding_window, is_open }
    }

    /// Whether a request is not answered yet.
    pub fn is_open(&self, request: usize) -> bool {
        self.is_open[request]
    }

    /// Tokens of all passes, without padding.
    pub fn num_tokens(&self) -> usize {
        let Roots { forks, others } = self.roots();
        self.fork_passes(forks).into_iter().flatten().map(Node::num_computed).sum::<usize>() + self.count(others)
    }

    /// How the roots are computed.
    pub fn roots(&self) -> Roots<'a> {
        let mut roots = Roots::default();
        for root in self.plan.roots() {
            if self.is_fork(root) { roots.forks.push(root) } else { roots.others.push((root, 0)) }
        }
        roots
    }

    /// Whether a root and all below it can be one sequence.
    fn is_fork(&self, root: &Node) -> bool {
        let is_flat = root.children.iter().all(|child| child.children.is_empty());
        let longest = root.children.iter().chain([root]).map(|node| node.positions.end).max().unwrap_or(0);
        let is_in_window = self.sliding_window.is_none_or(|window| longest <= window);
        let fits = root.children.is_empty() || self.fits_fork_pass(1, root.num_computed());
        self.can_fork && is_flat && is_in_window && fits
    }

    /// Whether so many roots, of so many tokens with those below them, fit a pass.
    fn fits_fork_pass(&self, num_roots: usize, num_tokens: usize) -> bool {
        num_roots <= self.limits.max_sequences && num_tokens <= self.limits.max_tokens.min(MAX_FORK_TOKENS)
    }

    /// The passes of roots that are computed with all below them, without those that no open request needs.
    pub fn fork_passes(&self, mut roots: Vec<&'a Node>) -> Vec<Vec<&'a Node>> {
        // The longest first, so that a lack of memory shows at once.
        roots.sort_by_key(|root| Reverse(root.num_computed()));
        let mut passes: Vec<Vec<&Node>> = Vec::new();
        let mut num_tokens = 0;
        for root in roots {
            num_tokens += root.num_computed();
            match passes.last_mut() {
                Some(pass) if self.fits_fork_pass(pass.len() + 1, num_tokens) => pass.push(root),
                _ => {
                    num_tokens = root.num_computed();
                    passes.push(vec![root]);
                }
            }
        }
        passes.retain(|pass| pass.iter().any(|root| self.has_open(root)));
        passes
    }

    /// The passes that some nodes take, without those that no open request needs.
    pub fn passes(&self, mut nodes: Pass<'a>) -> Vec<Pass<'a>> {
        // Sequences of about one length have little padding; the longest first, so that a lack of memory shows at once.
        nodes.sort_by_key(|(node, _)| Reverse(node.positions.len()));
        let mut passes = Vec::new();
        while !nodes.is_empty() {
            let later = nodes.split_off(self.pass_size(&nodes));
            passes.push(std::mem::replace(&mut nodes, later));
        }
        passes.retain(|pass| pass.iter().any(|(node, _)| self.has_open(node)));
        passes
    }

    /// How many of some nodes, the longest first, fit a pass; at least one.
    fn pass_size(&self, nodes: &[(&Node, usize)]) -> usize {
        let Limits { max_sequences, max_tokens, max_cache_bytes } = self.limits;
        let longest = nodes[0].0.positions.len();
        let mut capacity = 0;
        let fits = |(index, (node, _)): &(usize, &(&Node, usize))| {
            capacity = capacity.max(node.positions.end);
            let count = index + 1;
            let bytes = self.token_bytes * (count * capacity) as u128;
            let is_cheap = 8 * node.positions.len() >= 7 * longest && bytes <= ENOUGH_CACHE_BYTES;
            let pays = index * longest < ENOUGH_TOKENS || is_cheap;
            pays && count <= max_sequences && count * longest <= max_tokens && bytes <= max_cache_bytes.into()
        };
        nodes.iter().enumerate().take_while(fits).count().max(1)
    }

    fn has_open(&self, node: &Node) -> bool {
        node.requests.clone().any(|request| self.is_open[request])
    }

    fn count(&self, nodes: Pass<'a>) -> usize {
        let passes = self.passes(nodes).into_iter();
        passes.map(|pass| num_tokens(&pass) + self.count(below(&pass))).sum()
    }
}

/// Tokens of the nodes of a pass, without those below them.
pub(super) fn num_tokens(pass: &[(&Node, usize)]) -> usize {
    pass.iter().map(|(node, _)| node.positions.len()).sum()
}

/// The children of the nodes of a pass, each with the row of its parent.
pub(super) fn below<'a>(pass: &[(&'a Node, usize)]) -> Pass<'a> {
    let rows = pass.iter().enumerate();
    rows.flat_map(|(row, (node, _))| node.children.iter().map(move |child| (child, row))).collect()
}
