//! Language modeling: continued pretraining and supervised fine-tuning, which differ in their rows only.

use burn::module::Module;
use burn::tensor::Device;

use super::rows::{Row, Rows};
use super::task::{Report, Task, Update};
use super::{FinetuneError, Settings};
use crate::data::Mixture;
use crate::model::loss::mean;
use crate::model::{AnyDecoder, CausalLm, Upstream};
use crate::train::{NextToken, NextTokenBatch, NextTokenLog, StepLog, Targets};

/// Next-token prediction on rows.
pub struct LanguageModeling<'a> {
    rows: &'a dyn Rows,
    heldout: Vec<Row>,
    order: Mixture,
    settings: &'a Settings,
    device: Device,
}

impl<'a> LanguageModeling<'a> {
    /// Trains on `rows`, and evaluates on `heldout`.
    ///
    /// # Panics
    /// If there is no row, or another number than in the settings.
    pub fn new(rows: &'a dyn Rows, heldout: Vec<Row>, settings: &'a Settings, device: &Device) -> Self {
        let num_rows: u64 = settings.data.iter().map(|source| source.num_rows).sum();
        assert_eq!(rows.len(), num_rows, "rows of the settings");
        Self { rows, heldout, order: settings.order(), settings, device: device.clone() }
    }

    /// The rows of each pass.
    fn passes<'r>(&self, rows: &'r [Row]) -> impl Iterator<Item = &'r [Row]> + use<'r> {
        let lens: Vec<usize> =
            rows.iter().map(|row| row.iter().map(|document| document.inputs().len()).sum()).collect();
        self.settings.pass_size(&self.device).cut(&lens).into_iter().map(|pass| &rows[pass])
    }

    fn indices(&self, step: usize) -> impl Iterator<Item = u64> + use<'_> {
        let batch_size = self.settings.batch_size as u64;
        let first = step as u64 * batch_size;
        (first..first + batch_size).map(|position| self.order.row_at(position))
    }
}

