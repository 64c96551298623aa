//! From what was asked for to a view that can be read: nothing is written here, and no weight read but by routers that
//! are made of prompts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{CliError, console, hub, run_info::words};
use super::args::{DepthArg, GrowArgs, GrowthArgs, RouterArg};
use super::gates;
use super::noise::Noise;
use crate::growth::mergekit::{ChatTemplate, MergeConfig, ModelRef, TokenizerSource, passthrough_yaml};
use crate::growth::{BlockExpansion, ExpertInit, FineGrained, GivenRouters, Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use crate::weights::disk::Disk;
use crate::weights::gguf::GgufVocabulary;
use crate::weights::{Checkpoint, Inherited, LayerTensor, Projection, TensorId, WeightSource};

/// Largest mergekit file that is read: beyond any written by hand.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// Experts beyond which a plan is taken for a typing error: each has to be listed.
const MOST_EXPERTS: usize = 4096;

/// What to grow, its sources opened.
pub(super) struct Request {
    /// The distinct checkpoints that it reads.
    pub bases: Vec<Checkpoint>,
    /// As each was named.
    pub names: Vec<String>,
    /// The ids on the hub among the names, without revisions.
    pub hub_ids: Vec<String>,
    /// Place of the one whose tokenizer and config keys the result has.
    pub parent: usize,
    merge: Option<(MergeConfig, Vec<u8>)>,
}

/// A grown source, not read yet.
pub(in crate::cli) struct Growth<'a> {
    /// Its weights.
    pub source: Box<dyn WeightSource + 'a>,
    /// What was done, in the order in which it was.
    pub operators: Vec<Value>,
    /// In words, the same.
    pub title: String,
    /// What may not be meant.
    pub warnings: Vec<String>,
    /// Files that say how to make it again.
    pub kept: Vec<(String, Vec<u8>)>,
    /// Whether it computes the function of its one base.
    pub preserves: bool,
    /// Whether numbers are computed on the way, and so rounded to the type that they have.
    pub rounds: bool,
    /// Some of the weights that noise is added to, if any is.
    pub noise: Option<Noise>,
}

impl Request {
    /// Reads the mergekit file, if it is one, and opens the headers of every model.
    pub fn open(args: &GrowArgs, disk: &Arc<dyn Disk>) -> Result<Self, CliError> {
        let path = Path::new(&args.source);
        if !path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            if args.mergekit_compat {
                return Err(CliError::OptionBesideBase { option: "--mergekit-compat", base: args.source.clone() });
            }
            let base = opened(disk, &args.source, &hub::locate(&args.source)?)?;
            let hub_ids = hub_id(Path::new(""), &args.source).into_iter().collect();
            return Ok(Self { bases: vec![base], names: vec![args.source.clone()], hub_ids, parent: 0, merge: None });
        }
        if let Some(&option) = args.growth.options().first() {
            return Err(CliError::OptionBesideMerge { option, path: path.to_owned() });
        }
        let text = crate::weights::read_bounded(&**disk, path, CONFIG_LIMIT_BYTES)?;
        let merge = MergeConfig::parse(&args.source, &text)?;
        let open = |model: &ModelRef| opened(disk, &model.to_string(), &place(path, model)?);
        let bases = merge.open_models(open)?;
        let names: Vec<String> = merge.models().iter().map(ModelRef::to_string).collect();
        let beside = path.parent().unwrap_or(Path::new(""));
        let hub_ids = names.iter().filter_map(|name| hub_id(beside, name)).collect();
        let parent = match &merge {
            MergeConfig::Moe(config) => config.base_model(),
            MergeConfig::Passthrough(config) => match config.tokenizer() {
                Some(TokenizerSource::Model(model)) => merge.models().iter().position(|m| m == model).unwrap_or(0),
                _ => config.base_model().unwrap_or(0),
            },
        };
        Ok(Self { bases, names, hub_ids, parent, merge: Some((merge, text)) })
    }

    /// The checkpoint whose tokenizer and config keys the result has.
    pub fn parent(&self) -> &Checkpoint {
        &self.bases[self.parent]
    }

    /// Whether a mergekit file says what to do.
    pub fn is_merge(&self) -> bool {
        self.merge.is_some()
    }

    /// What the result has from its parent besides weights.
    pub fn inherited(&self, disk: &dyn Disk) -> Result<Inherited, CliError> {
        let mut inherited = self.parent().inherited()?;
        if let Some(template) = self.chat_template() {
            inherited.set_chat_template(disk, template)?;
        }
        Ok(inherited)
    }

    /// The same in the form that GGUF has for it.
    pub fn gguf_vocabulary(&self) -> Result<GgufVocabulary, CliError> {
        let mut vocabulary = self.parent().gguf_vocabulary()?;
        if let Some(template) = self.chat_template() {
            vocabulary.chat_template = Some(template.to_owned());
        }
        Ok(vocabulary)
    }

    /// The chat template that a mergekit file has for the result, in Jinja.
    fn chat_template(&self) -> Option<&str> {
        match &self.merge {
            Some((MergeConfig::Passthrough(config), _)) => match config.chat_template() {
                Some(ChatTemplate::Jinja(template)) => Some(template),
                _ => None,
            },
            _ => None,
        }
    }

    /// The view.
    pub fn growth(&self, args: &GrowArgs) -> Result<Growth<'_>, CliError> {
        match &self.merge {
            None => grown(&self.bases[0], &self.names[0], &args.growth),
            Some((config, text)) => self.merged(config, text, args),
        }
    }
}

