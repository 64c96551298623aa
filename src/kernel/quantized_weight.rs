//! A quantized weight matrix, in the layout of its device.

#[cfg(feature = "flex")]
use std::sync::Arc;

#[cfg(feature = "cube")]
use burn::backend::Cube;
use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::blocks::{Block, BlockFormat};
#[cfg(feature = "flex")]
use super::cpu::QuantizedMatrix;
#[cfg(feature = "cube")]
use super::cube::{WordMatrix, WordStack};

/// A frozen weight `[out, in]`, quantized in blocks. Clones share the blocks.
///
/// On a device without a kernel for blocks, and when it is moved between Flex and another device, the weight is dequantized to
/// float32. Its values stay the same, up to rounding.
#[derive(Debug, Clone)]
pub struct QuantizedWeight {
    format: BlockFormat,
    storage: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    /// Interleaved for CPU lanes.
    #[cfg(feature = "flex")]
    Panels(Arc<QuantizedMatrix>, Device),
    /// In words, for the kernels in CubeCL.
    #[cfg(feature = "cube")]
    Words(WordMatrix, Device),
    /// Dequantized.
    Float(Tensor<2>),
}

impl QuantizedWeight {
    /// Reads rows of blocks as a GGUF file stores them.
    ///
    /// # Panics
    /// If `in` is not a multiple of the block length, or `bytes` has another size.
    pub fn from_blocks(format: BlockFormat, shape: [usize; 2], bytes: &[u8], device: &Device) -> Self {
        #[cfg(feature = "flex")]
        if super::is_flex(device) {
            return Self::in_panels(QuantizedMatrix::from_blocks(format, shape, bytes), device);
        }
        let len: usize = shape.iter().product();
        assert!(shape[1].is_multiple_of(format.block_len()), "{format:?}: rows of {} elements", shape[1]);
        assert_eq!(bytes.len(), len / format.block_len() * format.block_bytes(), "bytes of {shape:?} in {format:?}");
        Self::elsewhere(format, shape, |index| Block::parse_nth(format, bytes, index), device)
    }

    /// Quantizes to [`BlockFormat::Q8_0`] or [`BlockFormat::Q4_0`], bit for bit as ggml does.
    ///
    /// # Panics
    /// If the format is another, `in` is not a multiple of 32, or there are not `out·in` values.
    pub fn quantize(format: BlockFormat, shape: [usize; 2], values: &[f32], device: &Device) -> Self {
        #[cfg(feature = "flex")]
        if super::is_flex(device) {
            return Self::in_panels(QuantizedMatrix::quantize(format, shape, values), device);
        }
        assert!(shape[1].is_multiple_of(32), "{format:?}: rows of {} elements", shape[1]);
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of {shape:?}");
        let block = |index: usize| Block::quantize(format, &values[index * 32..(index + 1) * 32]);
        Self::elsewhere(format, shape, block, device)
    }

    /// Whether the weight stays in blocks on this device, which products read. Elsewhere it is float32.
    pub fn has_kernel(device: &Device) -> bool {
        super::is_flex(device) || super::is_cube(device)
    }

    /// The weight on another device than Flex, of blocks that are given by their indices.
    fn elsewhere(
        format: BlockFormat,
        shape: [usize; 2],
        block: impl Fn(usize) -> Block + Sync,
        device: &Device,
    ) -> Self {
        #[cfg(feature = "cube")]
        if super::is_cube(device) {
            let matrix = WordMatrix::new(format, shape, block, device);
            return Self { format, storage: Storage::Words(matrix, device.clone()) };
        }
        Self::widened(format, shape, block, device)
    }

    #[cfg(feature = "flex")]
    fn in_panels(matrix: QuantizedMatrix, device: &Device) -> Self {
        Self { format: matrix.format(), storage: Storage::Panels(Arc::new(matrix), device.clone()) }
    }

