//! Runs a model over a plan.

use burn::tensor::{Device, Tensor, TensorData};

use super::greedy::{Greedy, Token};
use super::plan::{Node, Plan};
use super::request::Answer;
use crate::eval::error::EvalError;
use crate::eval::states::selected;
use crate::kernel::attention::has_forked_kernel;
use crate::model::{CausalLm, Fork, KvCache, TokenBatch};
use crate::profile::memory::kv_cache_bytes_per_token;

/// Tokens that make the products of a pass large. Beyond them, a sequence joins only if it needs little padding.
const ENOUGH_TOKENS: usize = 256;

/// Bytes of keys and values beyond which no sequence joins a pass that is large enough: the first use of more memory costs more
/// than larger products gain.
const ENOUGH_CACHE_BYTES: u128 = 256 << 20;

/// Bounds of a pass of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences at once.
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

impl Limits {
    /// Whether sequences of so many tokens in all fit a pass without padding and without a cache.
    fn fit(&self, num_sequences: usize, num_tokens: usize) -> bool {
        num_sequences <= self.max_sequences && num_tokens <= self.max_tokens
    }
}

/// The outcome of a pass.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Tokens that were computed, without padding.
    pub num_tokens: usize,
    /// Requests that are answered now, by their index in [`Plan::requests`].
    pub answered: &'a [(usize, Answer)],
}

/// Computes log-likelihoods.
///
/// Where attention [has a kernel for it](has_forked_kernel), a prefix and its continuations are computed in one pass, without a cache
/// and without padding. A prefix whose continuations are too many for a pass, or have continuations themselves, is computed before
/// them, with a cache.
pub struct Scorer<'a, M> {
    model: &'a M,
    plan: &'a Plan,
    limits: Limits,
    device: &'a Device,
    /// Of each request, as far as its tokens were computed.
    sums: Vec<f64>,
    greedy: Vec<bool>,
    is_open: Vec<bool>,
}

impl<'a, M: CausalLm> Scorer<'a, M> {
    /// For the requests of a plan for which `is_open` holds. The passes are those of the whole plan, without the ones that no open
    /// request needs, so that an interrupted run that goes on gives the bits of a run in one go.
    pub fn new(
        model: &'a M,
        plan: &'a Plan,
        is_open: &dyn Fn(usize) -> bool,
        limits: Limits,
        device: &'a Device,
    ) -> Self {
        let count = plan.requests().len();
        let is_open = (0..count).map(is_open).collect();
        Self { model, plan, limits, device, sums: vec![0.0; count], greedy: vec![true; count], is_open }
    }

    /// Answers the requests; `watch` is called after each pass.
    ///
    /// # Errors
    /// Those of `watch`.
    ///
    /// # Panics
    /// If an id is not below `vocab_size`, or a request is longer than `max_position_embeddings`.
    pub fn run(mut self, watch: &mut dyn FnMut(Progress<'_>) -> Result<(), EvalError>) -> Result<(), EvalError> {
        let (forks, others) = self.roots();
        for pass in self.fork_passes(forks) {
            let answered = self.fork_pass(&pass);
            let num_tokens = pass.iter().map(|root| root.num_tokens()).sum();
            watch(Progress { num_tokens, answered: &answered })?;
        }
        self.visit(others, None, watch)
    }

    /// Tokens that [`run`](Self::run) computes, without padding.
    pub fn num_tokens(&self) -> usize {
        let (forks, others) = self.roots();
        self.fork_passes(forks).iter().flatten().map(|root| root.num_tokens()).sum::<usize>() + self.count(others)
    }

    /// The roots that are computed with all below them, and the others.
    fn roots(&self) -> (Vec<&'a Node>, Vec<(&'a Node, usize)>) {
        let can_fork = has_forked_kernel(self.device) && self.model.config().sliding_window.is_none();
        let is_fork = |root: &&Node| {
            can_fork && root.has_no_grandchildren() && self.limits.fit(num_sequences(root), root.num_tokens())
        };
        let (forks, others): (Vec<_>, Vec<_>) = self.plan.roots().iter().partition(is_fork);
        (forks, others.into_iter().map(|root| (root, 0)).collect())
    }

