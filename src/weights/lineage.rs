//! How a weight is made: the recipe that growth plans, executes and records.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::random_stream::RandomStream;
use super::{Dtype, LowRank, Projection, TensorId};

/// How a weight is made: a weight of a source, and the steps applied to it in order.
///
/// [`WeightSource::lineage`](super::WeightSource::lineage) returns the recipe from the root checkpoint. Weights with equal
/// recipes are equal to the byte. In JSON, steps are kinds in `snake_case` and numbers; what only the computation needs
/// (random streams, shapes, types) is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// The weight it starts as; `None` if the first step creates it. Serialized as `root`, under its Hugging Face name.
    #[serde(rename = "root")]
    pub source: Option<TensorId>,
    /// Index of the source that has this weight, where several models are merged.
    #[serde(skip)]
    pub model: usize,
    /// The steps, first to last.
    pub steps: Vec<Step>,
}

/// One step of a [`Recipe`]. Steps compute in `f64` unless stated otherwise, and round to the type of the weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Taken from a layer of the source; the bytes stay.
    Layer {
        /// Index of the layer.
        layer: usize,
        /// Layers of the source.
        num_layers: usize,
    },
    /// Taken from one of several models; the bytes stay.
    Model {
        /// The model as the config names it.
        model: String,
    },
    /// Taken from a layer of one of several models; the bytes stay.
    ModelLayer {
        /// Index of the layer.
        layer: usize,
        /// The model as the config names it.
        model: String,
    },
    /// Made an expert, from one of several models; the bytes stay.
    ModelExpert {
        /// Index of the expert.
        expert: usize,
        /// The model as the config names it.
        model: String,
    },
    /// Made an expert; the bytes stay.
    Copy,
    /// `factor · w` as PyTorch computes it: `factor` and product in single precision.
    Scale {
        /// The factor.
        factor: f64,
    },
    /// Created: zeros.
    Zeros {
        /// Shape of the weight.
        #[serde(skip)]
        shape: Vec<usize>,
        /// Gives the type.
        #[serde(skip)]
        like: Like,
    },
    /// `w + relative_std · std(w) · N(0, 1)`, where `std(w)` is the population standard deviation of all entries.
    RelativeNoise {
        /// Standard deviation of the noise as a fraction of that of the weight.
        relative_std: f64,
        /// Source of the normal numbers.
        #[serde(skip)]
        values: RandomStream,
    },
    /// `w + std · N(0, 1)`.
    Noise {
        /// Standard deviation of the noise.
        std: f64,
        /// Source of the normal numbers.
        #[serde(skip)]
        values: RandomStream,
    },
    /// Intermediate dimensions of a matrix of an MLP are re-drawn from `N(mean, std)` of the entries they replace.
    Drop {
        /// Number of dimensions.
        num_dimensions: usize,
        /// Which matrix it is: dimensions are rows of gate and up, columns of down.
        #[serde(skip)]
        projection: Projection,
        /// Chooses the dimensions.
        #[serde(skip)]
        dimensions: RandomStream,
        /// Source of the normal numbers.
        #[serde(skip)]
        values: RandomStream,
    },
    /// Created: a router.
    Router {
        /// Distribution of its entries.
        #[serde(flatten, serialize_with = "as_record")]
        init: RouterInit,
        /// `[num_local_experts, hidden_size]`.
        #[serde(skip)]
        shape: [usize; 2],
        /// Gives the type.
        #[serde(skip)]
        like: Like,
        /// Source of the random numbers.
        #[serde(skip)]
        values: RandomStream,
    },
    /// Created: a router with given entries.
    #[serde(rename = "router")]
    GivenRouter {
        /// The entries, row-major.
        #[serde(rename = "init", serialize_with = "as_given")]
        rows: Arc<[f32]>,
        /// `[num_local_experts, hidden_size]`.
        #[serde(skip)]
        shape: [usize; 2],
        /// Gives the type.
        #[serde(skip)]
        like: Like,
    },
    /// One of the equal parts into which the intermediate dimensions of an expert are divided; down is multiplied by
    /// `num_parts`, in single precision.
    Part {
        /// Index of the part.
        part: usize,
        /// Number of parts.
        num_parts: usize,
        /// Which matrix it is.
        #[serde(skip)]
        projection: Projection,
    },
    /// Every row of a router is repeated, for the parts of its expert.
    RepeatRows {
        /// How often each row occurs.
        times: usize,
    },
    /// `w + scale · B·A` in single precision, the update of an adapter.
    LowRank {
        /// Rank of the update.
        rank: usize,
        /// Factor of the product.
        scale: f64,
        /// The update.
        #[serde(skip)]
        update: Arc<LowRank>,
    },
    /// Rounded to a type, to nearest, ties to even.
    Cast {
        /// The type.
        dtype: Dtype,
    },
}

