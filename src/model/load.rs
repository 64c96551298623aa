//! From weights to parameters and back.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};

use super::Precision;
use crate::kernel::blocks::BlockFormat;
use crate::kernel::expert_mlp::{Experts, QuantizedExpert, StackedExperts};
use crate::kernel::linear::Weight;
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::weights::{Dtype, LayerTensor, PackedTensor, Projection, RawTensor, TensorId, WeightError, WeightSource};

/// Makes parameters of the weights of a source.
///
/// On a device without gradients, weights of equal bytes share their memory, as the twin layers of a freshly deepened
/// model do, until one of them changes.
#[derive(Debug)]
pub struct Loader<'a, S> {
    source: &'a S,
    dtype: Dtype,
    device: &'a Device,
    /// Whether matrices are wanted in blocks, and in which if the source has floats.
    blocks: Option<Option<BlockFormat>>,
    seen: RefCell<HashMap<[u8; 32], Shared>>,
    footprint: RefCell<Footprint>,
}

/// The memory that the weights of a model take, by number format: `float32`, `bfloat16`, `Q4_0`. What layers share counts
/// once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    bytes: BTreeMap<String, u64>,
}

impl Footprint {
    /// Bytes of all weights.
    pub fn size_bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    /// The format that takes the most bytes; `None` of nothing.
    pub fn main_format(&self) -> Option<&str> {
        self.bytes.iter().max_by_key(|(_, bytes)| **bytes).map(|(format, _)| format.as_str())
    }

    fn add(&mut self, format: String, bytes: usize) {
        *self.bytes.entry(format).or_default() += bytes as u64;
    }
}

/// What is in memory already.
#[derive(Debug, Clone)]
enum Shared {
    Matrix(Tensor<2>),
    Stack(Tensor<3>),
    Blocks(QuantizedWeight),
}

impl<'a, S: WeightSource> Loader<'a, S> {
    /// Loads from `source` to `device` in the given precision.
    pub fn new(source: &'a S, precision: impl Into<Precision>, device: &'a Device) -> Self {
        let (dtype, blocks) = match precision.into() {
            Precision::Float(dtype) => (dtype, None),
            Precision::Blocks(format) => (Dtype::Float32, QuantizedWeight::has_kernel(device).then_some(format)),
        };
        Self { source, dtype, device, blocks, seen: RefCell::default(), footprint: RefCell::default() }
    }

