//! A YAML plan.

#![no_main]

use deepwide::growth::mergekit::MergeConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = MergeConfig::parse("plan.yml", bytes) {
        assert!(!error.to_string().is_empty());
    }
});
