//! Preference learning by DPO.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::Device;

use super::task::{Report, Task, Update};
use super::{FinetuneError, Settings};
use crate::data::{Example, Mixture};
use crate::model::AnyDecoder;
use crate::train::{Dpo, DpoLog, Objective, PairBatch, StepLog, initial_loss};

/// Two completions of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Prompt and preferred completion; the completion is trained.
    pub chosen: Example,
    /// Prompt and other completion; the completion is trained.
    pub rejected: Example,
    /// Where it comes from, for messages.
    pub name: String,
}

impl Pair {
    /// Inputs of its longer side.
    pub fn longest(&self) -> usize {
        self.sides().map(|side| side.inputs().len()).into_iter().max().unwrap_or(0)
    }

    fn sides(&self) -> [&Example; 2] {
        [&self.chosen, &self.rejected]
    }
}

/// DPO on pairs. The log-probabilities of the reference are computed before the first update, so that one model is in memory.
pub struct Preference<'a> {
    pairs: &'a [Pair],
    heldout: &'a [Pair],
    /// Of a pair's chosen and rejected completion, by its index: those of `pairs`, then those of `heldout`.
    reference: BTreeMap<u64, [f32; 2]>,
    objective: Dpo,
    order: Mixture,
    settings: &'a Settings,
    device: Device,
}

impl<'a> Preference<'a> {
    /// Trains on `pairs` and evaluates on `heldout`, with reference log-probabilities computed earlier, if any.
    ///
    /// # Panics
    /// If there is no pair, or another number than in the settings, or these have no DPO.
    pub fn new(
        pairs: &'a [Pair],
        heldout: &'a [Pair],
        reference: BTreeMap<u64, [f32; 2]>,
        settings: &'a Settings,
        device: &Device,
    ) -> Self {
        let objective = settings.dpo.expect("settings of DPO");
        let num_pairs: u64 = settings.data.iter().map(|source| source.num_rows).sum();
        assert_eq!(pairs.len() as u64, num_pairs, "pairs of the settings");
        Self { pairs, heldout, reference, objective, order: settings.order(), settings, device: device.clone() }
    }

    /// Pairs that the run visits or evaluates, of which the log-probabilities under the reference are not known.
    fn needed(&self) -> Vec<u64> {
        let num_pairs = self.pairs.len() as u64;
        let num_visited = self.settings.schedule.num_steps as u64 * self.settings.batch_size as u64;
        let visited: BTreeSet<u64> = if num_visited >= self.order.num_visits() {
            (0..num_pairs).collect()
        } else {
            (0..num_visited).map(|position| self.order.row_at(position)).collect()
        };
        let heldout = num_pairs..num_pairs + self.heldout.len() as u64;
        visited.into_iter().chain(heldout).filter(|index| !self.reference.contains_key(index)).collect()
    }

    /// Whether all log-probabilities under the reference are known.
    pub fn is_complete(&self) -> bool {
        self.needed().is_empty()
    }

    /// Computes those that are not under `reference`, the model at the start of the run. `watch` is called with the number of
    /// pairs done and of all.
    ///
    /// # Errors
    /// [`FinetuneError::ReferenceNotFinite`].
    pub fn precompute(
        &mut self,
        reference: &AnyDecoder,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<(), FinetuneError> {
        let reference = reference.valid();
        let device = self.device.clone().without_autodiff();
        let needed = self.needed();
        for (done, index) in needed.iter().enumerate() {
            let batch = PairBatch::new(&[self.pair(*index).sides()], &device);
            let values: Vec<f32> = batch.log_probabilities(&reference).0.into_data().iter::<f32>().collect();
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                let pair = self.pair(*index).name.clone();
                return Err(FinetuneError::ReferenceNotFinite { pair, value: *value });
            }
            self.reference.insert(*index, [values[0], values[1]]);
            watch(done + 1, needed.len());
        }
        Ok(())
    }

    /// The log-probabilities of the reference, for a checkpoint.
    pub fn reference(&self) -> &BTreeMap<u64, [f32; 2]> {
        &self.reference
    }

