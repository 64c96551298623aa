//! The updates of an adapter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::config::LoraTarget;
use super::{LoraConfig, LoraError};
use crate::config::DecoderConfig;
use crate::weights::{LowRank, Purpose, RandomStream, TensorId};

/// A low-rank update of each matrix that a config targets.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    config: LoraConfig,
    updates: BTreeMap<TensorId, Arc<LowRank>>,
}

impl LoraAdapter {
    /// An adapter that changes nothing yet: `A` uniform on `±1/√in` (`kaiming_uniform_(a=√5)` in PyTorch), `B` zero. Each `A` is a
    /// function of the seed and its matrix.
    ///
    /// # Errors
    /// Those of [`LoraConfig::targets`].
    pub fn initial(config: LoraConfig, decoder: &DecoderConfig, seed: u64) -> Result<Self, LoraError> {
        let update = |LoraTarget { id, rank, scale }| {
            let [rows, columns] = id.shape(decoder)[..] else { unreachable!("linear maps have two axes") };
            let layer = if let TensorId::Layer(layer, _) = id { layer } else { 0 };
            let bound = 1.0 / (columns as f64).sqrt();
            let mut a = vec![0.0; rank * columns];
            let stream = RandomStream { seed, layer, purpose: Purpose::LoraA(id) };
            stream.map_uniform(&mut a, |u| (bound * (2.0 * u - 1.0)) as f32);
            (id, Arc::new(LowRank { a, b: vec![0.0; rows * rank], rank, scale }))
        };
        let updates = config.targets(decoder)?.into_iter().map(update).collect();
        Ok(Self { config, updates })
    }

    /// The given updates, one for each target of the config.
    ///
    /// # Errors
    /// Those of [`LoraConfig::targets`]; [`LoraError::Mismatch`].
    pub fn new(
        config: LoraConfig,
        decoder: &DecoderConfig,
        updates: BTreeMap<TensorId, Arc<LowRank>>,
    ) -> Result<Self, LoraError> {
        let adapter = Self { config, updates };
        adapter.check(decoder)?;
        Ok(adapter)
    }

    /// The hyperparameters.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The update of a matrix; `None` if it is not adapted.
    pub fn get(&self, id: TensorId) -> Option<&Arc<LowRank>> {
        self.updates.get(&id)
    }

    /// Every update, in the order of the forward pass.
    pub fn updates(&self) -> impl Iterator<Item = (TensorId, &Arc<LowRank>)> {
        self.updates.iter().map(|(id, update)| (*id, update))
    }

    /// Number of trained parameters.
    pub fn num_parameters(&self) -> usize {
        self.updates.values().map(|update| update.a.len() + update.b.len()).sum()
    }

    /// Checks that the updates are those that the config asks for in this decoder.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn check(&self, decoder: &DecoderConfig) -> Result<(), LoraError> {
        let targets = self.config.targets(decoder)?;
        let in_words = |rank: usize, [rows, columns]: [usize; 2], scale: f64| {
            format!("rank {rank} of [{rows}, {columns}], scale {scale}")
        };
        let found = |id| {
            let words = |update: &Arc<LowRank>| in_words(update.rank, update.dims(), update.scale);
            self.get(id).map_or_else(|| "no update".to_owned(), words)
        };
        for LoraTarget { id, rank, scale } in &targets {
            let [rows, columns] = id.shape(decoder)[..] else { unreachable!("linear maps have two axes") };
            let (found, expected) = (found(*id), in_words(*rank, [rows, columns], *scale));
            if found != expected {
                return Err(LoraError::Mismatch { id: *id, found, expected });
            }
        }
        let targets: BTreeSet<TensorId> = targets.iter().map(|target| target.id).collect();
        match self.updates.keys().find(|id| !targets.contains(id)) {
            Some(id) => Err(LoraError::Mismatch { id: *id, found: found(*id), expected: "no update".to_owned() }),
            None => Ok(()),
        }
    }
}