    fn widened(format: BlockFormat, shape: [usize; 2], block: impl Fn(usize) -> Block + Sync, device: &Device) -> Self {
        let mut values = vec![0.0; shape.iter().product()];
        let places = values.par_chunks_exact_mut(format.block_len()).enumerate();
        places.for_each(|(index, place)| block(index).dequantize(format, place));
        Self { format, storage: Storage::Float(Tensor::from_data(TensorData::new(values, shape), device)) }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, _) => matrix.dims(),
            #[cfg(feature = "cube")]
            Storage::Words(matrix, _) => matrix.dims(),
            Storage::Float(weight) => weight.dims(),
        }
    }

    /// Format of the blocks.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Bytes in memory, in the layout of the device.
    pub fn size_bytes(&self) -> usize {
        match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, _) => matrix.size_bytes(),
            #[cfg(feature = "cube")]
            Storage::Words(matrix, _) => WordMatrix::bytes_of(self.format, matrix.dims()),
            Storage::Float(weight) => weight.dims().iter().product::<usize>() * 4,
        }
    }

    /// [`size_bytes`](Self::size_bytes) of a weight of this format and shape.
    pub fn bytes_of(format: BlockFormat, shape: [usize; 2], device: &Device) -> usize {
        #[cfg(feature = "flex")]
        if super::is_flex(device) {
            return QuantizedMatrix::bytes_of(format, shape);
        }
        #[cfg(feature = "cube")]
        if super::is_cube(device) {
            return WordMatrix::bytes_of(format, shape);
        }
        let _ = device;
        shape.iter().product::<usize>() * 4
    }

    /// The device that the weight is on.
    pub fn device(&self) -> Device {
        match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(_, device) => device.clone(),
            #[cfg(feature = "cube")]
            Storage::Words(_, device) => device.clone(),
            Storage::Float(weight) => weight.device(),
        }
    }

    /// Whether both share the memory of one weight.
    pub fn shares_memory(&self, other: &Self) -> bool {
        match (&self.storage, &other.storage) {
            #[cfg(feature = "flex")]
            (Storage::Panels(one, _), Storage::Panels(other, _)) => Arc::ptr_eq(one, other),
            #[cfg(feature = "cube")]
            (Storage::Words(one, _), Storage::Words(other, _)) => one.shares_memory(other),
            _ => false,
        }
    }

    /// The values in float32, on the device of the weight.
    pub fn dequantize(&self) -> Tensor<2> {
        match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, device) => {
                Tensor::from_data(TensorData::new(matrix.dequantize(), matrix.dims()), device)
            }
            #[cfg(feature = "cube")]
            Storage::Words(matrix, device) => on_device(Tensor::from_primitive::<Cube>(matrix.dequantize()), device),
            Storage::Float(weight) => weight.clone(),
        }
    }

    /// The values in float32, row-major, on the host.
    pub fn values(&self) -> Vec<f32> {
        match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, _) => matrix.dequantize(),
            _ => self.dequantize().into_data().try_into_vec::<f32>().expect("float32"),
        }
    }

    /// The rows `tokens`, dequantized: an embedding lookup. Has no gradient.
    ///
    /// # Shapes
    /// - `tokens`: `[batch_size, seq_length]`
    /// - result: `[batch_size, seq_length, in]`
    ///
    /// # Panics
    /// On Flex, if an id is not below `out`; on a GPU the row is then unspecified.
    pub fn rows(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let bytes = tokens.shape().num_elements() * self.size_bytes() / self.dims()[0];
        crate::trace::count(crate::trace::Op { bytes, ..Default::default() });
        match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, _) => {
                let ([vocab_size, width], [batch_size, seq_length]) = (matrix.dims(), tokens.dims());
                let device = tokens.device();
                let mut rows = vec![0.0; batch_size * seq_length * width];
                for (token, row) in tokens.into_data().iter::<i64>().zip(rows.chunks_exact_mut(width)) {
                    let id = usize::try_from(token).unwrap_or(usize::MAX);
                    assert!(id < vocab_size, "embedding: id {token} of a vocabulary of {vocab_size}");
                    matrix.dequantize_row(id, row);
                }
                Tensor::from_data(TensorData::new(rows, [batch_size, seq_length, width]), &device)
            }
            #[cfg(feature = "cube")]
            Storage::Words(matrix, _) => {
                let ([_, width], [batch_size, seq_length], device) = (matrix.dims(), tokens.dims(), tokens.device());
                let ids = tokens.without_autodiff().reshape([batch_size * seq_length]);
                let ids = ids.try_into_primitive::<Cube>().expect("tokens on the device of the weight");
                let rows = Tensor::<2>::from_primitive::<Cube>(matrix.rows(ids));
                on_device(rows.reshape([batch_size, seq_length, width]), &device)
            }
            Storage::Float(weight) => super::embedding::embedding_reference(weight.clone(), tokens),
        }
    }

    /// The weight in float32, where it is not in blocks.
    pub(super) fn float(&self) -> Option<&Tensor<2>> {
        match &self.storage {
            Storage::Float(weight) => Some(weight),
            #[cfg(feature = "flex")]
            _ => None,
        }
    }

    /// The panels, which products on Flex read.
    #[cfg(feature = "flex")]
    pub(super) fn panels(&self) -> &QuantizedMatrix {
        match &self.storage {
            Storage::Panels(matrix, _) => matrix,
            _ => panic!("a weight on {:?} meets activations on the CPU", self.device()),
        }
    }

    /// The words, which products on a device of CubeCL read.
    #[cfg(feature = "cube")]
    pub(super) fn words(&self) -> &WordMatrix {
        match &self.storage {
            Storage::Words(matrix, _) => matrix,
            _ => panic!("a weight on {:?} meets activations on a device of CubeCL", self.device()),
        }
    }

    /// Moves weights into one buffer, where kernels find them. None if they are empty, differ in shape or format, are too large for
    /// one buffer, or are not on a device of CubeCL.
    #[cfg(feature = "cube")]
    pub(super) fn stack<'a>(weights: impl Iterator<Item = &'a mut Self>) -> Option<WordStack> {
        let words = |weight: &'a mut Self| match &mut weight.storage {
            Storage::Words(matrix, _) => Some(matrix),
            _ => None,
        };
        WordStack::new(weights.map(words).collect::<Option<_>>()?)
    }
}

