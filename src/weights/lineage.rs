//! Where a weight came from, as a record: kinds in `snake_case`, numbers as numbers.

use std::fmt;

use serde::Serialize;

use crate::weights::{Dtype, TensorId};

/// Where a weight came from: the weight of the root checkpoint it started as, and what was done to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lineage {
    /// The weight of the root checkpoint; `None` for a weight that growth drew afresh.
    pub root: Option<TensorId>,
    /// What each growth did, oldest first.
    pub steps: Vec<Change>,
}

/// What one growth did to a weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// It was taken from a layer of the source.
    Layer {
        /// The layer.
        layer: usize,
        /// Layers of the source.
        num_layers: usize,
    },
    /// It was taken from one of several models.
    Model {
        /// The model, as it was named.
        model: String,
    },
    /// It was taken from a layer of one of several models.
    ModelLayer {
        /// The layer.
        layer: usize,
        /// The model, as it was named.
        model: String,
    },
    /// It became an expert, taken from one of several models.
    ModelExpert {
        /// The expert.
        expert: usize,
        /// The model, as it was named.
        model: String,
    },
    /// Nothing: its bytes are the source's.
    Copy,
    /// It was multiplied.
    Scale {
        /// By this.
        factor: f64,
    },
    /// It is zeros.
    Zeros,
    /// Noise was added, measured by its own standard deviation.
    RelativeNoise {
        /// Size of the noise beside the weight.
        relative_std: f64,
    },
    /// Noise was added.
    Noise {
        /// Standard deviation of the noise.
        std: f64,
    },
    /// Intermediate dimensions were drawn anew.
    Drop {
        /// How many.
        num_dimensions: usize,
    },
    /// It is a router.
    Router {
        /// How it starts: `normal`, `uniform`, `zero`, `orthogonal`, or `given`.
        init: &'static str,
        /// Standard deviation of a normal one.
        #[serde(skip_serializing_if = "Option::is_none")]
        std: Option<f64>,
    },
    /// It is a part of an expert.
    Part {
        /// Which one.
        part: usize,
        /// Into how many the expert was cut.
        num_parts: usize,
    },
    /// It was rounded.
    Cast {
        /// To this type.
        dtype: Dtype,
    },
}

/// `layer 3 of 8`, `expert 2 of teknium/OpenHermes`, `noise 0.01`, `router normal(0.02)`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Layer { layer, num_layers } => write!(f, "layer {layer} of {num_layers}"),
            Self::Model { model } => write!(f, "of {model}"),
            Self::ModelLayer { layer, model } => write!(f, "layer {layer} of {model}"),
            Self::ModelExpert { expert, model } => write!(f, "expert {expert} of {model}"),
            Self::Copy => f.write_str("copy"),
            Self::Scale { factor } => write!(f, "scale {factor}"),
            Self::Zeros => f.write_str("zeros"),
            Self::RelativeNoise { relative_std } => write!(f, "noise {relative_std}"),
            Self::Noise { std } => write!(f, "noise std {std}"),
            Self::Drop { num_dimensions } => write!(f, "drop {num_dimensions} dimensions"),
            Self::Router { init, std: Some(std) } => write!(f, "router {init}({std})"),
            Self::Router { init, std: None } => write!(f, "router {init}"),
            Self::Part { part, num_parts } => write!(f, "part {part} of {num_parts}"),
            Self::Cast { dtype } => write!(f, "cast {dtype}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::weights::{LayerTensor, Projection};

    #[test]
    fn a_record_has_kinds_and_numbers_and_no_prose() {
        let changes = [
            (Change::Layer { layer: 3, num_layers: 8 }, json!({"kind": "layer", "layer": 3, "num_layers": 8})),
            (
                Change::ModelLayer { layer: 3, model: "a".to_owned() },
                json!({"kind": "model_layer", "layer": 3, "model": "a"}),
            ),
            (Change::RelativeNoise { relative_std: 0.1 }, json!({"kind": "relative_noise", "relative_std": 0.1})),
            (
                Change::Router { init: "normal", std: Some(0.02) },
                json!({"kind": "router", "init": "normal", "std": 0.02}),
            ),
            (Change::Router { init: "zero", std: None }, json!({"kind": "router", "init": "zero"})),
            (Change::Cast { dtype: Dtype::Bfloat16 }, json!({"kind": "cast", "dtype": "bfloat16"})),
        ];
        for (change, expected) in changes {
            assert_eq!(json!(change), expected);
        }
        let root = Some(TensorId::Layer(4, LayerTensor::Mlp(Projection::Up)));
        let lineage = Lineage { root, steps: vec![Change::Copy] };
        assert_eq!(json!(lineage), json!({"root": "model.layers.4.mlp.up_proj.weight", "steps": [{"kind": "copy"}]}));
        assert_eq!(json!(Lineage { root: None, steps: vec![] }), json!({"root": null, "steps": []}));
    }
}
