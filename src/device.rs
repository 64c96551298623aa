//! Devices by name: the backends of this build, each proved by one tensor.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, Tensor};

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    #[error("{name:?} does not work here: {reason}")]
    Broken {
        /// The name given.
        name: String,
        /// The backend's message.
        reason: String,
    },
}

/// The device names of this build; `[:N]` stands for the number of a GPU.
pub fn compiled_devices() -> Vec<&'static str> {
    let compiled = [
        (cfg!(feature = "flex"), "flex"),
        (cfg!(feature = "cuda"), "cuda[:N]"),
        (cfg!(feature = "vulkan"), "vulkan"),
        (cfg!(feature = "ndarray"), "ndarray"),
        (cfg!(feature = "tch"), "tch:cpu"),
        (cfg!(feature = "tch"), "tch:cuda[:N]"),
    ];
    compiled.into_iter().filter_map(|(compiled, name)| compiled.then_some(name)).collect()
}

/// The device called `name`: `flex`, `cuda`, `cuda:1`, `vulkan`, `ndarray`, `tch:cpu`, `tch:cuda:0`, as far as this build
/// has their features. One small tensor is made on it, so that a missing driver is found here.
///
/// # Errors
/// [`DeviceError`].
pub fn device(name: &str) -> Result<Device, DeviceError> {
    let unknown = || DeviceError::Unknown { name: name.to_owned(), known: compiled_devices().join(", ") };
    let make = constructor(name).ok_or_else(unknown)?;
    // Backends panic if a driver is missing.
    let probe = || {
        let device = make();
        Tensor::<1>::ones([1], &device).into_data();
        device
    };
    catch_unwind(AssertUnwindSafe(probe)).map_err(|panic| {
        let reason = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        DeviceError::Broken { name: name.to_owned(), reason: reason.unwrap_or("it panicked").to_owned() }
    })
}

/// Makes the device; `None` if this build has none of that name.
fn constructor(name: &str) -> Option<Box<dyn Fn() -> Device>> {
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

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;

    #[test]
    fn flex_is_in_the_default_build() {
        assert_eq!(device("flex"), Ok(Device::flex()));
    }

    #[test]
    fn an_unknown_device_is_refused_with_those_of_the_build() {
        let error = device("abacus:3").unwrap_err();
        assert!(matches!(&error, DeviceError::Unknown { known, .. } if known.contains("flex")), "{error}");
        assert!(device("flex:1").is_err());
    }
}
