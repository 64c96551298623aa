//! Direct preference optimization (Rafailov et al., 2023, arXiv:2305.18290).

use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{Accumulate, Objective, Targets};
use crate::data::Example;
use crate::kernel::linear_cross_entropy::Upstream;
use crate::model::{CausalLm, HiddenStates, TokenBatch};
use crate::trace::span;
use crate::train::router::{RouterLoss, RouterStats};

/// The loss of a pair as a function of `h = (π_chosen − ref_chosen) − (π_rejected − ref_rejected)`, where each term is the
/// log-probability of a completion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// `−(1 − ε)·ln σ(β·h) − ε·ln σ(−β·h)` with label smoothing `ε` (Mitchell, 2023, for `ε > 0`).
    #[default]
    Sigmoid,
    /// `(h − 1/(2β))²`, with log-probabilities averaged over the tokens of a completion (Azar et al., 2023,
    /// arXiv:2310.12036, eq. 17).
    Ipo,
    /// `max(0, 1 − β·h)` (Zhao et al., 2023, arXiv:2305.10425, §2.2).
    Hinge,
    /// `(−(1 − ε)·ln σ(β·h) + ε·ln σ(−β·h)) / (1 − 2ε)`: in expectation the loss of clean labels, of which a share `ε` was flipped
    /// (Chowdhury et al., 2024, arXiv:2403.00409, §3.1). TRL's only loss of these that reads `label_smoothing`.
    Robust,
}

/// The mean of [`DpoLoss`] over pairs, and the terms of the router.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dpo {
    /// The loss of a pair.
    pub loss: DpoLoss,
    /// `β`: how strongly the policy is held to the reference.
    pub beta: f64,
    /// `ε`: probability that a label is wrong.
    pub label_smoothing: f64,
    /// The terms of the router.
    pub router: RouterLoss,
}

/// Pairs as one batch: the sequences with the chosen completions, then those with the rejected ones. They are packed into one
/// row where nothing is computed for padding then ([`Targets::without_padding`]).
#[derive(Debug, Clone)]
pub struct PairBatch {
    inputs: TokenBatch,
    targets: Targets,
    /// `[num_targets, 2 · num_pairs]`: 1 where a target belongs to a sequence.
    membership: Tensor<2>,
    /// Targets of each sequence, `[2 · num_pairs]`.
    lens: Tensor<1>,
    /// Log-probabilities of the completions under the reference, `[2 · num_pairs]`.
    reference: Option<Tensor<1>>,
    num_pairs: usize,
}

impl PairBatch {
    /// Batches pairs: a prompt with the chosen and with the rejected completion, of which the completions are trained.
    ///
    /// # Panics
    /// If there is no pair, or a completion has no token.
    pub fn new(pairs: &[[&Example; 2]], device: &Device) -> Self {
        Self::batched(pairs, Targets::without_padding, device)
    }

