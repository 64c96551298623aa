//! From weights to parameters and back.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};

use super::{Footprint, Precision};
use crate::kernel::blocks::BlockFormat;
use crate::kernel::expert_mlp::{Experts, QuantizedExpert, QuantizedExperts, StackedExperts};
use crate::kernel::linear::Weight;
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::weights::{Dtype, LayerTensor, Projection, RawTensor, Recipe, TensorId, WeightError, WeightSource};

/// Makes parameters of the weights of a source.
///
/// On a device without gradients, matrices with the same recipe are read once and share their memory, as the twin layers of
/// a deepened model do, until one of them changes. Quantized ones, which are frozen, do on any device.
#[derive(Debug)]
pub struct Loader<'a, S> {
    source: &'a S,
    dtype: Dtype,
    /// Whether products read float32 matrices rounded to bfloat16.
    is_mixed: bool,
    /// Whether matrices are kept in blocks, and the format to which floats are rounded.
    blocks: Option<Option<BlockFormat>>,
    device: &'a Device,
    /// Counts, but neither reads nor allocates: parameters are one element.
    is_dry: bool,
    loaded: RefCell<HashMap<String, Shared>>,
    footprint: RefCell<Footprint>,
}

/// Matrices in memory.
#[derive(Debug, Clone)]
enum Shared {
    /// Stacks of one matrix or more.
    Floats(Tensor<3>),
    Blocks(QuantizedWeight),
}

impl<'a, S: WeightSource> Loader<'a, S> {
    /// Loads from `source` to `device` in the given precision.
    pub fn new(source: &'a S, precision: impl Into<Precision>, device: &'a Device) -> Self {
        let precision = precision.into();
        let (dtype, blocks) = match precision {
            Precision::Float(dtype) => (dtype, None),
            Precision::Mixed => (Dtype::Float32, None),
            Precision::Blocks(format) => (Dtype::Float32, QuantizedWeight::has_kernel(device).then_some(format)),
        };
        let (loaded, footprint) = (RefCell::default(), RefCell::default());
        let is_mixed = precision == Precision::Mixed;
        Self { source, dtype, is_mixed, blocks, device, is_dry: false, loaded, footprint }
    }

    /// A loader that only counts the memory that weights would take. It loads stand-ins.
    pub fn dry(source: &'a S, precision: impl Into<Precision>, device: &'a Device) -> Self {
        Self { is_dry: true, ..Self::new(source, precision, device) }
    }

