//! The options of an output format.

use super::super::failure::Failure;
use super::args::{GgufArg, GrowArgs, LayoutArg, OutType};
use crate::formats::gguf::GgufFileType;
use crate::formats::hf::{HfOptions, Layout};
use crate::upscale::OutputFormat;
use crate::weights::Strictness;

/// The format that was asked for; options of another one are refused.
pub(super) fn output_format(args: &GrowArgs) -> Result<OutputFormat, Failure> {
    let number_type = match args.out_type {
        OutType::Hf => {
            return Ok(OutputFormat::Hf(HfOptions {
                dtype: args.dtype.map(|dtype| dtype.dtype()),
                max_shard_bytes: args.out_shard_size,
                layout: match args.moe_layout {
                    LayoutArg::V4 => Layout::PerExpert,
                    LayoutArg::V5 => Layout::Fused,
                },
                strictness: Strictness { allow_nonfinite: args.allow_nonfinite, saturate: args.saturate },
            }));
        }
        OutType::Gguf(number_type) => number_type,
    };
    if let Some(option) = args.hf_options() {
        return Err(Failure::usage(format_args!(
            "{option} beside --out-type gguf: expected it with Hugging Face's format alone"
        )));
    }
    let file_type = match number_type {
        GgufArg::F32 => GgufFileType::F32,
        GgufArg::F16 => GgufFileType::F16,
        GgufArg::Bf16 => GgufFileType::Bf16,
        GgufArg::Q8_0 => GgufFileType::Q8_0,
        GgufArg::Q4_0 => GgufFileType::Q4_0,
        GgufArg::Q4K => GgufFileType::Q4_K,
        GgufArg::Q2K => GgufFileType::Q2_K,
    };
    Ok(OutputFormat::Gguf { file_type, allow_nonfinite: args.allow_nonfinite })
}
