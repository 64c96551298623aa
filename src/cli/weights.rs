//! Options of a loaded model: the types of its matrices, and its device.

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::values::DtypeArg;
use crate::device::Device;
use crate::kernel::blocks::BlockFormat;
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::load::Precision;
use crate::model::AnyDecoder;
use crate::weights::WeightSource;

/// Matrices that a file has quantized stay quantized, and others are float32.
const DEFAULT: Precision = Precision::Blocks(None);

/// How weights are loaded, and where. The heading of these options is that of the field that flattens them.
#[derive(Debug, Clone, Args)]
pub struct WeightsArgs {
    /// Type of the matrices: float32, float16, bfloat16
    ///
    /// By default, matrices that a GGUF file has quantized stay quantized, and others are float32.
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, conflicts_with = "quant")]
    pub dtype: Option<DtypeArg>,
    /// Quantize matrices to q8_0 or q4_0
    ///
    /// Matrices that a GGUF file has quantized stay as they are.
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true)]
    pub quant: Option<QuantArg>,
    /// Device to compute on; see docs/devices.md
    ///
    /// flex; in builds with these features also cuda, cuda:1, vulkan, wgpu, ndarray, tch:cpu.
    #[arg(long, default_value = "flex")]
    pub device: String,
}

impl WeightsArgs {
    /// The precision asked for.
    pub(super) fn precision(&self) -> Option<Precision> {
        let quantized = self.quant.map(|quant| Precision::Blocks(Some(quant.format())));
        quantized.or(self.dtype.map(|dtype| Precision::Float(dtype.dtype())))
    }

    /// That precision, or the default of inference.
    pub(super) fn inference_precision(&self) -> Precision {
        self.precision().unwrap_or(DEFAULT)
    }

    /// The option that sets the precision, and its value: `("dtype", "bfloat16")`.
    pub(super) fn given(&self) -> Option<(&'static str, String)> {
        let name = |value: Option<PossibleValue>| value.map_or_else(String::new, |value| value.get_name().to_owned());
        let quant = self.quant.map(|quant| ("quant", name(quant.to_possible_value())));
        quant.or(self.dtype.map(|dtype| ("dtype", name(dtype.to_possible_value()))))
    }

    /// [`given`](Self::given), unless the weights of `source` are loaded as without the option.
    ///
    /// # Errors
    /// If the source has a weight that cannot be loaded.
    pub(super) fn changes<S: WeightSource>(
        &self,
        source: &S,
        device: &Device,
    ) -> Result<Option<(&'static str, String)>, Failure> {
        let Some(given) = self.given() else { return Ok(None) };
        let formats = |precision| AnyDecoder::foresee(source, precision, device);
        let is_default = formats(self.inference_precision())? == formats(DEFAULT)?;
        Ok((!is_default).then_some(given))
    }

    /// Checks that a device keeps matrices quantized, if that was asked for.
    ///
    /// # Errors
    /// If it keeps them in floats.
    pub(super) fn check(&self, device: &Device) -> Result<(), Failure> {
        if self.quant.is_some() && !QuantizedWeight::has_kernel(device) {
            let name = &self.device;
            let message = "the device has no kernels for quantized weights, expected flex, cuda, vulkan or wgpu";
            return Err(Failure::usage(message).for_option(format_args!("--quant with --device {name}")));
        }
        Ok(())
    }
}

/// `--quant`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantArg {
    /// Blocks of 32 numbers of 8 bits with a scale.
    #[value(name = "q8_0")]
    Q8,
    /// Blocks of 32 numbers of 4 bits with a scale.
    #[value(name = "q4_0")]
    Q4,
}

impl QuantArg {
    fn format(self) -> BlockFormat {
        match self {
            Self::Q8 => BlockFormat::Q8_0,
            Self::Q4 => BlockFormat::Q4_0,
        }
    }
}