    /// The source.
    pub fn source(&self) -> &'a S {
        self.source
    }

    /// The memory of all weights so far.
    pub fn footprint(&self) -> Footprint {
        self.footprint.borrow().clone()
    }

    /// A weight as a parameter of its own, a vector in float32.
    ///
    /// # Errors
    /// If the weight cannot be read, or does not hold floating-point numbers.
    ///
    /// # Panics
    /// If the weight has not `D` axes.
    pub fn param<const D: usize>(&self, id: TensorId) -> Result<Param<Tensor<D>>, WeightError> {
        let dtype = if D == 1 { Dtype::Float32 } else { self.dtype };
        self.footprint.borrow_mut().add(&dtype.to_string(), self.num_elements(id) * dtype.size_bytes() as u64, false);
        Ok(Param::from_tensor(self.floats(id, dtype)?))
    }

    /// A matrix, in blocks if the precision has them for it.
    ///
    /// # Errors
    /// As [`param`](Self::param).
    ///
    /// # Panics
    /// If the weight has not two axes.
    pub fn weight(&self, id: TensorId) -> Result<Weight, WeightError> {
        if let Some(format) = self.block_format(id) {
            return Ok(Weight::Quantized(self.blocks(id, format)?));
        }
        let weight = Param::from_tensor(self.stack(1, |_| id)?.squeeze_dim(0));
        Ok(if self.is_mixed { Weight::Mixed(weight) } else { Weight::Float(weight) })
    }

    /// The experts of a layer: in blocks if all of their matrices are, else stacked.
    ///
    /// # Errors
    /// As [`param`](Self::param).
    pub fn experts(&self, layer: usize, num_experts: usize) -> Result<Experts, WeightError> {
        let id = |index, projection| TensorId::Layer(layer, LayerTensor::Expert(index, projection));
        let expert =
            |index| Projection::ALL.map(|projection| (id(index, projection), self.block_format(id(index, projection))));
        let formats: Vec<_> = (0..num_experts).filter(|_| self.blocks.is_some()).map(expert).collect();
        if !formats.is_empty() && formats.iter().flatten().all(|(_, format)| format.is_some()) {
            let blocks = |(id, format): (TensorId, Option<BlockFormat>)| self.blocks(id, format.expect("just checked"));
            let expert = |[gate, up, down]: [_; 3]| {
                Ok(QuantizedExpert { gate: blocks(gate)?, up: blocks(up)?, down: blocks(down)? })
            };
            let recipe = |index| format!("{:?}", self.source.lineage(id(index, Projection::Gate)));
            let distinct = (0..num_experts).map(recipe).collect::<HashSet<_>>().len();
            self.footprint.borrow_mut().add_experts(distinct);
            let experts = formats.iter().copied().map(expert).collect::<Result<_, WeightError>>()?;
            let experts = QuantizedExperts::new(experts);
            // Stacking may have moved the matrices; later layers with the same recipes share the moved ones.
            let places = formats.iter().flatten().zip(experts.iter().flat_map(QuantizedExpert::matrices));
            for ((id, format), weight) in places {
                let key = self.key(&[*id], &format!("{:?}", format.expect("just checked")));
                self.loaded.borrow_mut().insert(key, Shared::Blocks(weight.clone()));
            }
            return Ok(Experts::Quantized(experts));
        }
        let stacked = |projection| self.stack(num_experts, |index| id(index, projection)).map(Param::from_tensor);
        let experts = StackedExperts {
            gate_proj: stacked(Projection::Gate)?,
            up_proj: stacked(Projection::Up)?,
            down_proj: stacked(Projection::Down)?,
        };
        Ok(if self.is_mixed { Experts::Mixed(experts) } else { Experts::Stacked(experts) })
    }

    /// The blocks in which a matrix is kept: its own, or those that its floats are rounded to; `None` for floats.
    fn block_format(&self, id: TensorId) -> Option<BlockFormat> {
        let rounded = self.blocks?;
        let [_, cols] = id.shape(self.source.config())[..] else { return None };
        let stored = self.source.packed_type(id).and_then(|ty| BlockFormat::from_name(ty.name));
        stored.or(rounded.filter(|format| cols.is_multiple_of(format.block_len())))
    }

    fn blocks(&self, id: TensorId, format: BlockFormat) -> Result<QuantizedWeight, WeightError> {
        let [rows, cols] = id.shape(self.source.config())[..] else { unreachable!("only matrices have blocks") };
        let bytes = QuantizedWeight::bytes_of(format, [rows, cols], self.device) as u64;
        let build = || {
            if self.is_dry {
                return Ok(Shared::Blocks(QuantizedWeight::from_blocks(format, [0, cols], &[], self.device)));
            }
            Ok(Shared::Blocks(match self.source.packed(id)? {
                Some(packed) if BlockFormat::from_name(packed.ty.name) == Some(format) => {
                    QuantizedWeight::from_blocks(format, [rows, cols], &packed.bytes, self.device)
                }
                _ => {
                    let raw = self.read(id, Dtype::Float32)?;
                    QuantizedWeight::quantize(format, [rows, cols], &raw.to_f32(), self.device)
                }
            }))
        };
        match self.shared(&[id], &format!("{format:?}"), bytes, build)? {
            Shared::Blocks(blocks) => Ok(blocks),
            Shared::Floats(_) => unreachable!("the format is part of the key"),
        }
    }

    /// `num` matrices of one shape, stacked along a new first axis.
    fn stack(&self, num: usize, id: impl Fn(usize) -> TensorId) -> Result<Tensor<3>, WeightError> {
        let bytes = self.num_elements(id(0)).saturating_mul(num as u64).saturating_mul(self.dtype.size_bytes() as u64);
        // All experts of a layer come from one layer, so the first tells whether the stack is a twin: enough for a count.
        let ids: Vec<_> = (0..if self.is_dry { 1 } else { num }).map(id).collect();
        let build = || {
            if let [id] = ids[..] {
                return Ok(Shared::Floats(self.floats::<2>(id, self.dtype)?.unsqueeze()));
            }
            let matrices = ids.iter().map(|id| self.floats::<2>(*id, self.dtype)).collect::<Result<_, _>>()?;
            Ok(Shared::Floats(Tensor::stack(matrices, 0)))
        };
        match self.shared(&ids, &self.dtype.to_string(), bytes, build)? {
            Shared::Floats(stack) => Ok(stack),
            Shared::Blocks(_) => unreachable!("the format is part of the key"),
        }
    }

    /// The matrices in memory for these recipes, or newly built ones. Parameters that are trained share no tensor, because
    /// gradients are keyed by it.
    fn shared(
        &self,
        ids: &[TensorId],
        format: &str,
        bytes: u64,
        build: impl FnOnce() -> Result<Shared, WeightError>,
    ) -> Result<Shared, WeightError> {
        let key = self.key(ids, format);
        let is_frozen = |known: &&Shared| !self.device.is_autodiff() || matches!(known, Shared::Blocks(_));
        let known = self.loaded.borrow().get(&key).filter(is_frozen).cloned();
        self.footprint.borrow_mut().add(format, bytes, known.is_some());
        if let Some(known) = known {
            return Ok(known);
        }
        let built = build()?;
        self.loaded.borrow_mut().insert(key, built.clone());
        Ok(built)
    }

    fn key(&self, ids: &[TensorId], format: &str) -> String {
        let recipes: Vec<Recipe> = ids.iter().map(|id| self.source.lineage(*id)).collect();
        format!("{format} {recipes:?}")
    }

    fn num_elements(&self, id: TensorId) -> u64 {
        id.shape(self.source.config()).iter().fold(1, |product: u64, size| product.saturating_mul(*size as u64))
    }

    fn read(&self, id: TensorId, dtype: Dtype) -> Result<RawTensor, WeightError> {
        let found = self.source.dtype(id);
        if !found.is_float() {
            return Err(WeightError::NotComputable { id, found, expected: "floating-point numbers to compute with" });
        }
        Ok(self.source.read(id)?.cast(dtype))
    }

    fn floats<const D: usize>(&self, id: TensorId, dtype: Dtype) -> Result<Tensor<D>, WeightError> {
        if self.is_dry {
            return Ok(Tensor::empty([1; D], self.device));
        }
        let raw = self.read(id, dtype)?;
        let shape = raw.shape().to_vec();
        let (data, dtype) = match dtype {
            Dtype::Float16 => (TensorData::new(halves(raw.bytes(), f16::from_bits), shape), DType::F16),
            Dtype::Bfloat16 => (TensorData::new(halves(raw.bytes(), bf16::from_bits), shape), DType::BF16),
            _ => (TensorData::new(raw.to_f32(), shape), DType::F32),
        };
        Ok(Tensor::from_data(data, (self.device, dtype)))
    }
}

