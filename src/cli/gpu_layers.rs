//! llama.cpp's number of layers on a GPU.

use clap::Args;

use super::console;

/// The option, which has no effect: `--device` says where all layers are.
#[derive(Debug, Clone, Args)]
pub struct GpuLayersArgs {
    /// Layers on the GPU, for command lines of llama.cpp: --device says where to compute
    #[arg(long, alias = "gpu-layers", value_name = "N", allow_hyphen_values = true, hide = true)]
    pub n_gpu_layers: Option<String>,
}

impl GpuLayersArgs {
    /// Says on stderr that the option has no effect, if it was given.
    pub(super) fn note(&self) {
        if let Some(layers) = &self.n_gpu_layers {
            console::tell(format_args!("note: --n-gpu-layers {layers} has no effect: --device says where to compute"));
        }
    }
}
