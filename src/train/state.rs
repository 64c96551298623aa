//! The state of AdamW as a safetensors file, written and read a tensor at a time.
//!
//! Two float32 tensors a parameter, under PyTorch's names: `NAME.exp_avg` and `NAME.exp_avg_sq`, in the parameter's
//! shape. The metadata holds the number of updates, `step`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::optimizer::{AdamW, AdamWConfig, Moments};
use super::param_path::ParamPath;
use crate::error::{ErrorKind, InFile, quoted};
use crate::formats::safetensors::{SafetensorsFault, SafetensorsFile, TensorSpec, write_safetensors_with};
use crate::output::commit::PartialFile;
use crate::output::disk::{Disk, disk};
use crate::weights::{Dtype, PIECE_NUMBERS, WeightError};

/// Suffixes of a parameter's two moments.
const MOMENTS: [&str; 2] = [".exp_avg", ".exp_avg_sq"];
/// Metadata key of the number of updates.
const STEP: &str = "step";

/// Why a file is not the optimizer state of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file cannot be read, or is not safetensors.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsFault),
    /// The metadata does not count the updates.
    #[error("found \"step\" {found} in the metadata, expected a number of updates")]
    Step {
        /// The value found.
        found: String,
    },
    /// A moment is missing, or has another type or shape than its parameter.
    #[error("found {found} for {}, expected float32 {expected:?}", quoted(.name))]
    Moment {
        /// Name of the tensor.
        name: String,
        /// Type and shape found.
        found: String,
        /// Shape of the parameter.
        expected: Vec<usize>,
    },
    /// A tensor belongs to no parameter of the model.
    #[error("found {}, expected moments of the model's parameters only", quoted(.name))]
    Unknown {
        /// Name of the tensor.
        name: String,
    },
}

impl StateError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Safetensors(SafetensorsFault::File(fault)) => fault.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

impl AdamW {
    /// Writes the state. One tensor at a time is copied from the device.
    ///
    /// # Errors
    /// [`WeightError::File`].
    pub fn write(&self, file: &mut PartialFile) -> Result<(), WeightError> {
        let (mut specs, mut moments) = (Vec::new(), Vec::new());
        for (name, Moments { first, second, shape }) in &self.moments {
            for (suffix, moment) in MOMENTS.into_iter().zip([first, second]) {
                let name = format!("{name}{suffix}");
                specs.push(TensorSpec { name, dtype: Dtype::Float32, shape: shape.clone() });
                moments.push(moment);
            }
        }
        // All moments have one type, so they are written in the order of the specs.
        let mut moments = moments.into_iter();
        write_safetensors_with(file, &[(STEP, self.num_steps.to_string())], &specs, |_, sink| {
            let data = moments.next().expect("a moment for each spec").to_data();
            let values = data.as_slice::<f32>().expect("moments are float32");
            values.chunks(PIECE_NUMBERS).try_for_each(|piece| {
                let bytes: Vec<[u8; 4]> = piece.iter().map(|value| value.to_le_bytes()).collect();
                sink(bytes.as_flattened())
            })
        })
    }

    /// Reads the state of `model`, as it is trained, that [`write`](Self::write) wrote. The next step is to the bit the one that would have
    /// followed.
    ///
    /// # Errors
    /// [`StateError`], if the file is not the state of exactly this model's parameters.
    pub fn read<M: Module>(config: AdamWConfig, model: &M, path: &Path) -> Result<Self, InFile<StateError>> {
        Self::read_on(disk(), config, model, path)
    }

    /// As [`read`](Self::read), of a file on `disk`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_on<M: Module>(
        disk: Arc<dyn Disk>,
        config: AdamWConfig,
        model: &M,
        path: &Path,
    ) -> Result<Self, InFile<StateError>> {
        let file = SafetensorsFile::open_on(disk, path).map_err(|error| InFile::new(error.path, error.fault.into()))?;
        Self::of_file(config, model, &file).map_err(InFile::at(path))
    }

    fn of_file<M: Module>(config: AdamWConfig, model: &M, file: &SafetensorsFile) -> Result<Self, StateError> {
        let step = file.metadata().iter().find(|(key, _)| key == STEP).map(|(_, step)| step);
        let num_steps = step.and_then(|step| step.parse().ok()).ok_or_else(|| StateError::Step {
            found: step.map_or_else(|| "missing".to_owned(), |step| quoted(step)),
        })?;
        if num_steps == 0 {
            return Ok(Self::new(config));
        }
        let mut parameters = Parameters::default();
        model.visit(&mut parameters);
        let mut unknown: BTreeSet<&str> = file.tensors().map(|(name, _)| name).collect();
        let mut moments = BTreeMap::new();
        for (name, (shape, device)) in parameters.found {
            let [first, second] = MOMENTS.map(|suffix| {
                let name = format!("{name}{suffix}");
                unknown.remove(name.as_str());
                moment(file, name, &shape, &device)
            });
            moments.insert(name, Moments { first: first?, second: second?, shape });
        }
        match unknown.first() {
            Some(name) => Err(StateError::Unknown { name: (*name).to_owned() }),
            None => Ok(Self { moments, num_steps, ..Self::new(config) }),
        }
    }
}

fn moment(file: &SafetensorsFile, name: String, shape: &[usize], device: &Device) -> Result<Tensor<1>, StateError> {
    let found = match file.info(&name) {
        Some(info) if info.weight_dtype() == Some(Dtype::Float32) && info.shape == shape => {
            let bytes = file.read(&name).map_err(|error| error.fault)?;
            let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let len = values.len();
            return Ok(Tensor::from_data(TensorData::new(values, [len]), device));
        }
        Some(info) => format!("{:?} {:?}", info.dtype, info.shape),
        None => "nothing".to_owned(),
    };
    Err(StateError::Moment { name, found, expected: shape.to_vec() })
}

/// Shape and device of every parameter that is trained, by name.
#[derive(Default)]
struct Parameters {
    path: ParamPath,
    found: BTreeMap<String, (Vec<usize>, Device)>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A frozen parameter has no moments.
        if !param.is_require_grad() {
            return;
        }
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        self.found.insert(self.path.name(), (value.dims().to_vec(), value.device().without_autodiff()));
    }
}