    /// The passes of roots that are computed with all below them, without those that no open request needs.
    fn fork_passes(&self, mut roots: Vec<&'a Node>) -> Vec<Vec<&'a Node>> {
        // The longest first, so that a lack of memory shows at once.
        roots.sort_by_key(|root| std::cmp::Reverse(root.num_tokens()));
        let mut passes: Vec<Vec<&Node>> = Vec::new();
        let [mut sequences, mut tokens] = [0; 2];
        for root in roots {
            (sequences, tokens) = (sequences + num_sequences(root), tokens + root.num_tokens());
            match passes.last_mut() {
                Some(pass) if self.limits.fit(sequences, tokens) => pass.push(root),
                _ => {
                    (sequences, tokens) = (num_sequences(root), root.num_tokens());
                    passes.push(vec![root]);
                }
            }
        }
        passes.retain(|pass| pass.iter().any(|root| self.has_open(root)));
        passes
    }

    fn has_open(&self, node: &Node) -> bool {
        node.requests.clone().any(|request| self.is_open[request])
    }

    fn count(&self, nodes: Vec<(&'a Node, usize)>) -> usize {
        let passes = self.passes(nodes).into_iter();
        passes.map(|pass| num_tokens(&pass) + self.count(below(&pass))).sum()
    }

    /// The passes that some nodes take, without those that no open request needs.
    fn passes(&self, mut nodes: Vec<(&'a Node, usize)>) -> Vec<Vec<(&'a Node, usize)>> {
        // Sequences of about one length have little padding; the longest first, so that a lack of memory shows at once.
        nodes.sort_by_key(|(node, _)| std::cmp::Reverse(node.positions.len()));
        let mut passes = Vec::new();
        while !nodes.is_empty() {
            let later = nodes.split_off(self.pass_size(&nodes));
            passes.push(std::mem::replace(&mut nodes, later));
        }
        passes.retain(|pass| pass.iter().any(|(node, _)| self.has_open(node)));
        passes
    }

    /// Computes nodes, each behind the sequence of `prefixes` that is given with it, and all below them.
    fn visit(
        &mut self,
        nodes: Vec<(&'a Node, usize)>,
        prefixes: Option<&KvCache>,
        watch: &mut dyn FnMut(Progress<'_>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        for pass in self.passes(nodes) {
            let branches = pass.iter().any(|(node, _)| !node.children.is_empty());
            let capacity = pass.iter().map(|(node, _)| node.positions.end).max().unwrap_or(0);
            let rows: Vec<usize> = pass.iter().map(|(_, row)| *row).collect();
            let mut cache = match prefixes {
                Some(prefixes) => Some(prefixes.gather(&rows, capacity)),
                None if branches => Some(KvCache::new(self.model.config(), pass.len(), capacity, self.device)),
                None => None,
            };
            let answered = self.pass(&pass, cache.as_mut());
            watch(Progress { num_tokens: num_tokens(&pass), answered: &answered })?;
            self.visit(below(&pass), cache.as_ref(), watch)?;
        }
        Ok(())
    }

    /// How many of some nodes, the longest first, fit a pass; at least one.
    fn pass_size(&self, nodes: &[(&Node, usize)]) -> usize {
        let Limits { max_sequences, max_tokens, max_cache_bytes } = self.limits;
        let longest = nodes[0].0.positions.len();
        let token_bytes = kv_cache_bytes_per_token(self.model.config(), 4);
        let mut capacity = 0;
        let fits = |(index, (node, _)): &(usize, &(&Node, usize))| {
            capacity = capacity.max(node.positions.end);
            let count = index + 1;
            let bytes = token_bytes * (count * capacity) as u128;
            let is_cheap = 8 * node.positions.len() >= 7 * longest && bytes <= ENOUGH_CACHE_BYTES;
            let pays = index * longest < ENOUGH_TOKENS || is_cheap;
            pays && count <= max_sequences && count * longest <= max_tokens && bytes <= max_cache_bytes.into()
        };
        nodes.iter().enumerate().take_while(fits).count().max(1)
    }

    /// Computes roots and all below them, and returns their requests.
    fn fork_pass(&mut self, roots: &[&'a Node]) -> Vec<(usize, Answer)> {
        let fork = |root: &&'a Node| Fork {
            prefix: self.plan.tokens(root),
            continuations: root.children.iter().map(|child| self.plan.tokens(child)).collect(),
        };
        let forks: Vec<Fork<'_>> = roots.iter().map(fork).collect();
        let hidden = self.model.hidden_states(TokenBatch::forked(&forks, self.device), None).last;
        let nodes = roots.iter().flat_map(|root| std::iter::once(*root).chain(&root.children));
        let mut end = 0;
        let place = |node: &'a Node| {
            end += node.positions.len();
            (node, end - node.positions.len())
        };
        let places: Vec<_> = nodes.map(place).collect();
        self.score(&places, hidden.squeeze_dim(0))
    }

    /// Computes nodes and returns the requests that end in them.
    fn pass(&mut self, nodes: &[(&'a Node, usize)], cache: Option<&mut KvCache>) -> Vec<(usize, Answer)> {
        let segments: Vec<&[u32]> = nodes.iter().map(|(node, _)| self.plan.tokens(node)).collect();
        let hidden = self.model.hidden_states(TokenBatch::padded(&segments, self.device), cache).last;
        let [num_rows, seq_length, hidden_size] = hidden.dims();
        let places: Vec<_> = nodes.iter().enumerate().map(|(row, (node, _))| (*node, row * seq_length)).collect();
        self.score(&places, hidden.reshape([num_rows * seq_length, hidden_size]))
    }

    /// Scores the tokens that the states of nodes predict, and returns the requests that end in them. The first state of each node is
    /// given with it.
    fn score(&mut self, nodes: &[(&'a Node, usize)], hidden: Tensor<2>) -> Vec<(usize, Answer)> {
        let mut tokens: Vec<Token> = Vec::new();
        for (node, first) in nodes {
            tokens.extend(self.scored(node, *first));
        }
        if !tokens.is_empty() {
            let states = selected(&hidden, tokens.iter().map(|token| token.position), self.device);
            let targets = tokens.iter().map(|token| token.target as i32).collect();
            let targets = Tensor::from_data(TensorData::new(targets, [1, tokens.len()]), self.device);
            let losses = self.model.token_losses(states, targets).into_data();
            for (token, loss) in tokens.iter_mut().zip(losses.iter::<f32>()) {
                token.loss = loss;
                token.requests.iter().for_each(|request| self.sums[*request] -= f64::from(loss));
            }
            Greedy { model: self.model, hidden: &hidden, device: self.device }.decide(&tokens, &mut self.greedy);
        }
        let ends = nodes.iter().flat_map(|(node, _)| self.ending(node));
        let answer = |request| Answer { log_likelihood: self.sums[request], is_greedy: self.greedy[request] };
        ends.map(|request| (request, answer(request))).collect()
    }

    /// The open requests whose input ends with a node: the first ones of those that have it.
    fn ending(&self, node: &Node) -> Vec<usize> {
        let ends = |request: &usize| self.plan.requests()[*request].input().len() == node.positions.end;
        node.requests.clone().take_while(ends).filter(|request| self.is_open[*request]).collect()
    }

    /// The scored tokens that the states of a node predict; a token that several requests share is there once. The first
    /// state of the node is row `first` of the pass.
    fn scored(&self, node: &Node, first: usize) -> Vec<Token> {
        let Node { positions, requests, .. } = node;
        let mut tokens: Vec<Token> = Vec::new();
        for request in requests.clone() {
            let targets = self.plan.requests()[request].targets();
            for (at, target) in targets.filter(|(at, _)| positions.contains(at)) {
                let position = first + at - positions.start;
                tokens.push(Token { position, target, loss: 0.0, requests: vec![request] });
            }
        }
        tokens.sort_by_key(|token| (token.position, token.target));
        tokens.dedup_by(|token, kept| {
            let same = (token.position, token.target) == (kept.position, kept.target);
            if same {
                kept.requests.append(&mut token.requests);
            }
            same
        });
        tokens
    }
}

/// Continuations of a prefix; one if it has none.
fn num_sequences(prefix: &Node) -> usize {
    prefix.children.len().max(1)
}

fn num_tokens(pass: &[(&Node, usize)]) -> usize {
    pass.iter().map(|(node, _)| node.positions.len()).sum()
}

/// The children of the nodes of a pass, each with the row of its parent.
fn below<'a>(pass: &[(&'a Node, usize)]) -> Vec<(&'a Node, usize)> {
    let rows = pass.iter().enumerate();
    rows.flat_map(|(row, (node, _))| node.children.iter().map(move |child| (child, row))).collect()
}