/// The view of a base called `name` that these options ask for; of the base itself if none does.
///
/// # Errors
/// [`CliError::Plan`] and what routers made of prompts can meet.
pub(in crate::cli) fn grown<'a>(base: &'a Checkpoint, name: &str, args: &GrowthArgs) -> Result<Growth<'a>, CliError> {
    let mut growth = Growth {
        source: Box::new(base),
        operators: Vec::new(),
        title: String::new(),
        warnings: Vec::new(),
        kept: Vec::new(),
        preserves: true,
        rounds: false,
        noise: None,
    };
    let mut titles = Vec::new();
    if let Some(depth) = args.depth() {
        let num_layers = base.config().num_hidden_layers;
        let (plan, title) = depth_plan(depth, num_layers)?;
        growth.preserves = match &plan {
            GrowthPlan::Splice(layers) => layers.as_slice().iter().copied().eq(0..num_layers),
            _ => true,
        };
        if let GrowthPlan::Splice(layers) = &plan {
            growth.warnings.extend(warnings_of(layers));
        }
        if let Some(yaml) = passthrough_yaml(name, &plan, None) {
            growth.kept.push(("mergekit_config.yml".to_owned(), yaml.into_bytes()));
        }
        titles.push(title);
        growth.operators.push(json!(plan));
        growth.source = Box::new(Grown::new(growth.source, plan)?);
    }
    if let Some(plan) = args.upcycle()? {
        few_enough(plan.num_local_experts)?;
        titles.push(format!("{}×top-{} mixture", plan.num_local_experts, plan.num_experts_per_tok));
        if plan.num_local_experts == 1 {
            growth.warnings.push("there is 1 expert: the router has nothing to decide".to_owned());
        }
        let copies = plan.init == ExpertInit::Copy;
        if args.router == Some(RouterArg::Zero) && copies {
            growth.warnings.push(
                "a router of zeros before identical experts: every token visits the first ones, and nothing but the \
                 balancing loss will tell them apart"
                    .to_owned(),
            );
        }
        growth.preserves &= copies;
        growth.operators.push(json!(GrowthPlan::Upcycle(plan)));
        let rows = match (args.router, &args.prompts) {
            (Some(RouterArg::Hidden), Some(file)) => {
                Some(gates::from_file(file, &growth.source, base, plan.num_local_experts)?)
            }
            (Some(RouterArg::Hidden), None) => return Err(CliError::HiddenWithoutPrompts),
            (_, Some(_)) => return Err(CliError::PromptsWithoutHidden),
            (_, None) => None,
        };
        if let ExpertInit::Noise { relative_std } = plan.init
            && relative_std > 0.0
        {
            let upcycled = |plan| Grown::new(&growth.source, GrowthPlan::Upcycle(plan));
            let (still, noisy) = (upcycled(UpcyclePlan { init: ExpertInit::Copy, ..plan })?, upcycled(plan)?);
            let id = first_matrix(LayerTensor::Expert(0, Projection::Gate));
            growth.noise = Some(Noise::sample(format!("--noise {relative_std}"), (&still, id), (&noisy, id))?);
        }
        growth.source = Box::new(Grown::new(growth.source, GrowthPlan::Upcycle(plan))?);
        if let Some(rows) = rows {
            growth.operators.push(json!({"router": "hidden", "prompts": args.prompts.as_ref().map(|file| words(&file.to_string_lossy()))}));
            growth.source = Box::new(GivenRouters::new(growth.source, rows)?);
        }
    }
    if let Some(parts) = args.granularity {
        titles.push(format!("experts in {parts} parts"));
        growth.operators.push(json!({"granularity": parts}));
        growth.rounds |= !parts.is_power_of_two();
        let finer = FineGrained::new(growth.source, parts)?;
        few_enough(finer.config().moe.map_or(0, |moe| moe.num_local_experts))?;
        growth.source = Box::new(finer);
    }
    growth.title = if titles.is_empty() { "a copy".to_owned() } else { titles.join(", then ") };
    Ok(growth)
}

