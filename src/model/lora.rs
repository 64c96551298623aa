//! Low-rank adapters of linear maps and of stacked experts, as parameters.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::kernel::dropout::{DropoutMask, dropout};
use crate::kernel::linear::{Weight, linear_add, linear_all};
use crate::lora::LoraAdapter;
use crate::weights::{LowRank, Projection, RawTensor, TensorId};

/// `s·(xA)B`, added to the product of a frozen weight (Hu et al., 2021, arXiv:2106.09685, §4.1). `A` and `B` are never
/// multiplied with each other.
#[derive(Module, Debug)]
pub struct Lora {
    /// `A`, `[rank, in]`, float32.
    pub lora_a: Weight,
    /// `B`, `[out, rank]`, float32.
    pub lora_b: Weight,
    scale: f64,
    /// The elements of `x` that are dropped, in a pass of training with dropout.
    #[module(skip)]
    mask: Option<DropoutMask>,
}

impl Lora {
    /// The update as trainable parameters on a device.
    pub fn new(update: &LowRank, device: &Device) -> Self {
        let [rows, columns] = update.dims();
        let factor = |values: &Vec<f32>, shape: [usize; 2]| {
            Weight::Float(Param::from_tensor(Tensor::from_data(TensorData::new(values.clone(), shape), device)))
        };
        Self {
            lora_a: factor(&update.a, [update.rank, columns]),
            lora_b: factor(&update.b, [rows, update.rank]),
            scale: update.scale,
            mask: None,
        }
    }

    /// With a mask of the inputs of one pass: `y + s·(dropout(x)A)B`.
    #[must_use]
    pub(super) fn masked(self, mask: DropoutMask) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// For some of the rows that it has a mask for.
    fn select(self, rows: &[usize]) -> Self {
        Self { mask: self.mask.map(|mask| mask.select(rows)), ..self }
    }

    /// `y + s·(xA)B`, in the type of `y`.
    ///
    /// # Shapes
    /// - `y`, result: `[.., out]`
    /// - `x`: `[.., in]`
    ///
    /// # Panics
    /// If the sizes disagree.
    pub fn add<const D: usize>(&self, y: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        let x = x.cast(DType::F32);
        let x = match &self.mask {
            Some(mask) => dropout(x, mask),
            None => x,
        };
        let [inner] = linear_all(x, [&self.lora_a]);
        let dtype = y.dtype();
        linear_add(y.cast(DType::F32), inner * self.scale, &self.lora_b).cast(dtype)
    }

    /// The values of the update.
    pub fn low_rank(&self) -> LowRank {
        let values = |weight: &Weight| weight.float().into_data().try_into_vec::<f32>().expect("float32");
        LowRank { a: values(&self.lora_a), b: values(&self.lora_b), rank: self.lora_a.dims()[0], scale: self.scale }
    }
}

/// The adapters of one expert. Fields have Mixtral's names.
#[derive(Module, Debug)]
pub struct ExpertLora {
    /// Of gate.
    pub w1: Option<Lora>,
    /// Of down.
    pub w2: Option<Lora>,
    /// Of up.
    pub w3: Option<Lora>,
}

impl ExpertLora {
    /// The adapters with these values, if there are any.
    pub(super) fn new<'a>(update: impl Fn(Projection) -> Option<&'a LowRank>, device: &Device) -> Self {
        let [w1, w3, w2] = Projection::ALL.map(|of| update(of).map(|update| Lora::new(update, device)));
        Self { w1, w2, w3 }
    }

    /// The adapter of one matrix.
    pub fn of(&self, projection: Projection) -> Option<&Lora> {
        match projection {
            Projection::Gate => self.w1.as_ref(),
            Projection::Up => self.w3.as_ref(),
            Projection::Down => self.w2.as_ref(),
        }
    }

    /// Each adapter, changed.
    pub(super) fn map(self, map: impl Fn(Projection, Lora) -> Lora) -> Self {
        let of = |projection, lora: Option<Lora>| lora.map(|lora| map(projection, lora));
        let Self { w1, w2, w3 } = self;
        Self { w1: of(Projection::Gate, w1), w2: of(Projection::Down, w2), w3: of(Projection::Up, w3) }
    }

    /// For tokens of a pass: those that visit the expert.
    pub(super) fn select(self, tokens: &[usize]) -> Self {
        self.map(|_, lora| lora.select(tokens))
    }

    /// Whether no matrix is adapted.
    pub(super) fn is_empty(&self) -> bool {
        Projection::ALL.iter().all(|of| self.of(*of).is_none())
    }
}

/// A random number of a matrix, for the masks of its adapter.
pub(super) fn module_number(id: TensorId) -> u32 {
    let hash = blake3::hash(id.to_string().as_bytes());
    u32::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
}

/// The update of a matrix in an adapter, if there is one.
pub(super) fn update_of(adapter: Option<&LoraAdapter>, id: TensorId) -> Option<&LowRank> {
    adapter?.get(id).map(|update| &**update)
}

/// The weight with the update of its adapter, in the type of the weight.
pub(super) fn merged(weight: RawTensor, lora: Option<&Lora>) -> RawTensor {
    let Some(lora) = lora else { return weight };
    let mut values = weight.to_f32();
    lora.low_rank().add_to(0, &mut values);
    RawTensor::from_f32(weight.dtype(), weight.shape().to_vec(), &values)
}
