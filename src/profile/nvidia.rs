//! Counters of an NVIDIA GPU, from the management library of its driver (NVML).

use burn::tensor::Device;
#[cfg(feature = "nvml")]
use nvml_wrapper::Nvml;

#[cfg(feature = "nvml")]
use super::hardware::Hardware;

/// The GPU on which this process computes.
#[cfg(feature = "nvml")]
#[derive(Debug)]
pub struct NvidiaGpu {
    nvml: Box<Nvml>,
    index: u32,
}

#[cfg(feature = "nvml")]
impl NvidiaGpu {
    /// The GPU of a device of CUDA: the only one of the machine, or else the only one on which this process computes, so that
    /// `CUDA_VISIBLE_DEVICES` is respected. `None` if that is not certain, or there is no such library.
    pub fn of(device: &Device) -> Option<Self> {
        if Hardware::of(device) != Hardware::NvidiaGpu {
            return None;
        }
        let nvml = Box::new(Nvml::init().ok()?);
        let all = 0..nvml.device_count().ok()?;
        let computes_here = |index: &u32| {
            let processes = nvml.device_by_index(*index).and_then(|gpu| gpu.running_compute_processes());
            processes.is_ok_and(|processes| processes.iter().any(|process| process.pid == std::process::id()))
        };
        let candidates: Vec<u32> = if all.len() == 1 { all.collect() } else { all.filter(computes_here).collect() };
        let [index] = candidates[..] else { return None };
        Some(Self { nvml, index })
    }

    /// Microjoules that the GPU has used since its driver was loaded, for every process.
    pub fn energy_uj(&self) -> Option<u64> {
        let millijoules = self.nvml.device_by_index(self.index).ok()?.total_energy_consumption().ok()?;
        Some(1000 * millijoules)
    }

    /// Bytes of its memory in use now, by every process.
    pub fn used_bytes(&self) -> Option<u64> {
        Some(self.nvml.device_by_index(self.index).ok()?.memory_info().ok()?.used)
    }
}

/// No GPU: this build has no device of CUDA.
#[cfg(not(feature = "nvml"))]
#[derive(Debug)]
pub enum NvidiaGpu {}

#[cfg(not(feature = "nvml"))]
impl NvidiaGpu {
    /// None.
    pub fn of(_device: &Device) -> Option<Self> {
        None
    }

    /// Microjoules that the GPU has used since its driver was loaded, for every process.
    pub fn energy_uj(&self) -> Option<u64> {
        match *self {}
    }

    /// Bytes of its memory in use now, by every process.
    pub fn used_bytes(&self) -> Option<u64> {
        match *self {}
    }
}