fn few_enough(found: usize) -> Result<(), CliError> {
    let most = MOST_EXPERTS;
    if found > most { Err(CliError::TooManyExperts { found, most }) } else { Ok(()) }
}

/// Opens the headers of a model, named so, that lies at `path`.
fn opened(disk: &Arc<dyn Disk>, name: &str, path: &Path) -> Result<Checkpoint, CliError> {
    let checkpoint = Checkpoint::open_on(disk.clone(), path)?;
    console::detail(format_args!("{name}: {}, {}", checkpoint.path().display(), checkpoint.format()));
    Ok(checkpoint)
}

/// A matrix of the first layer.
pub(super) fn first_matrix(tensor: LayerTensor) -> TensorId {
    TensorId::Layer(0, tensor)
}

/// The id on the hub that a name is, if it is no path, from `folder` or from here.
fn hub_id(folder: &Path, name: &str) -> Option<String> {
    let id = name.split('@').next().unwrap_or(name);
    let is_path = Path::new(name).exists() || folder.join(name).exists();
    (!is_path && id.split('/').count() == 2).then(|| id.to_owned())
}

fn depth_plan(depth: DepthArg, num_layers: usize) -> Result<(GrowthPlan, String), CliError> {
    Ok(match depth {
        DepthArg::UpScale(overlap) => (
            GrowthPlan::Splice(LayerPlan::depth_up_scaling(num_layers, overlap)?),
            format!("depth up-scaling, m = {overlap}"),
        ),
        DepthArg::Stack(times) => {
            (GrowthPlan::Splice(LayerPlan::stack(num_layers, times)?), format!("a stack of {times} copies"))
        }
        DepthArg::IdentityBlocks(blocks) => (
            GrowthPlan::Expand(BlockExpansion::identity_blocks(num_layers, blocks)?),
            format!("{blocks} identity blocks"),
        ),
    })
}

fn warnings_of(layers: &LayerPlan) -> Vec<String> {
    let unused = layers.unused_layers();
    if unused.is_empty() { Vec::new() } else { vec![format!("layers {unused:?} of the base are left out")] }
}

/// Where a model of a mergekit file lies: beside the file if there, else as the words say.
fn place(config: &Path, model: &ModelRef) -> Result<PathBuf, CliError> {
    let beside = config.parent().unwrap_or(Path::new("")).join(&model.path);
    if model.revision.is_none() && beside.exists() { Ok(beside) } else { hub::locate(&model.to_string()) }
}