    /// What is loaded from.
    pub fn source(&self) -> &'a S {
        self.source
    }

    /// The device that parameters are made on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// What has been made so far takes this much memory.
    pub fn footprint(&self) -> Footprint {
        self.footprint.borrow().clone()
    }

    /// One weight as a parameter.
    ///
    /// # Errors
    /// What the source says.
    ///
    /// # Panics
    /// If the weight has not `D` axes.
    pub fn param<const D: usize>(&self, id: TensorId) -> Result<Param<Tensor<D>>, WeightError> {
        let dtype = if D == 1 { Dtype::Float32 } else { self.dtype };
        Ok(Param::from_tensor(self.tensor(self.read(id, dtype)?)))
    }

    /// One matrix, in blocks if it is wanted so.
    ///
    /// # Errors
    /// What the source says.
    ///
    /// # Panics
    /// If the weight has not two axes.
    pub fn weight(&self, id: TensorId) -> Result<Weight, WeightError> {
        if let Some(matrix) = self.blocks(id)? {
            return Ok(Weight::Quantized(matrix));
        }
        let raw = self.read(id, self.dtype)?;
        let matrix = self.shared(digest("matrix", [&raw]), || Shared::Matrix(self.tensor(raw)));
        let Shared::Matrix(tensor) = matrix else { unreachable!("a digest covers the kind") };
        Ok(Weight::Float(Param::from_tensor(tensor)))
    }

    /// One matrix in blocks, or `None` if it is wanted in floats.
    ///
    /// # Errors
    /// What the source says.
    pub fn blocks(&self, id: TensorId) -> Result<Option<QuantizedWeight>, WeightError> {
        let Some(format) = self.blocks else { return Ok(None) };
        let shape = id.shape(self.source.config());
        let [rows, cols] = shape[..] else { return Ok(None) };
        if let Some(PackedTensor { ty, bytes }) = self.source.packed(id)?
            && let Some(format) = BlockFormat::from_name(ty.name)
        {
            let mut key = blake3::Hasher::new();
            for part in [b"blocks of ", ty.name.as_bytes(), &shape_bytes(&shape), &bytes] {
                key.update(part);
            }
            let build = || self.matrix(QuantizedWeight::from_blocks(format, [rows, cols], &bytes, self.device));
            return Ok(self.shared(key.finalize().into(), build).into_blocks());
        }
        let Some(format) = format.filter(|format| cols.is_multiple_of(format.block_len())) else { return Ok(None) };
        let raw = self.read(id, Dtype::Float32)?;
        let key = digest(&format!("rounded to {format:?}"), [&raw]);
        let build = || self.matrix(QuantizedWeight::quantize(format, [rows, cols], &raw.to_f32(), self.device));
        Ok(self.shared(key, build).into_blocks())
    }

    /// Weights of one shape, stacked along a new first axis, as one parameter.
    ///
    /// # Errors
    /// What the source says.
    pub fn stacked(&self, ids: impl Iterator<Item = TensorId>) -> Result<Param<Tensor<3>>, WeightError> {
        let raws = ids.map(|id| self.read(id, self.dtype)).collect::<Result<Vec<_>, _>>()?;
        let stack = self.shared(digest("stack", &raws), || {
            Shared::Stack(Tensor::stack(raws.into_iter().map(|raw| self.tensor::<2>(raw)).collect(), 0))
        });
        let Shared::Stack(tensor) = stack else { unreachable!("a digest covers the kind") };
        Ok(Param::from_tensor(tensor))
    }

    /// The experts of a layer: in blocks if all of their matrices are, else stacked.
    ///
    /// # Errors
    /// Those of the source.
    pub fn experts(&self, layer: usize, num_experts: usize) -> Result<Experts, WeightError> {
        let id = |index, projection| TensorId::Layer(layer, LayerTensor::Expert(index, projection));
        let mut experts = Vec::new();
        for index in 0..num_experts {
            let [gate, up, down] = Projection::ALL.map(|projection| self.blocks(id(index, projection)));
            let (Some(gate), Some(up), Some(down)) = (gate?, up?, down?) else { break };
            experts.push(QuantizedExpert { gate, up, down });
        }
        if experts.len() == num_experts {
            return Ok(Experts::Quantized(experts));
        }
        let stacked = |projection| self.stacked((0..num_experts).map(|index| id(index, projection)));
        Ok(Experts::Stacked(StackedExperts {
            gate_proj: stacked(Projection::Gate)?,
            up_proj: stacked(Projection::Up)?,
            down_proj: stacked(Projection::Down)?,
        }))
    }

    /// What was built for these bytes before, or now. Two parameters that are trained share no tensor: it is what their
    /// gradients are kept by.
    fn shared(&self, key: [u8; 32], build: impl FnOnce() -> Shared) -> Shared {
        if self.device.is_autodiff() {
            return build();
        }
        self.seen.borrow_mut().entry(key).or_insert_with(build).clone()
    }

    fn read(&self, id: TensorId, dtype: Dtype) -> Result<RawTensor, WeightError> {
        let found = self.source.dtype(id);
        if !found.is_float() {
            return Err(WeightError::NotComputable { id, found, expected: "floating-point numbers to compute with" });
        }
        Ok(self.source.read(id)?.cast(dtype))
    }

    fn matrix(&self, matrix: QuantizedWeight) -> Shared {
        self.footprint.borrow_mut().add(format!("{:?}", matrix.format()), matrix.size_bytes());
        Shared::Blocks(matrix)
    }

    fn tensor<const D: usize>(&self, raw: RawTensor) -> Tensor<D> {
        let shape = raw.shape().to_vec();
        let (data, dtype) = match raw.dtype() {
            Dtype::Float16 => (TensorData::new(halves(raw.bytes(), f16::from_bits), shape), DType::F16),
            Dtype::Bfloat16 => (TensorData::new(halves(raw.bytes(), bf16::from_bits), shape), DType::BF16),
            _ => (TensorData::new(raw.to_f32(), shape), DType::F32),
        };
        let format = match dtype {
            DType::F16 => Dtype::Float16,
            DType::BF16 => Dtype::Bfloat16,
            _ => Dtype::Float32,
        };
        self.footprint.borrow_mut().add(format.to_string(), data.as_bytes().len());
        Tensor::from_data(data, (self.device, dtype))
    }
}

