//! A grown model that is ready to run.

use burn::tensor::Device;

use super::{Growth, UpscaleError};
use crate::device::device;
use crate::load::Precision;
use crate::model::AnyDecoder;

/// A model on its device.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model.
    pub model: AnyDecoder,
    /// The device.
    pub device: Device,
}

impl LoadedModel {
    /// Loads a growth for inference on the device called `name`. Matrices that a file has quantized stay quantized, and others are
    /// float32.
    ///
    /// # Errors
    /// [`UpscaleError::Device`], [`UpscaleError::Weights`].
    pub fn new(growth: &Growth<'_>, name: &str) -> Result<Self, UpscaleError> {
        let device = device(name)?;
        let model = AnyDecoder::load_as(&growth.source, Precision::Blocks(None), &device)?;
        Ok(Self { model, device })
    }
}