/// The weight whose type a created weight takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Like {
    /// The weight, in the source at the root.
    pub id: TensorId,
    /// Its type, after earlier steps.
    pub dtype: Dtype,
}

/// Initial entries of a router, `[num_local_experts, hidden_size]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RouterInit {
    /// `N(0, std)`.
    Normal {
        /// Standard deviation; 0.02 by default.
        std: f64,
    },
    /// Uniform on `±1/√hidden_size`, like a new `torch.nn.Linear`.
    Uniform,
    /// Zeros: all scores tie, and the order of the experts decides until training breaks the tie.
    Zero,
    /// Orthogonal rows of length `0.02 · √hidden_size`, the root mean square length of a row of `Normal { std: 0.02 }`.
    Orthogonal,
}

impl Recipe {
    /// The weight `id` of a source, unchanged.
    pub fn of(id: TensorId) -> Self {
        Self { source: Some(id), model: 0, steps: Vec::new() }
    }

    /// A weight that `step` creates.
    pub fn created_by(step: Step) -> Self {
        Self { source: None, model: 0, steps: vec![step] }
    }

    /// The recipe with one more step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The weight of the source whose bytes this one has; `None` if some step computes.
    pub fn copied(&self) -> Option<TensorId> {
        self.source.filter(|_| self.steps.iter().all(Step::keeps_bytes))
    }
}

impl Step {
    /// Whether the step only says where the weight comes from.
    pub fn keeps_bytes(&self) -> bool {
        matches!(
            self,
            Self::Layer { .. } | Self::Model { .. } | Self::ModelLayer { .. } | Self::ModelExpert { .. } | Self::Copy
        )
    }

    /// The type of the result, given the type of the weight before.
    pub fn dtype(&self, before: Dtype) -> Dtype {
        match *self {
            Self::Cast { dtype } => dtype,
            Self::Zeros { like, .. } | Self::Router { like, .. } | Self::GivenRouter { like, .. } => like.dtype,
            _ => before,
        }
    }

    /// The shape of the result, given the shape of the weight before.
    pub fn shape(&self, mut before: Vec<usize>) -> Vec<usize> {
        match self {
            Self::Zeros { shape, .. } => shape.clone(),
            Self::Router { shape, .. } | Self::GivenRouter { shape, .. } => shape.to_vec(),
            Self::Part { num_parts, projection, .. } => {
                before[usize::from(*projection == Projection::Down)] /= num_parts;
                before
            }
            Self::RepeatRows { times } => {
                before[0] *= times;
                before
            }
            _ => before,
        }
    }
}

impl RouterInit {
    /// Standard deviation of a new linear layer in the published models.
    pub const STD: f64 = 0.02;

    /// The name without numbers.
    fn name(self) -> &'static str {
        match self {
            Self::Normal { .. } => "normal",
            Self::Uniform => "uniform",
            Self::Zero => "zero",
            Self::Orthogonal => "orthogonal",
        }
    }
}

/// `Normal { std: 0.02 }`.
impl Default for RouterInit {
    fn default() -> Self {
        Self::Normal { std: Self::STD }
    }
}

/// `normal(0.02)`, `uniform`, `zero`, `orthogonal`.
impl fmt::Display for RouterInit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Normal { std } => write!(f, "normal({std})"),
            _ => f.write_str(self.name()),
        }
    }
}