/// A tensor of a backend, with gradients recorded if they are on this device.
#[cfg(feature = "cube")]
fn on_device<const D: usize>(x: Tensor<D>, device: &Device) -> Tensor<D> {
    if device.is_autodiff() { Tensor::from_inner(x) } else { x }
}

impl Module for QuantizedWeight {
    fn visit<V: ModuleVisitor>(&self, _visitor: &mut V) {}

    fn map<M: ModuleMapper>(self, _mapper: &mut M) -> Self {
        self
    }

    fn to_device(self, device: &Device) -> Self {
        let storage = match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, _) if super::is_flex(device) => Storage::Panels(matrix.clone(), device.clone()),
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, _) => {
                Storage::Float(Tensor::from_data(TensorData::new(matrix.dequantize(), matrix.dims()), device))
            }
            #[cfg(feature = "cube")]
            Storage::Words(matrix, from) if from.clone().without_autodiff() == device.clone().without_autodiff() => {
                Storage::Words(matrix.clone(), device.clone())
            }
            #[cfg(feature = "cube")]
            Storage::Words(matrix, _) if super::is_cube(device) => {
                Storage::Words(matrix.to_device(device), device.clone())
            }
            #[cfg(feature = "cube")]
            Storage::Words(..) => Storage::Float(self.dequantize().without_autodiff().to_device(device)),
            Storage::Float(weight) => Storage::Float(weight.clone().to_device(device)),
        };
        Self { format: self.format, storage }
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, mut devices: Devices) -> Devices {
        let device = self.device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        let storage = match &self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, device) => Storage::Panels(matrix.clone(), device.clone().without_autodiff()),
            #[cfg(feature = "cube")]
            Storage::Words(matrix, device) => Storage::Words(matrix.clone(), device.clone().without_autodiff()),
            Storage::Float(weight) => Storage::Float(weight.valid()),
        };
        Self { format: self.format, storage }
    }

    fn train(self) -> Self {
        let storage = match self.storage {
            #[cfg(feature = "flex")]
            Storage::Panels(matrix, device) => Storage::Panels(matrix, device.autodiff()),
            #[cfg(feature = "cube")]
            Storage::Words(matrix, device) => Storage::Words(matrix, device.autodiff()),
            Storage::Float(weight) => Storage::Float(weight.train()),
        };
        Self { format: self.format, storage }
    }
}

