//! The hyperparameters of an adapter.

use std::collections::BTreeSet;

use super::LoraError;
use super::modules::{Modules, Pattern, linear_names, module_name};
use crate::config::DecoderConfig;
use crate::error::quoted;
use crate::weights::{LayerTensor, Projection, TensorId};

/// Which matrices are adapted, and how. Fields have the names and meaning of PEFT's `LoraConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the updates.
    pub r: usize,
    /// The scale of an update is `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Whether the scale is `lora_alpha / √r` instead (Kalajdzievski, 2023, arXiv:2312.03732).
    pub use_rslora: bool,
    /// Probability with which training drops an element of the input of an update (Hu et al., 2021, §D). Not of the head.
    pub lora_dropout: f64,
    /// The matrices to adapt.
    pub target_modules: Modules,
    /// Matrices to leave out.
    pub exclude_modules: Option<Modules>,
    /// Layers to adapt; all if `None`. Without effect if the targets are a pattern.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Ranks of matrices whose name ends in a match of a pattern, instead of [`r`](Self::r). The first match counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// The same for [`lora_alpha`](Self::lora_alpha).
    pub alpha_pattern: Vec<(String, f64)>,
}

/// A matrix to adapt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraTarget {
    /// The matrix.
    pub id: TensorId,
    /// Rank of its update.
    pub rank: usize,
    /// Scale of its update.
    pub scale: f64,
}

impl Default for LoraConfig {
    /// PEFT's: rank 8, alpha 8; of all linear maps of the layers.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            lora_dropout: 0.0,
            target_modules: Modules::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }
}

impl LoraConfig {
    /// The matrices of a decoder that are adapted, in the order of the forward pass.
    ///
    /// # Errors
    /// [`LoraError`], if a number or pattern is not valid, no matrix is a target, or the decoder has no such update.
    pub fn targets(&self, decoder: &DecoderConfig) -> Result<Vec<LoraTarget>, LoraError> {
        let patterns = Patterns::new(self)?;
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(LoraError::Dropout { found: self.lora_dropout });
        }
        let target = |(id, name): (TensorId, String)| {
            let rank = patterns.ranks.iter().find(|(pattern, _)| pattern.matches(&name)).map_or(self.r, |(_, r)| *r);
            let alpha = patterns.alphas.iter().find(|(pattern, _)| pattern.matches(&name));
            let alpha = alpha.map_or(self.lora_alpha, |(_, alpha)| *alpha);
            let scale = if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 };
            match id.shape(decoder).into_iter().max() {
                Some(limit) if rank > limit => Err(LoraError::RankTooLarge { id, found: rank, limit }),
                _ => Ok(LoraTarget { id, rank, scale }),
            }
        };
        let targets: Vec<LoraTarget> = TensorId::in_order(decoder)
            .filter_map(|id| module_name(id).map(|name| (id, name)))
            .filter(|(id, name)| self.adapts(*id, name))
            .map(target)
            .collect::<Result<_, _>>()?;
        if targets.is_empty() {
            let targets = self.target_modules.to_string();
            return Err(LoraError::NoTarget { targets, modules: linear_names(decoder) });
        }
        Ok(targets)
    }

    /// Numbers that all layers keep for each token in training because of the adapter: `rank` of each adapted matrix, its product with
    /// `A`; under dropout also an input for each, where without it the matrices of one input share it, and a mask of its size, if
    /// `keeps_masks`, as the reference of dropout does.
    ///
    /// # Errors
    /// As [`targets`](Self::targets).
    pub fn activation_numbers(&self, decoder: &DecoderConfig, keeps_masks: bool) -> Result<u64, LoraError> {
        let (mut of_token, mut of_visit, mut inputs) = (0, 0, BTreeSet::new());
        for LoraTarget { id, rank, .. } in self.targets(decoder)? {
            let TensorId::Layer(layer, tensor) = id else { continue };
            // The expert, and which input it is, of the matrices that share theirs.
            let (expert, shared) = match tensor {
                LayerTensor::QProj | LayerTensor::KProj | LayerTensor::VProj => (None, Some("attention")),
                LayerTensor::Mlp(Projection::Gate | Projection::Up) => (None, Some("mlp")),
                LayerTensor::Expert(expert, Projection::Gate | Projection::Up) => (Some(expert), Some("mlp")),
                LayerTensor::Expert(expert, Projection::Down) => (Some(expert), None),
                _ => (None, None),
            };
            let is_another = shared.is_some_and(|input| !inputs.insert((layer, expert, input)));
            let width = id.shape(decoder)[1];
            let num_copies =
                if self.lora_dropout > 0.0 { usize::from(is_another) + usize::from(keeps_masks) } else { 0 };
            *(if expert.is_some() { &mut of_visit } else { &mut of_token }) += (rank + num_copies * width) as u64;
        }
        let [visited, all] = decoder.moe.map_or([1, 1], |moe| [moe.num_experts_per_tok, moe.num_local_experts]);
        Ok(of_token + of_visit * visited as u64 / all as u64)
    }

    /// Checks that each name among the targets is that of a linear map: PEFT passes over a name with a typing error.
    ///
    /// # Errors
    /// [`LoraError::NoTarget`] with the name.
    pub fn check_names(&self, decoder: &DecoderConfig) -> Result<(), LoraError> {
        match self.target_modules.unknown(decoder) {
            None => Ok(()),
            Some(name) => Err(LoraError::NoTarget { targets: quoted(name), modules: linear_names(decoder) }),
        }
    }

    fn adapts(&self, id: TensorId, name: &str) -> bool {
        if self.exclude_modules.as_ref().is_some_and(|excluded| excluded.contain(id, name)) {
            return false;
        }
        // As in PEFT: a whole name, and a pattern, hold in every layer.
        let holds_in_any = match &self.target_modules {
            Modules::Named(names) => names.iter().any(|whole| whole == name),
            Modules::Matching(_) => true,
            Modules::AllLinear => false,
        };
        let in_layer = |layers: &Vec<usize>| matches!(id, TensorId::Layer(layer, _) if layers.contains(&layer));
        let layers = self.layers_to_transform.as_ref().filter(|layers| !layers.is_empty());
        self.target_modules.contain(id, name) && (holds_in_any || layers.is_none_or(in_layer))
    }
}

