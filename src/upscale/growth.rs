//! The grown view of a request.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::mergekit_configs::mergekit_configs;
use super::noise::NoiseSample;
use super::{UpscaleError, router_rows};
use crate::config::DecoderConfig;
use crate::formats::Checkpoint;
use crate::formats::peft::PeftDirectory;
use crate::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, RouterInit, UpcyclePlan};
use crate::weights::{Dtype, LayerTensor, Projection, TensorId, WeightSource};

/// Layers beyond which a request is probably a typing error.
pub const MAX_LAYERS: usize = 1024;

/// Cap on experts per layer.
const MAX_EXPERTS: usize = 4096;

/// How a base is to be grown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrowthRequest {
    /// The growths in order.
    pub plans: Vec<GrowthPlan>,
    /// A file with the prompts of one expert per line; the routers of an upcycle are computed from them.
    pub prompts: Option<PathBuf>,
}

impl GrowthRequest {
    /// The shape that a base of shape `base` grows to.
    ///
    /// # Errors
    /// [`UpscaleError::Plan`].
    pub fn config(&self, base: &DecoderConfig) -> Result<DecoderConfig, UpscaleError> {
        Ok(self.plans.iter().try_fold(base.clone(), |config, plan| plan.config(&config))?)
    }

    /// The growths in words; empty if there is none.
    pub fn title(&self) -> String {
        self.plans.iter().map(GrowthPlan::to_string).collect::<Vec<_>>().join(", then ")
    }
}

/// A grown view, and what is worth knowing of it before it is written.
pub struct Growth<'a> {
    /// The view.
    pub source: Grown<&'a Checkpoint>,
    /// What may not be meant.
    pub warnings: Vec<String>,
    /// Files of mergekit with which the growth can be repeated, in order and by name: one for each of the first plans, up to one
    /// that mergekit has no keys for.
    pub configs: Vec<(String, Vec<u8>)>,
    /// Whether the view computes the function of its base, up to rounding.
    pub preserves: bool,
    /// Whether weights are computed on the way, and so rounded to their type.
    pub rounds: bool,
    /// Numbers without and with the noise that is added.
    pub noise: Option<NoiseSample>,
}

impl<'a> Growth<'a> {
    /// Grows a base, which `name` calls in a mergekit file. No weight is read but for noise and for routers of prompts.
    ///
    /// # Errors
    /// [`UpscaleError`].
    pub fn of_base(base: &'a Checkpoint, name: &str, request: &GrowthRequest) -> Result<Self, UpscaleError> {
        let mut growth = Self {
            source: Grown::all(base, [])?,
            warnings: Vec::new(),
            configs: Vec::new(),
            preserves: true,
            rounds: false,
            noise: None,
        };
        for plan in &request.plans {
            growth = match plan {
                GrowthPlan::Upcycle(upcycle) => growth.widen(*upcycle, request.prompts.as_deref(), base)?,
                plan => growth.then(plan.clone())?,
            };
        }
        growth.source.check_types()?;
        growth.configs = mergekit_configs(name, base.config(), &request.plans, request.prompts.is_none())?;
        Ok(growth)
    }

    /// The base with the updates of an adapter added. Each sum is rounded to the type of its matrix, or stays float32 if `widened`,
    /// as every weight then is: for a type to write that is another.
    ///
    /// # Errors
    /// [`UpscaleError`], also if the adapter does not fit the base.
    pub fn of_adapter(base: &'a Checkpoint, adapter: &PeftDirectory, widened: bool) -> Result<Self, UpscaleError> {
        let plans = widened.then_some(GrowthPlan::Cast { dtype: Dtype::Float32 }).into_iter().collect();
        Self::of_base(base, "", &GrowthRequest { plans, prompts: None })?.with_adapter(adapter)
    }

    /// Adds the updates of an adapter, each sum rounded to the type of its matrix.
    ///
    /// # Errors
    /// [`UpscaleError`], also if the adapter does not fit the grown model.
    pub fn with_adapter(self, adapter: &PeftDirectory) -> Result<Self, UpscaleError> {
        let name = name_in_record(adapter.path());
        let (blake3, config_blake3) = (adapter.blake3()?, adapter.config_blake3().to_owned());
        let adapter = Arc::new(adapter.read(self.source.config())?);
        let adapted = self.then(GrowthPlan::Lora { adapter, name, blake3, config_blake3 })?;
        adapted.source.check_types()?;
        Ok(adapted)
    }

    /// Whether anything is done to the base.
    pub(super) fn is_grown(&self) -> bool {
        self.source.plans().next().is_some()
    }

    /// Whether an adapter is added.
    pub(super) fn merges_adapter(&self) -> bool {
        self.source.plans().any(|plan| matches!(plan, GrowthPlan::Lora { .. }))
    }

    /// The growths in words.
    pub fn title(&self) -> String {
        let plans: Vec<String> = self.source.plans().map(GrowthPlan::to_string).collect();
        if plans.is_empty() { "a copy".to_owned() } else { plans.join(", then ") }
    }