    fn batched<'a>(
        pairs: &[[&'a Example; 2]],
        batch: impl Fn(&[[&'a Example; 1]], &Device) -> (TokenBatch, Targets),
        device: &Device,
    ) -> Self {
        let side = |side: usize| pairs.iter().map(move |pair| [pair[side]]);
        let rows: Vec<[&'a Example; 1]> = side(0).chain(side(1)).collect();
        let lens: Vec<f32> = rows.iter().map(|[example]| example.num_trained() as f32).collect();
        assert!(lens.iter().all(|len| *len > 0.0) && !lens.is_empty(), "a completion needs a token");
        let (inputs, targets) = batch(&rows, device);
        let Targets::Some { rows: target_rows, .. } = &targets else { unreachable!("targets of rows are listed") };
        let mut membership = vec![0.0f32; target_rows.len() * rows.len()];
        target_rows.iter().enumerate().for_each(|(target, row)| membership[target * rows.len() + row] = 1.0);
        let membership = Tensor::from_data(TensorData::new(membership, [target_rows.len(), rows.len()]), device);
        let num_sequences = rows.len();
        let lens = Tensor::from_data(TensorData::new(lens, [num_sequences]), device);
        Self { inputs, targets, membership, lens, reference: None, num_pairs: pairs.len() }
    }

    /// Adds the log-probabilities of the completions under the reference: those of the chosen ones, then of the rejected ones.
    ///
    /// # Panics
    /// If there are not two for each pair.
    #[must_use]
    pub fn with_reference(self, log_probabilities: Vec<f32>) -> Self {
        assert_eq!(log_probabilities.len(), 2 * self.num_pairs, "two completions of each pair");
        let data = TensorData::new(log_probabilities, [2 * self.num_pairs]);
        Self { reference: Some(Tensor::from_data(data, &self.lens.device())), ..self }
    }

    /// With dropout under an adapter, of random streams of the sequences with chosen, then of those with rejected completions.
    ///
    /// # Panics
    /// As [`TokenBatch::with_dropout`].
    #[must_use]
    pub fn with_dropout(self, streams: &[u64]) -> Self {
        Self { inputs: self.inputs.with_dropout(streams), ..self }
    }

    /// `ln p(completion | prompt)` of each sequence under `model`, `[2 · num_pairs]`, and the routing.
    pub fn log_probabilities<M: CausalLm>(&self, model: &M) -> (Tensor<1>, HiddenStates) {
        let states = {
            let _span = span("forward");
            model.hidden_states(self.inputs.clone(), None)
        };
        let losses = self.targets.losses(model, states.last.clone(), Upstream::Any);
        (-losses.matmul(self.membership.clone()).reshape([2 * self.num_pairs]), states)
    }
}

/// Rewards and log-probabilities of one update, means over its pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DpoLog {
    /// Mean of [`DpoLoss`], without the terms of routers.
    pub loss: f64,
    /// `β·(π_chosen − ref_chosen)`.
    pub reward_chosen: f64,
    /// `β·(π_rejected − ref_rejected)`.
    pub reward_rejected: f64,
    /// Share of pairs whose chosen reward is the larger one.
    pub accuracy: f64,
    /// `ln p` of the chosen completions.
    pub logp_chosen: f64,
    /// `ln p` of the rejected completions.
    pub logp_rejected: f64,
    /// Load-balancing loss before its coefficient; `None` for a dense model.
    pub aux_loss: Option<f64>,
    /// Visits to the experts of each sparse layer.
    pub routers: Vec<RouterStats>,
}

impl DpoLog {
    /// Chosen less rejected reward.
    pub fn margin(&self) -> f64 {
        self.reward_chosen - self.reward_rejected
    }
}

impl Accumulate for DpoLog {
    fn add(&mut self, pass: Self, share: f64) {
        self.loss += share * pass.loss;
        self.reward_chosen += share * pass.reward_chosen;
        self.reward_rejected += share * pass.reward_rejected;
        self.accuracy += share * pass.accuracy;
        self.logp_chosen += share * pass.logp_chosen;
        self.logp_rejected += share * pass.logp_rejected;
        if let Some(aux_loss) = pass.aux_loss {
            *self.aux_loss.get_or_insert(0.0) += share * aux_loss;
        }
        RouterStats::add(&mut self.routers, pass.routers);
    }
}

impl Dpo {
    /// The loss of each pair, `[num_pairs]`, from the margins `h`.
    fn pair_losses(&self, margins: Tensor<1>) -> Tensor<1> {
        let (beta, smoothing) = (self.beta, self.label_smoothing);
        match self.loss {
            DpoLoss::Sigmoid if smoothing == 0.0 => -log_sigmoid(margins * beta),
            DpoLoss::Sigmoid => {
                let logits = margins * beta;
                -(log_sigmoid(logits.clone()) * (1.0 - smoothing) + log_sigmoid(-logits) * smoothing)
            }
            DpoLoss::Robust => {
                let logits = margins * beta;
                let clean = log_sigmoid(logits.clone()) * (smoothing - 1.0);
                (clean + log_sigmoid(-logits) * smoothing) / (1.0 - 2.0 * smoothing)
            }
            DpoLoss::Ipo => {
                let off = margins - 1.0 / (2.0 * beta);
                off.clone() * off
            }
            DpoLoss::Hinge => (margins * -beta + 1.0).clamp_min(0.0),
        }
    }
}

impl<M: CausalLm> Objective<M> for Dpo {
    type Batch = PairBatch;
    type Log = DpoLog;

    fn num_targets(&self, batch: &PairBatch) -> usize {
        batch.num_pairs
    }

    /// # Panics
    /// If the batch has no reference.
    fn loss(&self, model: &M, batch: &PairBatch) -> (Tensor<1>, DpoLog) {
        let n = batch.num_pairs;
        let (policy, states) = batch.log_probabilities(model);
        let reference = batch.reference.clone().expect("a reference");
        let log_ratios = policy.clone() - reference;
        let compared =
            if self.loss == DpoLoss::Ipo { log_ratios.clone() / batch.lens.clone() } else { log_ratios.clone() };
        let margins = compared.clone().narrow(0, 0, n) - compared.narrow(0, n, n);
        let loss = self.pair_losses(margins).mean();
        let values = |tensor: Tensor<1>| -> Vec<f64> { tensor.into_data().iter::<f32>().map(f64::from).collect() };
        let (logps, ratios) = (values(policy), values(log_ratios));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
        let wins = ratios[..n].iter().zip(&ratios[n..]).filter(|(chosen, rejected)| chosen > rejected).count();
        let mut log = DpoLog {
            loss: f64::from(loss.clone().into_scalar::<f32>()),
            reward_chosen: self.beta * mean(&ratios[..n]),
            reward_rejected: self.beta * mean(&ratios[n..]),
            accuracy: wins as f64 / n as f64,
            logp_chosen: mean(&logps[..n]),
            logp_rejected: mean(&logps[n..]),
            aux_loss: None,
            routers: Vec::new(),
        };
        let Some(moe) = model.config().moe else { return (loss, log) };
        let tokens = batch.inputs.token_mask();
        let (router_loss, aux_loss) = self.router.of(&states.routing, tokens.as_ref(), moe.router_aux_loss_coef);
        log.aux_loss = Some(aux_loss);
        log.routers = RouterStats::of_layers(&states.routing, tokens.as_ref());
        (loss + router_loss, log)
    }
}

/// The value that [`DpoLoss`] has when the policy is the reference: `ln 2`, `1/(4β²)`, 1.
pub fn initial_loss(objective: &Dpo) -> f64 {
    match objective.loss {
        DpoLoss::Sigmoid | DpoLoss::Robust => std::f64::consts::LN_2,
        DpoLoss::Ipo => (1.0 / (2.0 * objective.beta)).powi(2),
        DpoLoss::Hinge => 1.0,
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::optim::GradientsParams;

    use super::*;
    use crate::config::{DecoderConfig, MoeConfig};
    use crate::model::AnyDecoder;
    use crate::weights::MemoryWeights;

    fn losses(loss: DpoLoss, label_smoothing: f64, margins: &[f32]) -> Vec<f32> {
        let objective = Dpo { loss, beta: 0.1, label_smoothing, router: RouterLoss::default() };
        let margins = Tensor::from_data(TensorData::new(margins.to_vec(), [margins.len()]), &Device::flex());
        objective.pair_losses(margins).into_data().iter::<f32>().collect()
    }

    /// A prompt of five tokens and a completion.
    fn example(completion: &[u32]) -> Example {
        let ids = [&[3, 1, 4, 1, 5], completion].concat();
        let trained = (0..ids.len()).map(|at| at >= 5).collect();
        Example { ids, trained }
    }

    /// The gradients of all parameters, one after the other.
    struct Gradients<'a>(&'a GradientsParams, Vec<f32>);

    impl ModuleVisitor for Gradients<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).expect("every parameter has a gradient");
            self.1.extend(gradient.into_data().iter::<f32>());
        }
    }

    /// Inputs, log-probabilities, and the gradients of the loss.
    fn gradients(model: &AnyDecoder, batch: PairBatch) -> (usize, Vec<f32>, Vec<f32>) {
        let objective = Dpo { loss: DpoLoss::Sigmoid, beta: 0.1, label_smoothing: 0.0, router: RouterLoss::default() };
        let num_inputs = batch.inputs.ids.dims().iter().product();
        let log_probabilities = batch.log_probabilities(model).0.into_data().iter::<f32>().collect();
        let batch = batch.with_reference(vec![-4.0, -5.5, -3.0, -2.0]);
        let (loss, _) = objective.loss(model, &batch);
        let gradients = GradientsParams::from_grads(loss.backward(), model);
        let mut visitor = Gradients(&gradients, Vec::new());
        model.visit(&mut visitor);
        (num_inputs, log_probabilities, visitor.1)
    }

    #[test]
    fn completions_of_different_lengths_lose_their_padding_and_keep_log_probabilities_and_gradients() {
        let device = Device::flex().autodiff();
        let examples = [[1, 2, 3, 4, 5, 6].as_slice(), &[7], &[8, 9, 10], &[11, 12]].map(example);
        let pairs = [[&examples[0], &examples[1]], [&examples[2], &examples[3]]];
        let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
        let mixture = DecoderConfig::pico().with_experts(moe).expect("a mixture");
        for config in [DecoderConfig::pico(), mixture] {
            let config = config.with(|f| (f.vocab_size, f.num_hidden_layers) = (30, 2)).expect("a decoder");
            let model = AnyDecoder::load(&MemoryWeights::untrained(config, 0.1, 1), &device).expect("a model");
            let (num_packed, packed, found) = gradients(&model, PairBatch::new(&pairs, &device));
            let (num_padded, padded, expected) =
                gradients(&model, PairBatch::batched(&pairs, Targets::packed, &device));
            assert_eq!((num_packed, num_padded), (10 + 7 + 5 + 6, 4 * 10));
            assert!(off(&packed, &padded) < 1e-5, "{packed:?} {padded:?}");
            assert!(off(&found, &expected) < 1e-6 && expected.iter().any(|gradient| gradient.abs() > 1e-3));
            // Where completions see each other, log-probabilities differ.
            let joined = |rows: &[[&Example; 1]], device: &Device| {
                let (_, targets) = Targets::without_padding(rows, device);
                let inputs: Vec<u32> = rows.iter().flat_map(|[row]| row.inputs()).copied().collect();
                (TokenBatch::padded(&[inputs], device), targets)
            };
            let (_, mixed, _) = gradients(&model, PairBatch::batched(&pairs, joined, &device));
            assert!(off(&mixed, &padded) > 1e-2, "{mixed:?}");
        }
    }

    #[test]
    fn a_policy_that_is_its_reference_has_the_initial_loss() {
        for loss in [DpoLoss::Sigmoid, DpoLoss::Ipo, DpoLoss::Hinge, DpoLoss::Robust] {
            let objective = Dpo { loss, beta: 0.1, label_smoothing: 0.0, router: RouterLoss::default() };
            let expected = initial_loss(&objective);
            assert!((f64::from(losses(loss, 0.0, &[0.0])[0]) - expected).abs() <= 1e-6 * expected, "{loss:?}");
            if loss != DpoLoss::Ipo {
                assert!((f64::from(losses(loss, 0.0, &[5.0])[0]) - expected).abs() > 0.1, "{loss:?}");
            }
        }
    }

    #[test]
    fn the_sigmoid_loss_keeps_its_identities() {
        let h = [-37.5f32, -1.0, 0.25, 12.0];
        let mirrored: Vec<f32> = h.iter().map(|h| -h).collect();
        let (a, b) = (losses(DpoLoss::Sigmoid, 0.0, &h), losses(DpoLoss::Sigmoid, 0.0, &mirrored));
        for ((h, a), b) in h.iter().zip(&a).zip(&b) {
            // L(z) − L(−z) = −z, and σ(z) + σ(−z) = 1.
            assert!((a - b + 0.1 * h).abs() < 1e-5, "{h}");
            assert!(((-a).exp() + (-b).exp() - 1.0).abs() < 1e-6, "{h}");
        }
        let smoothed = losses(DpoLoss::Sigmoid, 0.25, &h);
        for ((smoothed, a), b) in smoothed.iter().zip(&a).zip(&b) {
            assert!((smoothed - 0.75 * a - 0.25 * b).abs() < 1e-5);
        }
    }

    #[test]
    fn a_loss_of_extreme_margins_is_finite() {
        for loss in [DpoLoss::Sigmoid, DpoLoss::Hinge] {
            let [low, high] = [-1e5f32, 1e5].map(|margin| losses(loss, 0.0, &[margin])[0]);
            assert!((low - 1e4).abs() <= 2.0 && (0.0..1e-6).contains(&high), "{loss:?}: {low} {high}");
        }
    }
}
