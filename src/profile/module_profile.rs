//! Where parameters, operations, bytes and time of a decoder go, module by module.

use burn::tensor::Device;
use serde::Serialize;

use super::module_cost::module_costs;
use super::module_time::{ModuleTime, module_times};
use super::throughput::{InferenceRuns, InferenceTest};
use crate::config::DecoderConfig;
use crate::model::CausalLm;
use crate::trace;

/// The path of what is measured outside of the modules that have a cost: rotation, residuals, the loop itself.
const OTHER: &str = "other";

/// The profile of a test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleProfile {
    /// Tokens that the test processes.
    pub num_tokens: usize,
    /// Modules in the order in which they compute, then [what is left](ModuleRow).
    pub modules: Vec<ModuleRow>,
    /// The sums over modules.
    pub total: ModuleRow,
}

/// The cost of a module, and its time if it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleRow {
    /// Its path: `layer.self_attn.qkv_proj`; `other` is what no module accounts for.
    pub path: String,
    /// Its parameters in all layers.
    pub total_parameters: u64,
    /// Those that a token uses.
    pub active_parameters: u64,
    /// Floating-point operations of its matrix products, counted from the config.
    pub flops: f64,
    /// Bytes of weights, keys and values that it reads, counted from the config.
    pub bytes: f64,
    /// Measured seconds: the median over repetitions, synchronized at both ends of each module.
    pub time_s: Option<f64>,
}

impl ModuleRow {
    /// `flops / time`, if it was measured and computes.
    pub fn flops_per_s(&self) -> Option<f64> {
        self.time_s.filter(|time_s| *time_s > 0.0 && self.flops > 0.0).map(|time_s| self.flops / time_s)
    }

    /// `bytes / time`, if it was measured and reads.
    pub fn bytes_per_s(&self) -> Option<f64> {
        self.time_s.filter(|time_s| *time_s > 0.0 && self.bytes > 0.0).map(|time_s| self.bytes / time_s)
    }
}

impl ModuleProfile {
    /// The costs of a test, from the config alone.
    ///
    /// # Panics
    /// If a count reaches `2^128`.
    pub fn counted(config: &DecoderConfig, test: InferenceTest, bytes_per_weight: f64) -> Self {
        let row = |cost: super::module_cost::ModuleCost| ModuleRow {
            path: cost.path.to_owned(),
            total_parameters: cost.parameters.total,
            active_parameters: cost.parameters.active,
            flops: cost.flops as f64,
            bytes: cost.bytes,
            time_s: None,
        };
        let modules = module_costs(config, test, bytes_per_weight).into_iter().map(row).collect();
        Self::new(test, modules)
    }

    /// The costs of a test and its times: one untimed repetition, then `repetitions` of which each module's median counts.
    ///
    /// # Panics
    /// If the test does not fit the model, there is no repetition, or a module executes other operations than its config
    /// counts.
    pub fn measured<M: CausalLm>(
        model: &M,
        test: InferenceTest,
        bytes_per_weight: f64,
        repetitions: usize,
        device: &Device,
    ) -> Self {
        assert!(repetitions > 0, "a repetition to time");
        let Self { mut modules, .. } = Self::counted(model.config(), test, bytes_per_weight);
        let mut runs = InferenceRuns::new(model, test, device);
        runs.run();
        let samples: Vec<Vec<ModuleTime>> =
            (0..repetitions).map(|_| module_times(&trace::record(device, || runs.run()).1)).collect();
        for module in &mut modules {
            let of = |sample: &Vec<ModuleTime>| sample.iter().find(|time| time.path == module.path).cloned();
            let times: Vec<ModuleTime> = samples.iter().filter_map(of).collect();
            let executed = times.first().map_or(0, |time| time.flops);
            assert_eq!(executed as f64, module.flops, "operations of {}", module.path);
            module.time_s = Some(median_s(times.iter().map(|time| time.time_ns)));
        }
        let has_cost = |time: &&ModuleTime| modules.iter().any(|module| module.path == time.path);
        let rest =
            samples.iter().map(|sample| sample.iter().filter(|time| !has_cost(time)).map(|time| time.time_ns).sum());
        let other = ModuleRow { path: OTHER.to_owned(), time_s: Some(median_s(rest)), ..ModuleRow::none() };
        modules.push(other);
        Self::new(test, modules)
    }

    fn new(test: InferenceTest, modules: Vec<ModuleRow>) -> Self {
        let total =
            modules.iter().fold(ModuleRow { path: "total".to_owned(), ..ModuleRow::none() }, |sum, module| ModuleRow {
                total_parameters: sum.total_parameters + module.total_parameters,
                active_parameters: sum.active_parameters + module.active_parameters,
                flops: sum.flops + module.flops,
                bytes: sum.bytes + module.bytes,
                time_s: module.time_s.map(|time_s| time_s + sum.time_s.unwrap_or(0.0)),
                path: sum.path,
            });
        Self { num_tokens: test.batch_size * (test.n_prompt + test.n_gen), modules, total }
    }
}

impl ModuleRow {
    fn none() -> Self {
        Self { path: String::new(), total_parameters: 0, active_parameters: 0, flops: 0.0, bytes: 0.0, time_s: None }
    }
}

/// The median of some durations, in seconds; 0 of none.
fn median_s(times_ns: impl Iterator<Item = u64>) -> f64 {
    let mut times_ns: Vec<u64> = times_ns.collect();
    times_ns.sort_unstable();
    times_ns.get(times_ns.len() / 2).map_or(0.0, |time_ns| *time_ns as f64 / 1e9)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::config::MoeConfig;
    use crate::model::AnyDecoder;
    use crate::weights::MemoryWeights;

    #[test]
    fn each_module_executes_the_operations_that_its_config_counts() {
        let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
        let device = Device::flex();
        for config in [DecoderConfig::pico(), DecoderConfig::pico().with_experts(moe).unwrap()] {
            let model = AnyDecoder::load(&MemoryWeights::untrained(config.clone(), 0.02, 1), &device).unwrap();
            for (n_prompt, n_gen) in [(9, 0), (0, 3), (4, 2)] {
                let test = InferenceTest { n_prompt, n_gen, n_depth: 5, batch_size: 2 };
                let profile = ModuleProfile::measured(&model, test, 4.0, 2, &device);
                assert_eq!(profile.total.flops, test.flops(&config) as f64);
                let measured = profile.modules.iter().all(|module| module.time_s.is_some_and(|time_s| time_s > 0.0));
                assert!(measured, "{profile:?}");
                assert_eq!(profile.modules.last().unwrap().path, OTHER);
            }
        }
    }
}