/// The compiled patterns of a config.
struct Patterns {
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
}

impl Patterns {
    fn new(config: &LoraConfig) -> Result<Self, LoraError> {
        let ends_in = ["^(?:.*\\.)?(?:", ")$"];
        let ranks = config.rank_pattern.iter().map(|(text, rank)| match rank {
            0 => Err(LoraError::Rank { pattern: Some(text.clone()) }),
            rank => Ok((Pattern::new("rank_pattern", text, ends_in)?, *rank)),
        });
        let alphas = config
            .alpha_pattern
            .iter()
            .map(|(text, alpha)| Ok((Pattern::new("alpha_pattern", text, ends_in)?, finite(*alpha)?)));
        if config.r == 0 {
            return Err(LoraError::Rank { pattern: None });
        }
        finite(config.lora_alpha)?;
        Ok(Self { ranks: ranks.collect::<Result<_, _>>()?, alphas: alphas.collect::<Result<_, LoraError>>()? })
    }
}

fn finite(alpha: f64) -> Result<f64, LoraError> {
    if alpha.is_finite() { Ok(alpha) } else { Err(LoraError::Alpha { found: alpha }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MoeConfig;
    use crate::lora::LoraAdapter;

    #[test]
    fn an_adapter_keeps_its_inner_products_and_under_dropout_an_input_for_each_matrix() {
        let dense = DecoderConfig::pico();
        let moe = MoeConfig { num_local_experts: 8, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
        let sparse = dense.with_experts(moe).unwrap();
        let [layers, hidden] = [dense.num_hidden_layers, dense.hidden_size].map(|size| size as u64);
        let named = |names: &[&str]| Modules::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let of_layer = |target_modules, lora_dropout, decoder: &DecoderConfig| {
            let config = LoraConfig { r: 5, target_modules, lora_dropout, ..LoraConfig::default() };
            config.activation_numbers(decoder, false).unwrap() / layers
        };
        assert_eq!(of_layer(Modules::AllLinear, 0.0, &dense), 7 * 5);
        // Keys and values beside queries, and up beside gate.
        assert_eq!(of_layer(Modules::AllLinear, 0.05, &dense), 7 * 5 + 3 * hidden);
        // Attention and router, and three matrices of the two experts that a token visits.
        assert_eq!(of_layer(Modules::AllLinear, 0.0, &sparse), 5 * 5 + 2 * 3 * 5);
        assert_eq!(of_layer(Modules::AllLinear, 0.05, &sparse), 5 * 5 + 2 * 3 * 5 + (2 + 2) * hidden);
        assert_eq!(of_layer(named(&["q_proj", "v_proj"]), 0.05, &dense), 2 * 5 + hidden);
        assert_eq!(of_layer(named(&["q_proj", "o_proj", "up_proj", "down_proj"]), 0.05, &dense), 4 * 5);
    }

    #[test]
    fn masks_have_the_sizes_of_the_inputs_of_the_updates() {
        let dense = DecoderConfig::pico();
        // A token visits each expert.
        let moe = MoeConfig { num_local_experts: 3, num_experts_per_tok: 3, router_aux_loss_coef: 0.0 };
        for decoder in [dense.with_experts(moe).unwrap(), dense] {
            for (lora_dropout, num_masks) in [(0.0, 0), (0.05, 1)] {
                let config = LoraConfig { r: 5, lora_dropout, ..LoraConfig::default() };
                let [without, with] = [false, true].map(|masks| config.activation_numbers(&decoder, masks).unwrap());
                let adapter = LoraAdapter::initial(config, &decoder, 1).unwrap();
                let widths: usize = adapter.updates().map(|(_, update)| update.dims()[1]).sum();
                assert_eq!(with - without, num_masks * widths as u64);
            }
        }
    }
}