fn halves<T>(bytes: &[u8], from_bits: fn(u16) -> T) -> Vec<T> {
    bytes.chunks_exact(2).map(|b| from_bits(u16::from_le_bytes([b[0], b[1]]))).collect()
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::weights::{MemoryWeights, Sink};

    /// Weights whose layer 2 is made as layer 1 is.
    struct Twins(MemoryWeights);

    impl Twins {
        fn new() -> Self {
            Self(MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 1))
        }

        fn of(id: TensorId) -> TensorId {
            match id {
                TensorId::Layer(2, tensor) => TensorId::Layer(1, tensor),
                id => id,
            }
        }
    }

    impl WeightSource for Twins {
        fn config(&self) -> &DecoderConfig {
            self.0.config()
        }

        fn dtype(&self, id: TensorId) -> Dtype {
            self.0.dtype(id)
        }

        fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
            self.0.stream(Self::of(id), sink)
        }

        fn lineage(&self, id: TensorId) -> Recipe {
            self.0.lineage(Self::of(id))
        }
    }

    fn address(tensor: Tensor<2>) -> *const f32 {
        tensor.without_autodiff().try_into_primitive::<Flex>().expect("on Flex").storage::<f32>().as_ptr()
    }

    #[test]
    fn twin_layers_share_their_memory_where_nothing_is_trained_and_others_do_not() {
        let id = |layer| TensorId::Layer(layer, LayerTensor::QProj);
        let weights = Twins::new();
        let bytes = 4 * 96 * 96;
        for (device, is_shared) in [(Device::flex(), true), (Device::flex().autodiff(), false)] {
            let loader = Loader::new(&weights, Dtype::Float32, &device);
            let layers = [1, 2, 3].map(|layer| match loader.weight(id(layer)).expect("in memory") {
                Weight::Float(param) => param.val(),
                _ => panic!("floats were asked for"),
            });
            let [one, two, three] = layers.map(address);
            assert_eq!(one == two, is_shared);
            assert_ne!(one, three);
            let footprint = loader.footprint();
            assert_eq!(footprint.size_bytes(), if is_shared { 2 * bytes } else { 3 * bytes });
            assert_eq!(footprint.unshared_bytes(), 3 * bytes);
        }
        let device = Device::flex();
        let loader = Loader::new(&weights, Precision::Blocks(Some(BlockFormat::Q8_0)), &device);
        let blocks = [1, 2, 3].map(|layer| match loader.weight(id(layer)).expect("in memory") {
            Weight::Quantized(blocks) => blocks,
            _ => panic!("blocks were asked for"),
        });
        assert!(blocks[0].shares_memory(&blocks[1]) && !blocks[0].shares_memory(&blocks[2]));
    }

    #[test]
    fn equal_numbers_of_different_recipes_are_apart() {
        let config = DecoderConfig::pico();
        let weights = MemoryWeights::untrained(config.clone(), 0.02, 1);
        let equal = MemoryWeights::new(config, |id| weights.read(Twins::of(id)).expect("in memory"));
        let device = Device::flex();
        let loader = Loader::new(&equal, Dtype::Float32, &device);
        let [one, two] =
            [1, 2].map(|layer| match loader.weight(TensorId::Layer(layer, LayerTensor::QProj)).expect("in memory") {
                Weight::Float(param) => address(param.val()),
                _ => panic!("floats were asked for"),
            });
        assert_ne!(one, two);
    }
}
