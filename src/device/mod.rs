//! Devices by name: the backends of this build. A device other than the reference is used only if its numbers are right.

#[cfg(feature = "flex")]
mod check;
mod panics;
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(all(test, feature = "cube"))]
pub(crate) use tests::cube::devices as cube_devices;

pub use burn::tensor::Device;
use burn::tensor::Tensor;

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// This build has no backend of that name.
    #[error("{name:?} is not a device of this build, expected one of: {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The names of this build, separated by commas.
        known: String,
    },
    /// The backend fails on this machine, for example without a driver.
    #[error("{name:?} does not work here: {reason}; it needs {needs}")]
    Broken {
        /// The name given.
        name: String,
        /// The backend's message.
        reason: String,
        /// What a machine with this device has.
        needs: &'static str,
    },
    /// Work on a device that was opened fails, for example for lack of memory.
    #[error("{name:?} failed: {reason}")]
    Failed {
        /// The name given.
        name: String,
        /// The backend's message.
        reason: String,
    },
    /// An operation gives other numbers than on the CPU.
    #[error("{name:?} computes wrong numbers here: {operation}, element {index}: found {found}, expected {expected}")]
    Wrong {
        /// The name given.
        name: String,
        /// The operation.
        operation: &'static str,
        /// Position in its result, row-major.
        index: usize,
        /// The number of the device.
        found: f32,
        /// That of the CPU.
        expected: f32,
    },
}

/// The device names of this build; `[:N]` stands for the number of a GPU.
pub fn compiled_devices() -> Vec<&'static str> {
    let compiled = [
        (cfg!(feature = "flex"), "flex"),
        (cfg!(feature = "cuda"), "cuda[:N]"),
        (cfg!(feature = "vulkan"), "vulkan"),
        (cfg!(feature = "wgpu"), "wgpu"),
        (cfg!(feature = "ndarray"), "ndarray"),
        (cfg!(feature = "tch"), "tch:cpu"),
        (cfg!(feature = "tch"), "tch:cuda[:N]"),
    ];
    compiled.into_iter().filter_map(|(compiled, name)| compiled.then_some(name)).collect()
}

/// The device called `name`: `flex`, `cuda`, `cuda:1`, `vulkan`, `wgpu`, `ndarray`, `tch:cpu`, `tch:cuda:0`, as far as this build
/// has their features.
///
/// A small tensor is made on it, so that a missing driver is found here. Every device but `flex` then runs each operation of
/// a decoder once on small inputs, and is refused if a result is not that of `flex`.
///
/// # Errors
/// [`DeviceError`].
pub fn device(name: &str) -> Result<Device, DeviceError> {
    let unknown = || DeviceError::Unknown { name: name.to_owned(), known: compiled_devices().join(", ") };
    let make = constructor(name).ok_or_else(unknown)?;
    let device = opened(name, make)?;
    #[cfg(feature = "flex")]
    if device != Device::flex()
        && let Some(difference) = attempt(name, || check::first_difference(&device))?
    {
        let check::Difference { operation, index, found, expected } = difference;
        return Err(DeviceError::Wrong { name: name.to_owned(), operation, index, found, expected });
    }
    Ok(device)
}

/// The device, after a tensor went there and back. Backends panic if a driver is missing.
fn opened(name: &str, make: Constructor) -> Result<Device, DeviceError> {
    let broken = |reason| DeviceError::Broken { name: name.to_owned(), reason, needs: needs_of(name) };
    let there_and_back = || {
        let device = make();
        Tensor::<1>::ones([1], &device).into_data();
        device
    };
    panics::caught(there_and_back).map_err(broken)
}

/// Runs `work` on the device called `name`. Backends panic if something fails, as an allocation.
///
/// # Errors
/// [`DeviceError::Failed`] with the message of the first panic.
pub fn attempt<T>(name: &str, work: impl FnOnce() -> T) -> Result<T, DeviceError> {
    panics::caught(work).map_err(|reason| DeviceError::Failed { name: name.to_owned(), reason })
}

/// Whether the device of this name is the processor, and its tensors are in main memory.
pub fn is_cpu(name: &str) -> bool {
    ["flex", "ndarray", "tch:cpu"].contains(&name)
}

/// What a machine has on which the device works.
fn needs_of(name: &str) -> &'static str {
    match name.split(':').next() {
        Some("cuda") => "an NVIDIA GPU, its driver (libcuda), and NVRTC with the headers of CUDA",
        Some("vulkan") => "a GPU with a Vulkan driver",
        Some("wgpu") => "a GPU with a driver for Vulkan, Metal or DirectX 12",
        Some("tch") if name != "tch:cpu" => "an NVIDIA GPU and a libtorch that is built for CUDA",
        _ => "nothing but a CPU, so this is a defect",
    }
}

type Constructor = Box<dyn Fn() -> Device>;

/// Makes the device; `None` if this build has none of that name.
fn constructor(name: &str) -> Option<Constructor> {
    let (kind, index) = name.split_once(':').unwrap_or((name, ""));
    match (kind, index) {
        #[cfg(feature = "flex")]
        ("flex", "") => Some(Box::new(Device::flex)),
        #[cfg(feature = "cuda")]
        ("cuda", index) => {
            let index: usize = if index.is_empty() { 0 } else { index.parse().ok()? };
            Some(Box::new(move || Device::cuda(index)))
        }
        #[cfg(feature = "vulkan")]
        ("vulkan", "") => Some(Box::new(|| Device::vulkan(burn::tensor::DeviceKind::DefaultDevice))),
        #[cfg(feature = "wgpu")]
        ("wgpu", "") => Some(Box::new(|| Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "Burn keeps NdArray for those who ask for it")]
        ("ndarray", "") => Some(Box::new(Device::ndarray)),
        #[cfg(feature = "tch")]
        #[expect(deprecated, reason = "Burn keeps LibTorch for those who ask for it")]
        ("tch", "cpu") => Some(Box::new(Device::libtorch)),
        #[cfg(feature = "tch")]
        #[expect(deprecated, reason = "Burn keeps LibTorch for those who ask for it")]
        ("tch", index) => {
            let index = index.strip_prefix("cuda")?;
            let index: usize = if index.is_empty() { 0 } else { index.strip_prefix(':')?.parse().ok()? };
            Some(Box::new(move || Device::libtorch_cuda(index)))
        }
        _ => None,
    }
}
