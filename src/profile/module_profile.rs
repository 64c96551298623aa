//! Where parameters, operations, bytes and time of a decoder go, module by module.

use burn::tensor::Device;
use serde::Serialize;

use super::convention::FlopConvention;
use super::energy::EnergyCounter;
use super::module_cost::{BytesPerNumber, ModuleCost, module_costs};
use super::module_time::ModuleTime;
use super::profile_test::ProfileTest;
use super::throughput::{InferenceRuns, InferenceTest, train_runs};
use super::timing::{Samples, Timing};
use crate::config::DecoderConfig;
use crate::kernel::linear;
use crate::model::CausalLm;
use crate::train::TrainError;

/// The path of what is measured outside of the modules that have a cost: rotation, residuals, the loop itself.
const OTHER: &str = "other";
/// Parts of an update after its forward pass, as spans name them.
const AFTER_FORWARD: [&str; 3] = [BACKWARD, "clipping", "optimizer"];
const BACKWARD: &str = "backward";

/// The profile of a test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleProfile {
    /// Tokens that the test processes.
    pub num_tokens: usize,
    /// What measured the times of modules; `None` if nothing did.
    pub timing: Option<Timing>,
    /// Seconds of a whole repetition by the host's clock, the median of repetitions without events; `None` if times are not by events,
    /// whose sum lacks the time in which the device waits for the host.
    pub run_time_s: Option<f64>,
    /// Joules of the processor or GPU during the timed repetitions, of those without events if there are such; `None` where no
    /// counter can be read, for less than a second on a GPU, and if nothing was measured.
    pub energy_j: Option<f64>,
    /// Modules in the order in which they compute, then [the rest](ModuleRow).
    pub modules: Vec<ModuleRow>,
    /// The sums over modules.
    pub total: ModuleRow,
}

/// How costs are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counting {
    /// What counts as FLOPs.
    pub convention: FlopConvention,
    /// FLOPs of a multiply-add: 2, or 1 to count multiply-adds (MACs).
    pub flops_per_mac: u8,
    /// Sizes of weights, keys and values.
    pub bytes_per_number: BytesPerNumber,
}

/// The cost of a module, and its time if it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleRow {
    /// Its path: `layer.self_attn.qkv_proj`. `backward`, `clipping` and `optimizer` are the parts of an update after its forward
    /// pass, `other` is what no module accounts for.
    pub path: String,
    /// Its parameters in all layers.
    pub total_parameters: u64,
    /// Those that a token uses.
    pub active_parameters: u64,
    /// Floating-point operations of its forward passes, counted from the config; those of the row `backward` are the sum of
    /// all `backward_flops`.
    pub flops: f64,
    /// Operations of its gradients; 0 in inference.
    pub backward_flops: f64,
    /// Bytes of weights, keys and values that its forward passes read, counted from the config; those of the row `backward` are
    /// what gradients read.
    pub bytes: f64,
    /// Measured seconds: the median over repetitions, by the clock that the profile [names](ModuleProfile::timing).
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

    fn of(cost: ModuleCost, counting: Counting) -> Self {
        let scale = f64::from(counting.flops_per_mac) / 2.0;
        Self {
            path: cost.path.to_owned(),
            total_parameters: cost.parameters.total,
            active_parameters: cost.parameters.active,
            flops: scale * cost.flops as f64,
            backward_flops: scale * cost.backward_flops as f64,
            bytes: cost.bytes,
            time_s: None,
        }
    }

    fn named(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            total_parameters: 0,
            active_parameters: 0,
            flops: 0.0,
            backward_flops: 0.0,
            bytes: 0.0,
            time_s: None,
        }
    }
}

impl ModuleProfile {
    /// The costs of a test, from the config alone.
    ///
    /// # Panics
    /// If a count reaches `2^128`.
    pub fn counted(config: &DecoderConfig, test: impl Into<ProfileTest>, counting: Counting) -> Self {
        let test = test.into();
        let costs = module_costs(config, test, counting.bytes_per_number, counting.convention);
        let backward_bytes: f64 = costs.iter().map(|cost| cost.backward_bytes).sum();
        let mut modules: Vec<ModuleRow> = costs.into_iter().map(|cost| ModuleRow::of(cost, counting)).collect();
        if matches!(test, ProfileTest::Training { .. }) {
            let flops = modules.iter().map(|module| module.backward_flops).sum();
            modules.push(ModuleRow { flops, bytes: backward_bytes, ..ModuleRow::named(BACKWARD) });
        }
        Self::new(test, modules)
    }

