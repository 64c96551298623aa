//! The shape that a dry run counts: of a checkpoint's headers, of a config alone, or of a preset.

use std::path::{Path, is_separator};

use super::super::failure::Failure;
use super::super::interrupt;
use super::super::opened::OpenedModel;
use super::super::run_info;
use super::super::values::DtypeArg;
use super::args::ProfileArgs;
use crate::bench::default_precision;
use crate::config::DecoderConfig;
use crate::device::{Device, device};
use crate::formats::config_alone;
use crate::kernel::linear::keeps_bfloat16;
use crate::load::Precision;
use crate::model::AnyDecoder;
use crate::profile::BytesPerNumber;
use crate::profile::flops::count_parameters;
use crate::weights::{Dtype, WeightSource};

/// A decoder without its weights.
pub(super) struct Shape {
    /// Its name for records.
    pub name: String,
    /// Its config, grown.
    pub config: DecoderConfig,
    /// Bytes of its weights in memory; shared ones count once.
    pub weight_bytes: u64,
    /// The format of most of them.
    pub dtype: String,
    /// Their sizes as they are read.
    pub bytes_per_number: BytesPerNumber,
}

impl Shape {
    /// Reads the shape that arguments name. Nothing is loaded.
    ///
    /// # Errors
    /// If there is no such model, or it cannot be grown as asked.
    pub fn of(args: &ProfileArgs) -> Result<Self, Failure> {
        let path = Path::new(&args.model);
        let alone = match path.exists() {
            true => config_alone(&*interrupt::disk(), path)?,
            false => DecoderConfig::preset(&args.model),
        };
        match alone {
            Some(base) => Self::of_config(args, &base),
            None => Self::of_headers(args),
        }
    }

    fn of_config(args: &ProfileArgs, base: &DecoderConfig) -> Result<Self, Failure> {
        let request = args.growth.request()?;
        let config = request.config(base).map_err(|error| args.growth.blame(error))?;
        let dtype = args.dtype.map_or(Dtype::Float32, DtypeArg::dtype);
        let size_bytes = dtype.size_bytes() as u64;
        let gains = (2 * config.num_hidden_layers + 1) as u64 * config.hidden_size as u64;
        let matrices = count_parameters(&config).total - gains;
        let grown = match request.title() {
            title if title.is_empty() => title,
            title => format!(", {title}"),
        };
        Ok(Self {
            name: run_info::words(&args.model) + &grown,
            config,
            weight_bytes: size_bytes * matrices + 4 * gains,
            dtype: dtype.to_string(),
            bytes_per_number: BytesPerNumber::float(size_bytes),
        })
    }

    fn of_headers(args: &ProfileArgs) -> Result<Self, Failure> {
        let opened = opened(args)?;
        let grown = opened.growth()?;
        let precision = args.precision().unwrap_or_else(|| default_precision(opened.checkpoint()));
        let device = device(&args.device)?;
        let weights = AnyDecoder::foresee(&grown.source, precision, &device)?;
        let config = grown.source.config().clone();
        Ok(Self {
            name: opened.full_name(&grown),
            bytes_per_number: bytes_per_number(&config, precision, weights.unshared_bytes(), &device),
            weight_bytes: weights.size_bytes(),
            dtype: weights.main_format().unwrap_or_default().to_owned(),
            config,
        })
    }
}

/// Opens the model of the arguments. If a word names none, and is no path or id of the hub, the failure lists those that a dry run
/// knows.
///
/// # Errors
/// As [`OpenedModel::new`].
pub(super) fn opened(args: &ProfileArgs) -> Result<OpenedModel, Failure> {
    OpenedModel::new(&args.model, Some(&args.growth)).map_err(|failure| {
        if args.model.contains(is_separator) || Path::new(&args.model).exists() {
            return failure;
        }
        let names = DecoderConfig::preset_names();
        if names.contains(&args.model.as_str()) {
            return failure.with_hint_if_not_found("it is a published shape: add --dry-run");
        }
        failure.with_hint_if_not_found(format_args!("published shapes for --dry-run: {}", names.join(", ")))
    })
}

/// The sizes of numbers where weights take `unshared_bytes`, in a precision.
pub(super) fn bytes_per_number(
    config: &DecoderConfig,
    precision: Precision,
    unshared_bytes: u64,
    device: &Device,
) -> BytesPerNumber {
    let bytes = match precision {
        Precision::Float(dtype) => BytesPerNumber::float(dtype.size_bytes() as u64),
        Precision::Mixed => BytesPerNumber { matrix: 2.0, ..BytesPerNumber::float(4) },
        Precision::Blocks(_) => BytesPerNumber::blocks(config, unshared_bytes),
    };
    bytes.with_products_in(precision.product_dtype(), keeps_bfloat16(device))
}