    fn pair(&self, index: u64) -> &'a Pair {
        let index = index as usize;
        self.pairs.get(index).unwrap_or_else(|| &self.heldout[index - self.pairs.len()])
    }

    fn indices(&self, step: usize) -> Vec<u64> {
        let batch_size = self.settings.batch_size as u64;
        let first = step as u64 * batch_size;
        (first..first + batch_size).map(|position| self.order.row_at(position)).collect()
    }

    fn batch(&self, indices: &[u64], device: &Device) -> PairBatch {
        let pairs: Vec<[&Example; 2]> = indices.iter().map(|index| self.pair(*index).sides()).collect();
        let of = |side: usize| indices.iter().map(move |index| self.reference[index][side]);
        PairBatch::new(&pairs, device).with_reference(of(0).chain(of(1)).collect())
    }
}

impl Task for Preference<'_> {
    type Objective = Dpo;

    fn objective(&self) -> Dpo {
        self.objective
    }

    fn update(&self, step: usize) -> Result<Update<PairBatch>, FinetuneError> {
        let indices = self.indices(step);
        let size = self.settings.pass_size(&self.device);
        let mut num_tokens = 0;
        let lens = indices.iter().map(|index| {
            let lens = self.pair(*index).sides().map(|side| side.inputs().len());
            num_tokens += (lens[0] + lens[1]) as u64;
            size.num_tokens(&lens)
        });
        let lens: Vec<usize> = lens.collect();
        let batches = size.cut(&lens).into_iter().map(|pairs| {
            let batch = self.batch(&indices[pairs.clone()], &self.device);
            let sides = pairs.clone().map(|pair| 2 * pair).chain(pairs.map(|pair| 2 * pair + 1));
            match self.settings.dropout_streams(step, sides) {
                Some(streams) => batch.with_dropout(&streams),
                None => batch,
            }
        });
        Ok(Update { batches: batches.collect(), num_tokens })
    }

    fn epoch(&self, step: usize) -> f64 {
        self.settings.epoch(step)
    }

    fn report(log: &StepLog<DpoLog>) -> Report {
        let DpoLog { loss, reward_chosen, reward_rejected, accuracy, logp_chosen, logp_rejected, aux_loss, routers } =
            &log.log;
        let mut entries = vec![
            ("loss", *loss),
            ("rewards/chosen", *reward_chosen),
            ("rewards/rejected", *reward_rejected),
            ("rewards/accuracies", *accuracy),
            ("rewards/margins", log.log.margin()),
            ("logps/chosen", *logp_chosen),
            ("logps/rejected", *logp_rejected),
        ];
        entries.extend(aux_loss.map(|aux_loss| ("aux_loss", aux_loss)));
        Report { entries, routers: routers.clone() }
    }

    fn num_heldout(&self) -> usize {
        self.heldout.len()
    }

    fn evaluate(&self, model: &AnyDecoder) -> Result<Option<f64>, FinetuneError> {
        let device = self.device.clone().without_autodiff();
        let first = self.pairs.len() as u64;
        let losses = (first..first + self.heldout.len() as u64).map(|index| {
            let (_, log) = self.objective.loss(model, &self.batch(&[index], &device));
            log.loss
        });
        let sum: f64 = losses.sum();
        Ok((!self.heldout.is_empty()).then(|| sum / self.heldout.len() as f64))
    }

    fn names(&self, step: usize) -> Vec<String> {
        self.indices(step).iter().map(|index| self.pair(*index).name.clone()).collect()
    }

    /// Log-probabilities are sums in float32, so their rounding grows with their size.
    fn initial_loss(&self, log: &DpoLog) -> Option<(f64, f64)> {
        let expected = initial_loss(&self.objective);
        let size = log.logp_chosen.abs() + log.logp_rejected.abs();
        Some((expected, 1e-5 * expected.max(1.0) + 1e-6 * self.objective.beta.max(1.0) * size))
    }
}