    /// The costs of a test and its times: one untimed repetition, then `repetitions` of which each module's median counts. If they are
    /// timed by events, as many without events follow.
    ///
    /// # Panics
    /// If the test does not fit the model, there is no repetition, or a module executes other operations than its config
    /// counts.
    pub fn measured<M: CausalLm>(
        model: &M,
        test: InferenceTest,
        counting: Counting,
        repetitions: usize,
        device: &Device,
    ) -> Self {
        assert!(repetitions > 0, "a repetition to time");
        let mut runs = InferenceRuns::new(model, test, device);
        runs.run();
        let samples = Samples::of(repetitions, device, EnergyCounter::of(device).as_ref(), || runs.run());
        Self::timed(model.config(), test.into(), counting, &samples, device)
    }

    /// As [`measured`](Self::measured), of updates with AdamW on sequences of different tokens. Modules have the times of their
    /// forward pass, in which the head computes its gradients too. Returns the trained model.
    ///
    /// # Errors
    /// [`TrainError`].
    ///
    /// # Panics
    /// As [`measured`](Self::measured), or if `device` does not record gradients.
    pub fn measured_training<M: CausalLm>(
        model: M,
        [batch_size, seq_length]: [usize; 2],
        counting: Counting,
        repetitions: usize,
        device: &Device,
    ) -> Result<(Self, M), TrainError> {
        assert!(repetitions > 0, "a repetition to time");
        let config = model.config().clone();
        // The first update allocates the moments of AdamW, the second what those displaced.
        let num_warmups = 2;
        // If events time the repetitions, as many without follow.
        let num_steps = num_warmups + 2 * repetitions;
        let (samples, model) = train_runs(model, batch_size, seq_length, num_steps, device, |step| {
            for _ in 0..num_warmups {
                step();
            }
            Samples::of(repetitions, device, EnergyCounter::of(device).as_ref(), step)
        })?;
        let test = ProfileTest::Training { batch_size, seq_length };
        Ok((Self::timed(&config, test, counting, &samples, device), model))
    }

    /// Adds the medians of times to counts, and rows for what has a time and no count. Gradients of a device without kernels
    /// are those of automatic differentiation, which counts nothing.
    fn timed(
        config: &DecoderConfig,
        test: ProfileTest,
        counting: Counting,
        samples: &Samples,
        device: &Device,
    ) -> Self {
        let Self { mut modules, .. } = Self::counted(config, test, counting);
        let Samples { timing, modules: samples, runs_ns, energy_j } = samples;
        let counts_gradients = linear::has_kernel(device);
        for cost in module_costs(config, test, counting.bytes_per_number, FlopConvention::Causal) {
            let found = samples[0].iter().find(|time| module_path(time) == cost.path);
            let [flops, backward_flops] =
                found.map_or([0, 0], |time| [time.flops, time.backward_flops]).map(u128::from);
            assert_eq!(flops, cost.flops, "operations of {}", cost.path);
            assert!(
                !counts_gradients || backward_flops == cost.backward_flops,
                "operations of the gradients of {}: found {backward_flops}, expected {}",
                cost.path,
                cost.backward_flops
            );
        }
        let has_time = |path: &&str| samples[0].iter().any(|time| module_path(time) == *path);
        let after = AFTER_FORWARD.into_iter().filter(|path| *path != BACKWARD).filter(has_time);
        modules.extend(after.map(ModuleRow::named));
        for module in &mut modules {
            let of = |sample: &Vec<ModuleTime>| {
                sample.iter().filter(|time| module_path(time) == module.path).map(|time| time.time_ns).sum()
            };
            module.time_s = Some(median_s(samples.iter().map(of)));
        }
        let has_row = |time: &&ModuleTime| modules.iter().any(|module| module.path == module_path(time));
        let rest =
            samples.iter().map(|sample| sample.iter().filter(|time| !has_row(time)).map(|time| time.time_ns).sum());
        let other = ModuleRow { time_s: Some(median_s(rest)), ..ModuleRow::named(OTHER) };
        modules.push(other);
        let run_time_s = (!runs_ns.is_empty()).then(|| median_s(runs_ns.iter().copied()));
        Self { timing: Some(*timing), run_time_s, energy_j: *energy_j, ..Self::new(test, modules) }
    }

    fn new(test: ProfileTest, modules: Vec<ModuleRow>) -> Self {
        let total = modules.iter().fold(ModuleRow::named("total"), |sum, module| ModuleRow {
            total_parameters: sum.total_parameters + module.total_parameters,
            active_parameters: sum.active_parameters + module.active_parameters,
            flops: sum.flops + module.flops,
            backward_flops: sum.backward_flops + module.backward_flops,
            bytes: sum.bytes + module.bytes,
            time_s: module.time_s.map(|time_s| time_s + sum.time_s.unwrap_or(0.0)),
            path: sum.path,
        });
        Self { num_tokens: test.num_tokens(), timing: None, run_time_s: None, energy_j: None, modules, total }
    }
}

