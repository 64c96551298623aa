//! The tree of the shared prefixes of requests.

use std::ops::Range;

use super::EncodedRequest;

/// Tokens that sharing a prefix must save to be worth a pass of its own.
const MIN_SAVED_TOKENS: usize = 16;

/// Distinct requests as a forest: a node is a run of tokens that all requests below it have.
///
/// Each token of a node is computed once. A prefix that few requests share, and only for a few tokens, is no node.
#[derive(Debug)]
pub struct Plan {
    /// Sorted, without repetitions.
    requests: Vec<EncodedRequest>,
    /// For each request that was given, its index in `requests`.
    places: Vec<usize>,
    roots: Vec<Node>,
}

/// A run of tokens behind those of its ancestors.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Positions of the run.
    pub positions: Range<usize>,
    /// The requests that have it.
    pub requests: Range<usize>,
    pub children: Vec<Node>,
}

impl Node {
    /// Tokens of the node and all below it.
    pub fn num_computed(&self) -> usize {
        self.positions.len() + num_computed(&self.children)
    }
}

impl Plan {
    /// Arranges requests; equal ones become one.
    pub fn new(given: Vec<EncodedRequest>) -> Self {
        let mut order: Vec<usize> = (0..given.len()).collect();
        order.sort_by(|a, b| given[*a].sort_key().cmp(&given[*b].sort_key()));
        let mut places = vec![0; given.len()];
        let mut given: Vec<Option<EncodedRequest>> = given.into_iter().map(Some).collect();
        let mut requests: Vec<EncodedRequest> = Vec::new();
        for index in order {
            let request = given[index].take().expect("each index once");
            if requests.last() != Some(&request) {
                requests.push(request);
            }
            places[index] = requests.len() - 1;
        }
        let shared =
            |pair: &[EncodedRequest]| pair[0].input().iter().zip(pair[1].input()).take_while(|(a, b)| a == b).count();
        let shared: Vec<usize> = requests.windows(2).map(shared).collect();
        let forest = Forest { requests: &requests, shared: &shared };
        let roots = forest.nodes(0..requests.len(), 0, 0);
        Self { requests, places, roots }
    }

    /// The distinct requests.
    pub fn requests(&self) -> &[EncodedRequest] {
        &self.requests
    }

    /// For each request that was given, its index in [`requests`](Self::requests).
    pub fn places(&self) -> &[usize] {
        &self.places
    }

    pub(super) fn roots(&self) -> &[Node] {
        &self.roots
    }

    /// The tokens of a node.
    pub(super) fn tokens(&self, node: &Node) -> &[u32] {
        &self.requests[node.requests.start].input()[node.positions.clone()]
    }

    /// Tokens that the given requests have in all, each on its own.
    pub fn num_tokens(&self) -> usize {
        self.places.iter().map(|place| self.requests[*place].input().len()).sum()
    }

    /// Tokens that are computed for them.
    pub fn num_computed(&self) -> usize {
        num_computed(&self.roots)
    }
}

fn num_computed(nodes: &[Node]) -> usize {
    nodes.iter().map(Node::num_computed).sum()
}

struct Forest<'a> {
    requests: &'a [EncodedRequest],
    /// Tokens that each input shares with the next.
    shared: &'a [usize],
}