impl Task for LanguageModeling<'_> {
    type Objective = NextToken;

    fn objective(&self) -> NextToken {
        NextToken { router: self.settings.router }
    }

    fn update(&self, step: usize) -> Result<Update<NextTokenBatch>, FinetuneError> {
        let rows = self.indices(step).map(|index| self.rows.row(index)).collect::<Result<Vec<Row>, _>>()?;
        let num_tokens = rows.iter().flatten().map(|text| text.inputs().len() as u64).sum();
        let mut num_documents = 0;
        let batch = |rows: &[Row]| {
            let (mut inputs, targets) = Targets::without_padding(rows, &self.device);
            let documents = num_documents..num_documents + rows.iter().map(Vec::len).sum::<usize>();
            num_documents = documents.end;
            if let Some(streams) = self.settings.dropout_streams(step, documents) {
                inputs = inputs.with_dropout(&streams);
            }
            NextTokenBatch { inputs, targets }
        };
        let batches = self.passes(&rows).map(batch);
        Ok(Update { batches: batches.filter(|batch| !batch.targets.is_empty()).collect(), num_tokens })
    }

    fn epoch(&self, step: usize) -> f64 {
        self.settings.epoch(step)
    }

    fn report(log: &StepLog<NextTokenLog>) -> Report {
        let mut entries = vec![("loss", log.log.loss_nats)];
        entries.extend(log.log.aux_loss.map(|aux_loss| ("aux_loss", aux_loss)));
        Report { entries, routers: log.log.routers.clone() }
    }

    fn num_heldout(&self) -> usize {
        self.heldout.len()
    }

    fn evaluate(&self, model: &AnyDecoder) -> Result<Option<f64>, FinetuneError> {
        let (model, device) = (model.valid(), self.device.clone().without_autodiff());
        let (mut sum, mut num_targets) = (0.0, 0usize);
        for rows in self.passes(&self.heldout) {
            let (inputs, targets) = Targets::without_padding(rows, &device);
            if targets.is_empty() {
                continue;
            }
            let hidden = model.hidden_states(inputs, None).last;
            let loss = f64::from(mean(targets.losses(&model, hidden, Upstream::Equal)).into_scalar::<f32>());
            sum += loss * targets.len() as f64;
            num_targets += targets.len();
        }
        Ok((num_targets > 0).then(|| sum / num_targets as f64))
    }

    fn names(&self, step: usize) -> Vec<String> {
        self.indices(step).map(|index| self.rows.name(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{DecoderConfig, MoeConfig};
    use crate::data::Example;
    use crate::lora::{LoraAdapter, LoraConfig};
    use crate::model::TokenBatch;
    use crate::weights::{LowRank, MemoryWeights};

    fn losses(rows: &[Row], batch: impl Fn(&[Row], &Device) -> (TokenBatch, Targets)) -> (usize, Vec<f32>) {
        let device = Device::flex();
        let config = DecoderConfig::pico().with(|f| (f.vocab_size, f.num_hidden_layers) = (30, 2)).expect("a Llama");
        let model = AnyDecoder::load(&MemoryWeights::untrained(config, 0.05, 1), &device).expect("a model");
        let (inputs, targets) = batch(rows, &device);
        let num_inputs = inputs.ids.dims().iter().product();
        let hidden = model.hidden_states(inputs, None).last;
        (num_inputs, targets.losses(&model, hidden, Upstream::Equal).into_data().try_into_vec().expect("floats"))
    }

    #[test]
    fn rows_of_different_lengths_lose_their_padding_and_keep_their_losses() {
        let row = |len: u32| vec![Example::trained_whole((0..len).map(|at| (at * 7 + len) % 30).collect())];
        let rows = [row(5), row(12), row(3)];
        let (num_inputs, packed) = losses(&rows, Targets::without_padding);
        let (num_padded, padded) = losses(&rows, Targets::packed);
        assert_eq!((num_inputs, num_padded), (4 + 11 + 2, 3 * 11));
        assert_eq!(packed.len(), padded.len());
        assert!(packed.iter().zip(&padded).all(|(a, b)| (a - b).abs() < 1e-5), "{packed:?} {padded:?}");
    }

    #[test]
    fn masks_of_dropout_do_not_depend_on_how_rows_are_batched() {
        let device = Device::flex();
        let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
        let mixture = DecoderConfig::pico().with_experts(moe).expect("a mixture");
        for config in [DecoderConfig::pico(), mixture] {
            let config = config.with(|f| (f.vocab_size, f.num_hidden_layers) = (30, 2)).expect("a decoder");
            let lora = LoraConfig { lora_dropout: 0.5, ..LoraConfig::default() };
            let initial = LoraAdapter::initial(lora.clone(), &config, 1).expect("an adapter");
            // B is zero at the start.
            let updates = initial.updates().map(|(id, update)| {
                let b = (0..update.b.len()).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
                (id, Arc::new(LowRank { b, ..(**update).clone() }))
            });
            let adapter = LoraAdapter::new(lora, &config, updates.collect()).expect("an adapter");
            let model = AnyDecoder::load(&MemoryWeights::untrained(config, 0.05, 1), &device).expect("a model");
            let model = model.with_adapter(&adapter).expect("an adapted model");
            let losses = |(inputs, targets): (TokenBatch, Targets), streams: &[u64]| -> Vec<f32> {
                let inputs = if streams.is_empty() { inputs } else { inputs.with_dropout(streams) };
                let hidden = model.hidden_states(inputs, None).last;
                targets.losses(&model, hidden, Upstream::Equal).into_data().try_into_vec().expect("floats")
            };
            let row = |len: u32| vec![Example::trained_whole((0..len).map(|at| (at * 7 + len) % 30).collect())];
            let rows = [row(5), row(12), row(3)];
            let streams = [11, 12, 13];
            let packed = losses(Targets::without_padding(&rows, &device), &streams);
            let padded = losses(Targets::packed(&rows, &device), &streams);
            let alone = rows.iter().zip(streams);
            let alone: Vec<f32> =
                alone.flat_map(|(row, stream)| losses(Targets::packed(&[row], &device), &[stream])).collect();
            let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off(&packed, &padded) < 1e-4 && off(&packed, &alone) < 1e-4, "{packed:?} {padded:?} {alone:?}");
            // Other streams have other masks, and without any nothing is dropped.
            let other = losses(Targets::packed(&rows, &device), &[12, 11, 13]);
            let whole = losses(Targets::packed(&rows, &device), &[]);
            assert!(off(&packed, &other) > 1e-3 && off(&packed, &whole) > 1e-3);
        }
    }

    #[test]
    fn rows_of_one_length_stay_rows() {
        let rows: Vec<Row> = (0..3).map(|_| vec![Example::trained_whole(vec![1, 2, 3])]).collect();
        let (inputs, _) = Targets::without_padding(&rows, &Device::flex());
        assert_eq!(inputs.ids.dims(), [3, 2]);
    }
}