/// The path of a module in the decoder: that of its span, without the part of an update that computes it. Gradients of all modules,
/// and what is computed again for them, are `backward`.
fn module_path(time: &ModuleTime) -> &str {
    let path = time.path.as_str();
    match path.split_once('.') {
        Some((BACKWARD, _)) => BACKWARD,
        Some(("forward" | "loss", inner)) => inner,
        _ => path,
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
    #[cfg(feature = "wgpu")]
    use crate::kernel::launch_times::has_events;
    use crate::model::AnyDecoder;
    use crate::profile::flops::train_flops;
    use crate::weights::MemoryWeights;

    const COUNTING: Counting = Counting {
        convention: FlopConvention::Causal,
        flops_per_mac: 2,
        bytes_per_number: BytesPerNumber { matrix: 4.0, router: 4.0, cached: 4.0 },
    };

    fn models() -> Vec<MemoryWeights> {
        let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
        let configs = [DecoderConfig::pico(), DecoderConfig::pico().with_experts(moe).unwrap()];
        configs.map(|config| MemoryWeights::untrained(config, 0.02, 1)).into()
    }

    #[test]
    fn each_module_executes_the_operations_that_its_config_counts() {
        let device = Device::flex();
        for weights in models() {
            let model = AnyDecoder::load(&weights, &device).unwrap();
            for (n_prompt, n_gen) in [(9, 0), (0, 3), (4, 2)] {
                let test = InferenceTest { n_prompt, n_gen, n_depth: 5, batch_size: 2 };
                let profile = ModuleProfile::measured(&model, test, COUNTING, 2, &device);
                assert_eq!(profile.total.flops, test.flops(model.config()) as f64);
                let measured = profile.modules.iter().all(|module| module.time_s.is_some_and(|time_s| time_s > 0.0));
                assert!(measured, "{profile:?}");
                assert_eq!(profile.modules.last().unwrap().path, OTHER);
                assert_eq!((profile.timing, profile.run_time_s), (Some(Timing::HostClock), None));
            }
        }
    }

    #[test]
    fn an_update_has_the_modules_of_its_forward_pass_and_what_follows() {
        let device = Device::flex().autodiff();
        for weights in models() {
            let model = AnyDecoder::load(&weights, &device).unwrap();
            let (profile, model) = ModuleProfile::measured_training(model, [2, 7], COUNTING, 1, &device).unwrap();
            assert_eq!(profile.total.flops, train_flops(model.config(), 2, 7) as f64);
            let measured = profile.modules.iter().all(|module| module.time_s.is_some_and(|time_s| time_s > 0.0));
            assert!(measured, "{profile:?}");
            let last: Vec<&str> = profile.modules.iter().rev().take(4).rev().map(|row| row.path.as_str()).collect();
            assert_eq!(last, ["backward", "clipping", "optimizer", "other"]);
        }
    }

    #[test]
    #[cfg(feature = "ndarray")]
    fn an_update_without_kernels_has_the_operations_of_its_config() {
        let device = crate::device::device("ndarray").unwrap().autodiff();
        for weights in models() {
            let model = AnyDecoder::load(&weights, &device).unwrap();
            let (profile, model) = ModuleProfile::measured_training(model, [2, 7], COUNTING, 1, &device).unwrap();
            assert_eq!(profile.total.flops, train_flops(model.config(), 2, 7) as f64);
        }
    }

    #[test]
    #[cfg(feature = "wgpu")]
    fn modules_are_timed_by_events_where_the_device_has_them() {
        let opened = crate::device::device("wgpu");
        let Ok(device) = opened.inspect_err(|error| eprintln!("not run: {error}")) else { return };
        let timing = if has_events(&device) { Timing::DeviceEvents } else { Timing::HostClock };
        for weights in models() {
            let model = AnyDecoder::load(&weights, &device).unwrap();
            let test = InferenceTest { n_prompt: 9, n_gen: 1, n_depth: 0, batch_size: 1 };
            let profile = ModuleProfile::measured(&model, test, COUNTING, 1, &device);
            let model = AnyDecoder::load(&weights, &device.clone().autodiff()).unwrap();
            let trained = ModuleProfile::measured_training(model, [1, 7], COUNTING, 1, &device.clone().autodiff());
            let trained = trained.unwrap().0;
            for path in [BACKWARD, "optimizer"] {
                let time_s = trained.modules.iter().find(|module| module.path == path).and_then(|module| module.time_s);
                assert!(time_s > Some(0.0), "{path}: {trained:?}");
            }
            for profile in [profile, trained] {
                assert_eq!(
                    (profile.timing, profile.run_time_s.is_some()),
                    (Some(timing), timing == Timing::DeviceEvents)
                );
                let products = profile.modules.iter().filter(|module| module.flops > 0.0);
                assert!(
                    products.clone().count() > 4 && products.clone().all(|module| module.time_s > Some(0.0)),
                    "{profile:?}"
                );
            }
        }
    }
}
