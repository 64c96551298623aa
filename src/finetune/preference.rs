//! Preference learning by DPO.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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

    /// Passes with a pair whose log-probabilities under the reference are not known: those of evaluations and updates, so
    /// that a run that is lengthened computes what a longer run computes.
    fn missing(&self) -> Vec<Vec<u64>> {
        let num_pairs = (self.pairs.len() + self.heldout.len()) as u64;
        let mut unknown: BTreeSet<u64> = (0..num_pairs).filter(|index| !self.reference.contains_key(index)).collect();
        let mut missing = Vec::new();
        let updates = (0..self.settings.schedule.num_steps).map(|step| self.indices(step));
        for indices in [self.heldout_indices()].into_iter().chain(updates) {
            if unknown.is_empty() {
                break;
            }
            for pass in self.passes(&indices) {
                let pass = &indices[pass];
                if pass.iter().filter(|index| unknown.remove(index)).count() > 0 {
                    missing.push(pass.to_vec());
                }
            }
        }
        missing
    }

    /// Whether all log-probabilities under the reference are known.
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// Computes those that are not under `reference`, the model at the start of the run, as updates compute those of the
    /// policy: in the same passes, and on the device of the run, where no activation is rounded for a product with a
    /// quantized weight. `watch` is called with the number of pairs done, at first 0, and of all.
    ///
    /// # Errors
    /// [`FinetuneError::ReferenceNotFinite`].
    pub fn precompute(
        &mut self,
        reference: &AnyDecoder,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<(), FinetuneError> {
        let reference = reference.clone().no_grad();
        let missing = self.missing();
        let (mut num_done, num_missing) = (0, missing.iter().map(Vec::len).sum());
        watch(num_done, num_missing);
        for indices in missing {
            let batch = PairBatch::new(&self.sides(&indices), &self.device);
            let values: Vec<f32> = batch.log_probabilities(&reference).0.into_data().iter::<f32>().collect();
            for ((index, chosen), rejected) in indices.iter().zip(&values).zip(&values[indices.len()..]) {
                if let Some(value) = [*chosen, *rejected].into_iter().find(|value| !value.is_finite()) {
                    return Err(FinetuneError::ReferenceNotFinite { pair: self.pair(*index).name.clone(), value });
                }
                self.reference.entry(*index).or_insert([*chosen, *rejected]);
            }
            num_done += indices.len();
            watch(num_done, num_missing);
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

    fn heldout_indices(&self) -> Vec<u64> {
        let first = self.pairs.len() as u64;
        (first..first + self.heldout.len() as u64).collect()
    }

    fn sides(&self, indices: &[u64]) -> Vec<[&'a Example; 2]> {
        indices.iter().map(|index| self.pair(*index).sides()).collect()
    }

    /// The passes of these pairs.
    fn passes(&self, indices: &[u64]) -> Vec<Range<usize>> {
        let size = self.settings.pass_size(&self.device);
        let num_tokens = |sides: [&Example; 2]| size.num_tokens(&sides.map(|side| side.inputs().len()));
        size.cut(&self.sides(indices).into_iter().map(num_tokens).collect::<Vec<usize>>())
    }

    fn batch(&self, indices: &[u64]) -> PairBatch {
        let of = |side: usize| indices.iter().map(move |index| self.reference[index][side]);
        PairBatch::new(&self.sides(indices), &self.device).with_reference(of(0).chain(of(1)).collect())
    }
}

impl Task for Preference<'_> {
    type Objective = Dpo;

    fn objective(&self) -> Dpo {
        self.objective
    }

    fn update(&self, step: usize) -> Result<Update<PairBatch>, FinetuneError> {
        let indices = self.indices(step);
        let num_tokens = self.sides(&indices).iter().flatten().map(|side| side.inputs().len() as u64).sum();
        let batches = self.passes(&indices).into_iter().map(|pairs| {
            let batch = self.batch(&indices[pairs.clone()]);
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
        let heldout = self.heldout_indices();
        let losses = self.passes(&heldout).into_iter().map(|pass| {
            let (_, log) = self.objective.loss(model, &self.batch(&heldout[pass.clone()]));
            log.loss * pass.len() as f64
        });
        let sum: f64 = losses.sum();
        Ok((!heldout.is_empty()).then(|| sum / heldout.len() as f64))
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
