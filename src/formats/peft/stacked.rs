//! Updates of stacked parameters: PEFT's `target_parameters`, for the experts of Mixtral in transformers 5.
//!
//! `mlp.experts.gate_up_proj` stacks the gates above the ups of `E` experts, `mlp.experts.down_proj` their downs. An update of rank
//! `r` has one `lora_A` of `[E·r, in]`, expert after expert, and one `lora_B` of `[out, r·E]`, of which column `j·E + e` is column
//! `j` of expert `e`. Gate and up of an expert share their `A`; they are read as two updates.

use serde_json::Value;

use super::PREFIX;
use super::fault::PeftFault;
use crate::config::DecoderConfig;
use crate::weights::{LayerTensor, Projection, TensorId};

/// The parameters, with the linear maps that they hold, by the ends of their names.
const PARAMETERS: [(&str, &[&str]); 3] =
    [("mlp.experts.gate_up_proj", &["w1", "w3"]), ("mlp.experts.down_proj", &["w2"]), ("mlp.gate.weight", &["gate"])];

const KEY: &str = "target_parameters";
const EXPECTED: &str = "ends of mlp.experts.gate_up_proj, mlp.experts.down_proj or mlp.gate.weight, of all layers";
const EXPECTED_PATTERN: &str = "patterns of stacked parameters in all layers, such as \".*\\.gate_up_proj\"";

/// The parameters that an adapter updates as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stacks {
    has_gate_up: bool,
    has_down: bool,
    has_router: bool,
}

/// Where the update of a matrix lies in that of its parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    /// The tensors `A` and `B`.
    pub names: [String; 2],
    /// Number of matrices, and the place of this one among them.
    pub num_experts: usize,
    pub expert: usize,
    /// Rows of `B`, and the first that belongs to this matrix.
    pub num_rows: usize,
    pub first_row: usize,
}

impl Stacks {
    /// Reads the value of `target_parameters`.
    pub(super) fn parse(names: &[String]) -> Result<Self, PeftFault> {
        let mut stacks = Self::default();
        for name in names {
            let is_end = |parameter: &str| parameter == name || parameter.ends_with(&format!(".{name}"));
            match PARAMETERS.iter().position(|(parameter, _)| is_end(parameter)) {
                Some(0) => stacks.has_gate_up = true,
                Some(1) => stacks.has_down = true,
                Some(_) => stacks.has_router = true,
                None => {
                    return Err(PeftFault::Unsupported { key: KEY, found: Value::from(names), expected: EXPECTED });
                }
            }
        }
        Ok(stacks)
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// The linear maps that are adapted, by the ends of their names.
    pub(super) fn modules(self) -> impl Iterator<Item = &'static str> {
        let adapted = [self.has_gate_up, self.has_down, self.has_router];
        adapted
            .into_iter()
            .zip(PARAMETERS)
            .filter(|(adapted, _)| *adapted)
            .flat_map(|(_, (_, modules))| modules)
            .copied()
    }

    /// The place of the update of a matrix; `None` if it is that of the matrix alone.
    pub(super) fn slice(self, id: TensorId, decoder: &DecoderConfig) -> Option<Slice> {
        let TensorId::Layer(layer, tensor) = id else { return None };
        let num_experts = decoder.moe?.num_local_experts;
        let names = |module: &str| {
            ["lora_A", "lora_B"].map(|factor| format!("{PREFIX}model.layers.{layer}.mlp.{module}.{factor}.weight"))
        };
        // Of two parameters of a module, the first is wrapped first, and is the base layer of the second.
        let gate_up = if self.has_down { "experts.base_layer" } else { "experts" };
        let [rows, intermediate] = [id.shape(decoder)[0], decoder.intermediate_size];
        match tensor {
            LayerTensor::Router if self.has_router => {
                Some(Slice { names: names("gate"), num_experts: 1, expert: 0, num_rows: rows, first_row: 0 })
            }
            LayerTensor::Expert(expert, Projection::Down) if self.has_down => {
                Some(Slice { names: names("experts"), num_experts, expert, num_rows: rows, first_row: 0 })
            }
            LayerTensor::Expert(expert, projection) if projection != Projection::Down && self.has_gate_up => {
                let first_row = if projection == Projection::Gate { 0 } else { intermediate };
                Some(Slice { names: names(gate_up), num_experts, expert, num_rows: 2 * intermediate, first_row })
            }
            _ => None,
        }
    }
}

impl Slice {
    /// The factors of this matrix, `[rank, in]` and `[rows, rank]`, from those of its parameter.
    pub(super) fn cut(&self, a: &[f32], b: &[f32], rank: usize, rows: usize) -> [Vec<f32>; 2] {
        let per_expert = a.len() / self.num_experts;
        let of_row = |row: usize| (0..rank).map(move |j| b[(row * rank + j) * self.num_experts + self.expert]);
        let b = (self.first_row..self.first_row + rows).flat_map(of_row).collect();
        [a[self.expert * per_expert..][..per_expert].to_vec(), b]
    }
}

/// A key of `rank_pattern` or `alpha_pattern` as it reads for single matrices. Keys of other modules stay.
pub(super) fn pattern(key: &'static str, text: &str) -> Result<String, PeftFault> {
    let ends =
        [("gate_up_proj", "experts\\.\\d+\\.w[13]"), ("down_proj", "experts\\.\\d+\\.w2"), ("gate.weight", "gate")];
    let Some((before, modules)) = ends.iter().find_map(|(end, modules)| Some((text.strip_suffix(end)?, modules)))
    else {
        return Ok(text.to_owned());
    };
    // Names may be plain, or escaped as PEFT writes them.
    let before = before.replace("\\.", ".");
    let before = before.strip_prefix(".*.").unwrap_or(&before);
    match ["", "experts.", "mlp.experts.", "mlp."].contains(&before) {
        true => Ok((*modules).to_owned()),
        false => Err(PeftFault::Unsupported { key, found: Value::from(text), expected: EXPECTED_PATTERN }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_named_by_their_ends() {
        let stacks = |names: &[&str]| Stacks::parse(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let all = stacks(&["gate_up_proj", "mlp.experts.down_proj", "gate.weight"]).unwrap();
        assert_eq!(all.modules().collect::<Vec<_>>(), ["w1", "w3", "w2", "gate"]);
        assert!(stacks(&[]).unwrap().is_empty());
        for refused in ["up_proj", "layers.0.mlp.experts.down_proj", "proj"] {
            assert!(stacks(&[refused]).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_matrix_has_its_rows_of_a_and_every_eth_column_of_b() {
        let slice = Slice { names: Default::default(), num_experts: 2, expert: 1, num_rows: 4, first_row: 2 };
        let numbers = |count: u8| (0..count).map(f32::from).collect::<Vec<_>>();
        // A is [2·2, 3], B is [4, 2·2].
        let [a, b] = slice.cut(&numbers(12), &numbers(16), 2, 2);
        assert_eq!(a, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!(b, [9.0, 11.0, 13.0, 15.0]);
    }

    #[test]
    fn patterns_of_parameters_are_those_of_their_matrices() {
        let of = |text| pattern("rank_pattern", text);
        assert_eq!(of(".*\\.gate_up_proj").unwrap(), "experts\\.\\d+\\.w[13]");
        assert_eq!(of("experts.down_proj").unwrap(), "experts\\.\\d+\\.w2");
        assert_eq!(of("q_proj").unwrap(), "q_proj");
        assert!(of("layers.0.mlp.experts.down_proj").is_err());
    }
}