impl Shared {
    fn into_blocks(self) -> Option<QuantizedWeight> {
        match self {
            Self::Blocks(matrix) => Some(matrix),
            Self::Matrix(_) | Self::Stack(_) => None,
        }
    }
}

/// What is made of weights, and their types, shapes and bytes, in one number.
fn digest<'r>(made: &str, raws: impl IntoIterator<Item = &'r RawTensor>) -> [u8; 32] {
    let mut digest = blake3::Hasher::new();
    digest.update(made.as_bytes());
    for raw in raws {
        digest.update(raw.dtype().to_string().as_bytes());
        digest.update(&shape_bytes(raw.shape()));
        digest.update(raw.bytes());
    }
    digest.finalize().into()
}

fn shape_bytes(shape: &[usize]) -> Vec<u8> {
    shape.iter().flat_map(|size| (*size as u64).to_le_bytes()).collect()
}

fn halves<T>(bytes: &[u8], from_bits: fn(u16) -> T) -> Vec<T> {
    bytes.chunks_exact(2).map(|b| from_bits(u16::from_le_bytes([b[0], b[1]]))).collect()
}

/// A parameter's value as a weight, in the type that it is kept in.
pub(super) fn raw<const D: usize>(value: Tensor<D>) -> RawTensor {
    let shape = value.dims().to_vec();
    let dtype = match value.dtype() {
        DType::F16 => Dtype::Float16,
        DType::BF16 => Dtype::Bfloat16,
        _ => Dtype::Float32,
    };
    let wide = value.cast(DType::F32).into_data().try_into_vec::<f32>().expect("cast to f32");
    RawTensor::from_f32(dtype, shape, &wide)
}

/// The value of a weight, in the type that it is kept in; of a quantized one, in float32.
pub(super) fn raw_of(weight: &Weight) -> RawTensor {
    match weight {
        Weight::Float(param) => raw(param.val()),
        Weight::Quantized(weight) => RawTensor::from_f32(Dtype::Float32, weight.dims().to_vec(), &weight.values()),
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::weights::{LayerTensor, MemoryWeights};

    fn address(tensor: Tensor<2>) -> *const f32 {
        tensor.without_autodiff().try_into_primitive::<Flex>().expect("on Flex").storage::<f32>().as_ptr()
    }

    /// Weights whose layers 1 and 2 are twins.
    fn twins() -> MemoryWeights {
        let config = DecoderConfig::pico();
        let untrained = MemoryWeights::untrained(config.clone(), 0.02, 1);
        MemoryWeights::new(config, |id| match id {
            TensorId::Layer(2, tensor) => untrained.read(TensorId::Layer(1, tensor)).expect("in memory"),
            id => untrained.read(id).expect("in memory"),
        })
    }

    #[test]
    fn twin_layers_share_their_memory_where_nothing_is_trained_and_others_do_not() {
        let id = |layer| TensorId::Layer(layer, LayerTensor::QProj);
        let weights = twins();
        for (device, shared) in [(Device::flex(), true), (Device::flex().autodiff(), false)] {
            let loader = Loader::new(&weights, Dtype::Float32, &device);
            let layers = [1, 2, 3].map(|layer| match loader.weight(id(layer)).expect("in memory") {
                Weight::Float(param) => param.val(),
                Weight::Quantized(_) => panic!("floats were asked for"),
            });
            let [one, two, three] = layers.map(address);
            assert_eq!(one == two, shared);
            assert_ne!(one, three);
        }
        let device = Device::flex();
        let loader = Loader::new(&weights, Precision::Blocks(Some(BlockFormat::Q8_0)), &device);
        let blocks = [1, 2, 3].map(|layer| loader.blocks(id(layer)).expect("in memory").expect("whole blocks"));
        assert!(blocks[0].shares_memory(&blocks[1]) && !blocks[0].shares_memory(&blocks[2]));
    }
}