impl Forest<'_> {
    /// The nodes of a run of requests whose first `start` tokens are computed already, and that all share their first
    /// `level`.
    fn nodes(&self, run: Range<usize>, start: usize, level: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut first = run.start;
        while first < run.end {
            let more = (first..run.end - 1).take_while(|at| self.shared[*at] > level).count();
            let group = first..first + more + 1;
            first = group.end;
            nodes.extend(self.group(group, start));
        }
        nodes
    }

    /// The nodes of requests that share more tokens than those before them do.
    fn group(&self, group: Range<usize>, start: usize) -> Vec<Node> {
        let own = self.requests[group.start].input().len();
        let level = self.shared[group.start..group.end - 1].iter().copied().min().unwrap_or(own);
        // Sorted inputs: those that end at `level` come first.
        let num_ending = group.clone().take_while(|at| self.requests[*at].input().len() == level).count();
        let going_on = group.start + num_ending..group.end;
        let is_leaf = going_on.is_empty();
        let node = |children| Node { positions: start..level, requests: group.clone(), children };
        if is_leaf {
            return vec![node(Vec::new())];
        }
        let branches = self.branches(going_on.clone(), level) + usize::from(num_ending > 0);
        if (branches - 1) * (level - start) >= MIN_SAVED_TOKENS {
            return vec![node(self.nodes(going_on, level, level))];
        }
        let ending = group.start..group.start + num_ending;
        let leaf = (num_ending > 0).then(|| Node { positions: start..level, requests: ending, children: Vec::new() });
        leaf.into_iter().chain(self.nodes(going_on, start, level)).collect()
    }

    /// Groups of a run that share more than `level` tokens.
    fn branches(&self, run: Range<usize>, level: usize) -> usize {
        1 + (run.start..run.end - 1).filter(|at| self.shared[*at] <= level).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ids: impl IntoIterator<Item = u32>, num_scored: usize) -> EncodedRequest {
        EncodedRequest::new(ids.into_iter().collect(), num_scored)
    }

    fn leaf(positions: Range<usize>, requests: Range<usize>) -> Node {
        Node { positions, requests, children: Vec::new() }
    }

    #[test]
    fn a_context_with_several_endings_is_computed_once() {
        let context = 0..40u32;
        let ending = |first: u32| request(context.clone().chain([first, 9, 9]), 3);
        let plan = Plan::new([90, 70, 80].map(ending).to_vec());
        assert_eq!(plan.places(), [2, 0, 1]);
        let children = vec![leaf(40..42, 0..1), leaf(40..42, 1..2), leaf(40..42, 2..3)];
        assert_eq!(plan.roots(), [Node { positions: 0..40, requests: 0..3, children }]);
        assert_eq!((plan.num_tokens(), plan.num_computed()), (126, 46));
    }

    #[test]
    fn endings_of_one_token_need_no_pass_of_their_own() {
        let plan = Plan::new([5, 6, 7, 8].map(|letter| request([1, 2, 3, letter], 1)).to_vec());
        assert_eq!(plan.roots(), [leaf(0..3, 0..4)]);
    }

    #[test]
    fn a_short_prefix_of_few_requests_is_no_node() {
        let plan = Plan::new([5, 6].map(|last| request([1, 2, last, last, last], 1)).to_vec());
        assert_eq!(plan.roots(), [leaf(0..4, 0..1), leaf(0..4, 1..2)]);
    }

    #[test]
    fn prefixes_nest_and_a_request_may_end_where_others_go_on() {
        let shots = 0..30u32;
        let item = |id: u32| shots.clone().chain(100 * id..100 * id + 20);
        let mut given = vec![request(item(1).chain([9]), 1), request(item(1).chain([7, 8, 9]), 3)];
        given.push(request(item(2).chain([7]), 1));
        let plan = Plan::new(given);
        let first = Node { positions: 30..50, requests: 0..2, children: vec![leaf(50..52, 1..2)] };
        let expected = Node { positions: 0..30, requests: 0..3, children: vec![first, leaf(30..50, 2..3)] };
        assert_eq!(plan.roots(), [expected]);
    }

    #[test]
    fn equal_requests_are_computed_once() {
        let plan = Plan::new(vec![request([1, 2, 3], 1), request([1, 2, 3], 1), request([1, 2, 3], 2)]);
        assert_eq!((plan.requests().len(), plan.places()), (2, [0, 0, 1].as_slice()));
        assert_eq!(plan.num_computed(), 2);
        assert!(Plan::new(Vec::new()).roots().is_empty());
    }
}
