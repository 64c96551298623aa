//! Access to the parameters, logits and gradients of decoders.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use deepwide::model::{AnyDecoder, CausalLm, HiddenStates, Routing, loss};
use deepwide::weights::{MemoryWeights, RawTensor, TensorId, WeightSource};
use ndarray::Array2;

/// The decoder of a source, in float32.
///
/// # Panics
/// If a weight cannot be read.
pub fn load(source: &impl WeightSource, device: &Device) -> AnyDecoder {
    AnyDecoder::load(source, device).expect("readable weights")
}

/// Texts of one length as token ids, `[texts, seq_length]`.
pub fn tokens<T: AsRef<[u32]>>(texts: &[T], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = texts.iter().flat_map(|text| text.as_ref()).map(|id| *id as i32).collect();
    Tensor::from_data(TensorData::new(ids, [texts.len(), texts[0].as_ref().len()]), device)
}

/// Logits at every position of texts of one length, a row a token.
pub fn logits<T: AsRef<[u32]>>(model: &impl CausalLm, texts: &[T]) -> Array2<f64> {
    rows(model.forward(tokens(texts, &crate::pico::device())).logits)
}

/// All axes but the last, flattened.
pub fn rows<const D: usize>(x: Tensor<D>) -> Array2<f64> {
    let columns = x.dims()[D - 1];
    let values: Vec<f64> = x.into_data().iter::<f32>().map(f64::from).collect();
    Array2::from_shape_vec((values.len() / columns, columns), values).expect("whole rows")
}

/// Every bit of a tensor.
pub fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    x.into_data().iter::<f32>().map(f32::to_bits).collect()
}

/// The smallest margin between the last chosen and the first rejected score of a token, over all layers. Rounding may
/// decide smaller margins either way.
pub fn margin(routing: &[Routing]) -> f64 {
    let of_layer = |routing: &Routing| {
        let k = routing.experts.dims()[1];
        let rows = rows(routing.scores.clone());
        let margins = rows.rows().into_iter().map(|row| {
            let mut row = row.to_vec();
            row.sort_by(|a, b| b.total_cmp(a));
            row.get(k).map_or(f64::INFINITY, |refused| row[k - 1] - refused)
        });
        margins.fold(f64::INFINITY, f64::min)
    };
    routing.iter().map(of_layer).fold(f64::INFINITY, f64::min)
}

/// A parameter of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Key of its gradient and moments.
    pub id: ParamId,
    /// Number of elements.
    pub len: usize,
}

/// All parameters of a module, in the order of visitors.
pub fn parameters(module: &impl Module) -> Vec<Parameter> {
    struct All(Vec<Parameter>);

    impl ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(Parameter { id: param.id, len: param.val().shape().num_elements() });
        }
    }

    let mut all = All(Vec::new());
    module.visit(&mut all);
    all.0
}

/// Mean cross entropy of all tokens but the first in texts of one length, and the routing of the pass.
pub fn next_token_losses<T: AsRef<[u32]>>(
    model: &impl CausalLm,
    texts: &[T],
    device: &Device,
) -> (Tensor<1>, Vec<Routing>) {
    let ids = tokens(texts, device);
    let [num_texts, seq_length] = ids.dims();
    let HiddenStates { last, routing } = model.hidden_states(ids.clone(), None);
    let last = last.slice([0..num_texts, 0..seq_length - 1]);
    (loss::mean(model.token_losses(last, ids.slice([0..num_texts, 1..seq_length]))), routing)
}

/// The gradient of a loss with respect to every weight of `model`, by the name of the weight.
///
/// # Panics
/// If the loss does not depend on one of them.
pub fn gradients(model: &AnyDecoder, loss: Tensor<1>) -> MemoryWeights {
    struct Gradients(GradientsParams);

    impl ModuleMapper for Gradients {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, _, mapper) = param.consume();
            let gradient = self.0.remove::<D>(id).expect("a gradient for every parameter");
            Param::from_mapped_value(id, gradient, mapper)
        }
    }

    let gradients = GradientsParams::from_grads(loss.backward(), model);
    model.clone().map(&mut Gradients(gradients)).to_weights()
}

/// The numbers of one weight of a source.
pub fn values(source: &impl WeightSource, id: TensorId) -> Vec<f32> {
    source.read(id).expect("weights in memory").to_f32()
}

/// The largest difference of two lists of numbers, relative to the largest of `expected`.
pub fn relative(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "weights of different sizes");
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |largest, v| largest.max(f64::from(v.abs())));
    let differences = actual.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) }) / largest
}

/// `√(Σ v²)`.
pub fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// The bytes of every weight of a source.
pub fn all_bytes(source: &impl WeightSource) -> Vec<RawTensor> {
    let ids = TensorId::all(source.config()).into_iter();
    ids.map(|id| source.read(id).expect("weights in memory")).collect()
}