/// `layer 3 of 8`, `expert 2 of teknium/OpenHermes`, `noise 0.01`, `router normal(0.02)`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Layer { layer, num_layers } => write!(f, "layer {layer} of {num_layers}"),
            Self::Model { model } => write!(f, "of {model}"),
            Self::ModelLayer { layer, model } => write!(f, "layer {layer} of {model}"),
            Self::ModelExpert { expert, model } => write!(f, "expert {expert} of {model}"),
            Self::Copy => f.write_str("copy"),
            Self::Scale { factor } => write!(f, "scale {factor}"),
            Self::Zeros { .. } => f.write_str("zeros"),
            Self::RelativeNoise { relative_std, .. } => write!(f, "noise {relative_std}"),
            Self::Noise { std, .. } => write!(f, "noise std {std}"),
            Self::Drop { num_dimensions, .. } => write!(f, "drop {num_dimensions} dimensions"),
            Self::Router { init, .. } => write!(f, "router {init}"),
            Self::GivenRouter { .. } => f.write_str("router given"),
            Self::Part { part, num_parts, .. } => write!(f, "part {part} of {num_parts}"),
            Self::RepeatRows { times } => write!(f, "rows {times} times"),
            Self::LowRank { rank, .. } => write!(f, "update of rank {rank}"),
            Self::Cast { dtype } => write!(f, "cast {dtype}"),
        }
    }
}

/// The name of the source and the steps: `model.norm.weight, cast bfloat16`.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let parts = self.source.iter().map(TensorId::to_string).chain(self.steps.iter().map(Step::to_string));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

fn as_record<S: Serializer>(init: &RouterInit, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Record {
        init: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        std: Option<f64>,
    }
    let std = if let RouterInit::Normal { std } = *init { Some(std) } else { None };
    Record { init: init.name(), std }.serialize(serializer)
}

fn as_given<S: Serializer>(_: &Arc<[f32]>, serializer: S) -> Result<S::Ok, S::Error> {
    "given".serialize(serializer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::random_stream::Purpose;
    use super::*;
    use crate::weights::LayerTensor;

    const VALUES: RandomStream = RandomStream { seed: 3, layer: 0, purpose: Purpose::Router };

    #[test]
    fn a_record_has_kinds_and_numbers_and_no_prose() {
        let dtype = Dtype::Bfloat16;
        let (shape, like) = ([4, 8], Like { id: TensorId::Norm, dtype });
        let router = |init| Step::Router { init, shape, like, values: VALUES };
        let steps = [
            (Step::Layer { layer: 3, num_layers: 8 }, json!({"kind": "layer", "layer": 3, "num_layers": 8})),
            (
                Step::ModelLayer { layer: 3, model: "a".to_owned() },
                json!({"kind": "model_layer", "layer": 3, "model": "a"}),
            ),
            (Step::Zeros { shape: vec![4], like }, json!({"kind": "zeros"})),
            (
                Step::RelativeNoise { relative_std: 0.1, values: VALUES },
                json!({"kind": "relative_noise", "relative_std": 0.1}),
            ),
            (
                Step::Drop { num_dimensions: 5, projection: Projection::Up, dimensions: VALUES, values: VALUES },
                json!({"kind": "drop", "num_dimensions": 5}),
            ),
            (router(RouterInit::Normal { std: 0.02 }), json!({"kind": "router", "init": "normal", "std": 0.02})),
            (router(RouterInit::Zero), json!({"kind": "router", "init": "zero"})),
            (Step::GivenRouter { rows: vec![1.0; 32].into(), shape, like }, json!({"kind": "router", "init": "given"})),
            (
                Step::Part { part: 1, num_parts: 2, projection: Projection::Down },
                json!({"kind": "part", "part": 1, "num_parts": 2}),
            ),
            (Step::Cast { dtype }, json!({"kind": "cast", "dtype": "bfloat16"})),
        ];
        for (step, expected) in steps {
            assert_eq!(json!(step), expected);
        }
        let recipe = Recipe::of(TensorId::Layer(4, LayerTensor::Mlp(Projection::Up))).then(Step::Copy);
        assert_eq!(json!(recipe), json!({"root": "model.layers.4.mlp.up_proj.weight", "steps": [{"kind": "copy"}]}));
        let created = Recipe::created_by(Step::Zeros { shape: vec![4], like });
        assert_eq!(json!(created), json!({"root": null, "steps": [{"kind": "zeros"}]}));
    }
}
