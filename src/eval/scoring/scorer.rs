//! Runs a model over a plan.

use burn::tensor::{Device, Tensor, TensorData};

use super::greedy::{Greedy, Token};
use super::plan::{Node, Plan};
use super::request::Answer;
use super::schedule::{Limits, Pass, Roots, Schedule, below, num_tokens};
use crate::eval::error::EvalError;
use crate::eval::states::selected;
use crate::kernel::attention::has_forked_kernel;
use crate::model::{CausalLm, Fork, KvCache, TokenBatch};

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
/// Where attention [has a kernel for it](has_forked_kernel), a prefix and its continuations are one sequence, computed without a cache
/// and without padding, if they fit a pass and the sliding window. Otherwise, and if continuations have continuations, the prefix
/// is computed first, and each continuation has a copy of its cache.
pub struct Scorer<'a, M> {
    model: &'a M,
    plan: &'a Plan,
    schedule: Schedule<'a>,
    device: &'a Device,
    /// Of each request, as far as its tokens were computed.
    sums: Vec<f64>,
    greedy: Vec<bool>,
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
        let schedule = Schedule::new(plan, limits, model.config(), has_forked_kernel(device), is_open);
        Self { model, plan, schedule, device, sums: vec![0.0; count], greedy: vec![true; count] }
    }

    /// Tokens that [`run`](Self::run) computes, without padding.
    pub fn num_tokens(&self) -> usize {
        self.schedule.num_tokens()
    }

    /// Answers the requests; `watch` is called after each pass.
    ///
    /// # Errors
    /// Those of `watch`.
    ///
    /// # Panics
    /// If an id is not below `vocab_size`, or a request is longer than `max_position_embeddings`.
    pub fn run(mut self, watch: &mut dyn FnMut(Progress<'_>) -> Result<(), EvalError>) -> Result<(), EvalError> {
        let Roots { forks, others } = self.schedule.roots();
        for pass in self.schedule.fork_passes(forks) {
            let answered = self.forks(&pass);
            let num_tokens = pass.iter().map(|root| root.num_computed()).sum();
            watch(Progress { num_tokens, answered: &answered })?;
        }
        self.visit(others, None, watch)
    }

    /// Computes nodes, each behind the sequence of `prefixes` that is given with it, and all below them.
    fn visit(
        &mut self,
        nodes: Pass<'a>,
        prefixes: Option<&KvCache>,
        watch: &mut dyn FnMut(Progress<'_>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        for pass in self.schedule.passes(nodes) {
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

    /// Computes roots and all below them, and returns their requests.
    fn forks(&mut self, roots: &[&'a Node]) -> Vec<(usize, Answer)> {
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
        node.requests.clone().take_while(ends).filter(|request| self.schedule.is_open(*request)).collect()
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