    /// The growths for a record. Routers that replace those of an upcycle are recorded with it.
    pub fn record(&self) -> Vec<Value> {
        let mut records: Vec<Value> = Vec::new();
        for plan in self.source.plans() {
            match (plan, records.last_mut()) {
                (GrowthPlan::Routers { rows, prompts }, Some(upcycle)) => {
                    upcycle["router"] = json!({"kind": "hidden", "prompts": prompts, "blake3": rows});
                }
                _ => records.push(json!(plan)),
            }
        }
        records
    }

    fn then(mut self, plan: GrowthPlan) -> Result<Self, UpscaleError> {
        let before = self.source.config();
        self.warnings.extend(warnings(&plan, before.num_hidden_layers)?);
        self.preserves &= plan.preserves_function(before)?;
        self.rounds |= plan.rounds();
        self.source = self.source.then(plan)?;
        let found = self.source.config().moe.map_or(0, |moe| moe.num_local_experts);
        if found > MAX_EXPERTS {
            return Err(UpscaleError::TooManyExperts { found, limit: MAX_EXPERTS });
        }
        Ok(self)
    }

    fn widen(self, plan: UpcyclePlan, prompts: Option<&Path>, base: &Checkpoint) -> Result<Self, UpscaleError> {
        let dense = self.source.clone();
        let mut wide = self.then(GrowthPlan::Upcycle(plan))?;
        let copies = plan.copies(dense.config().intermediate_size);
        wide.warnings.extend(warnings_of_mixture(&plan, copies));
        if let (ExpertInit::Noise { relative_std }, false) = (plan.init, copies) {
            let still = dense.clone().then(GrowthPlan::Upcycle(UpcyclePlan { init: ExpertInit::Copy, ..plan }))?;
            let expert = TensorId::Layer(0, LayerTensor::Expert(0, Projection::Gate));
            wide.noise = Some(NoiseSample::read(format!("noise {relative_std}"), &still, &wide.source, expert)?);
        }
        let Some(file) = prompts else { return Ok(wide) };
        let rows = router_rows::from_file(file, &dense, base, plan.num_local_experts)?;
        wide.then(GrowthPlan::Routers { rows, prompts: Some(name_in_record(file)) })
    }
}

/// The name of a file in a record; of an absolute path the last component. A relative one is kept, so that the recorded
/// command finds it again; a model card has less, by [`Sources::readable_names`](super::Sources::readable_names).
pub(super) fn name_in_record(file: &Path) -> String {
    match file.file_name() {
        Some(name) if file.is_absolute() => name.to_string_lossy().into_owned(),
        _ => file.to_string_lossy().into_owned(),
    }
}

/// What a growth of `num_layers` layers does that may not be meant.
fn warnings(plan: &GrowthPlan, num_layers: usize) -> Result<Vec<String>, UpscaleError> {
    let mut warnings = Vec::new();
    if let Some(layers) = plan.layers(num_layers)? {
        if *plan == (GrowthPlan::DepthUpScaling { overlap: 0 }) {
            warnings.push(format!(
                "overlap m = 0 drops no layer: each of the {num_layers} layers is there twice, {} in all",
                2 * num_layers
            ));
        }
        let unused = layers.unused_layers();
        if !unused.is_empty() {
            warnings.push(format!("layers {unused:?} of the base are left out"));
        }
        if layers == LayerPlan::identity(num_layers)? {
            warnings.push("the result has the layers of the base, in their order: nothing grows deep".to_owned());
        }
    }
    if *plan == (GrowthPlan::Granularity { num_parts: 1 }) {
        warnings.push("granularity 1 cuts nothing: each expert is one part".to_owned());
    }
    Ok(warnings)
}

fn warnings_of_mixture(plan: &UpcyclePlan, copies: bool) -> Vec<String> {
    let (experts, visited) = (plan.num_local_experts, plan.num_experts_per_tok);
    let mut warnings = Vec::new();
    if experts == 1 {
        warnings.push("there is 1 expert: the router has nothing to decide".to_owned());
    } else if copies && experts == visited {
        warnings.push(format!(
            "every token visits all {experts} experts, which are copies: nothing but {experts} times the cost of one MLP"
        ));
    } else if copies && plan.router == RouterInit::Zero {
        warnings.push(
            "a router of zeros before identical experts: every token visits the first ones, and nothing but the \
             balancing loss will tell them apart"
                .to_owned(),
        );
    }
    let asked = match plan.init {
        ExpertInit::Noise { relative_std } => Some(format!("noise {relative_std}")),
        ExpertInit::Drop { ratio } => Some(format!("drop ratio {ratio}")),
        ExpertInit::Copy => None,
    };
    if let Some(asked) = asked.filter(|_| copies) {
        warnings.push(format!("{asked} changes no number: the experts are copies"));
    }
    warnings
}