impl ModuleDisplayDefault for QuantizedWeight {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_single(&format!("{:?} {:?}", self.format, self.dims())).optional()
    }
}

impl ModuleDisplay for QuantizedWeight {}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::module::Module;

    use super::*;
    use crate::kernel::blocks::fixture::{blocks, numbers};
    use crate::kernel::fixture::random;
    use crate::kernel::linear::{Weight, linear_all};

    #[derive(Module, Debug)]
    struct Layer {
        weight: Weight,
    }

    #[test]
    fn module_moves_preserve_a_quantized_weight() {
        let (cpu, recording) = (Device::flex(), Device::flex().autodiff());
        let weight = QuantizedWeight::quantize(BlockFormat::Q8_0, [5, 64], &numbers(5 * 64, 1), &cpu);
        let layer = Layer { weight: weight.clone().into() };
        assert_eq!(layer.devices(), std::slice::from_ref(&cpu), "the weight is visible to module moves");
        let x = random::<2>([3, 64], &cpu);
        let run = |layer: &Layer, x: Tensor<2>| linear_all(x, [&layer.weight]).map(Tensor::into_data);
        let expected = run(&layer, x.clone());
        assert_eq!(run(&layer.clone().fork(&cpu), x.clone()), expected);
        assert_eq!(run(&layer.clone().train().valid(), x.clone()), expected);
        // Where gradients are recorded, activations are not rounded.
        let moved = layer.to_device(&recording);
        let [exact] = run(&moved, Tensor::from_inner(x.clone()));
        let reference = x.matmul(weight.dequantize().transpose()).into_data();
        exact.assert_approx_eq::<f32>(&reference, burn::tensor::Tolerance::absolute(1e-4));
    }

    /// The weight on a device without a kernel.
    fn widened(format: BlockFormat, shape: [usize; 2], bytes: &[u8]) -> QuantizedWeight {
        QuantizedWeight::widened(format, shape, |index| Block::parse_nth(format, bytes, index), &Device::flex())
    }

    #[test]
    fn a_device_without_a_kernel_has_the_same_values() {
        for format in BlockFormat::ALL {
            let bytes = blocks(format, 6 * 256, 2);
            let packed = QuantizedWeight::from_blocks(format, [6, 256], &bytes, &Device::flex());
            let widened = widened(format, [6, 256], &bytes);
            assert_eq!(packed.values(), widened.values(), "{format:?}");
            assert_eq!(packed.dims(), widened.dims());
            assert!(widened.size_bytes() > packed.size_bytes());
            let tokens = Tensor::<2, Int>::from_data([[3, 0], [5, 5]], &Device::flex());
            assert_eq!(packed.rows(tokens.clone()).into_data(), widened.rows(tokens).into_data());
        }
    }

    #[test]
    fn blocks_take_the_memory_of_the_file() {
        for format in BlockFormat::ALL {
            let file = blocks(format, 32 * 512, 1);
            let weight = QuantizedWeight::from_blocks(format, [32, 512], &file, &Device::flex());
            let ratio = weight.size_bytes() as f64 / file.len() as f64;
            assert!((1.0..=1.04).contains(&ratio), "{format:?}: {ratio}");
        }
    }

    #[test]
    fn clones_share_memory() {
        let weight = QuantizedWeight::quantize(BlockFormat::Q4_0, [2, 32], &numbers(64, 1), &Device::flex());
        let other = QuantizedWeight::quantize(BlockFormat::Q4_0, [2, 32], &numbers(64, 1), &Device::flex());
        assert!(weight.shares_memory(&weight.clone()) && !weight.shares_memory(&other));
    }
}
