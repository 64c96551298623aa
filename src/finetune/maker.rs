//! The program and the device that made a checkpoint.

use serde::{Deserialize, Serialize};

/// What the last bits of the weights depend on besides the settings: others may add in another order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// The version of the program.
    pub version: String,
    /// The name of the device; see [`device`](crate::device::device).
    pub device: String,
}

impl Maker {
    /// This program on the device of a name.
    pub fn this(device: &str) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), device: device.to_owned() }
    }

    /// The differences from the maker of a checkpoint, each as `version: found …, expected …`.
    pub fn differences_from(&self, saved: &Self) -> Vec<String> {
        let fields = [("version", &self.version, &saved.version), ("device", &self.device, &saved.device)];
        let differing = fields.into_iter().filter(|(_, now, saved)| now != saved);
        differing.map(|(name, now, saved)| format!("{name}: found {now}, expected {saved}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_or_device_is_named() {
        let now = Maker::this("flex");
        assert_eq!(now.differences_from(&now), [""; 0]);
        let saved = Maker { version: "0.0.1".to_owned(), device: "cuda".to_owned() };
        let version = format!("version: found {}, expected 0.0.1", env!("CARGO_PKG_VERSION"));
        assert_eq!(now.differences_from(&saved), [version, "device: found flex, expected cuda".to_owned()]);
    }
}
