//! The state of AdamW as a safetensors file.
//!
//! Two float32 tensors a parameter, under PyTorch's names: `NAME.exp_avg` and `NAME.exp_avg_sq`, in the parameter's
//! shape. The metadata holds the number of updates, `step`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use super::optimizer::{AdamW, AdamWConfig, Moments};
use super::param_path::ParamPath;
use crate::error::{ErrorKind, InFile, quoted};

/// Suffixes of a parameter's two moments.
const MOMENTS: [&str; 2] = [".exp_avg", ".exp_avg_sq"];
/// Metadata key of the number of updates.
const STEP: &str = "step";

/// Why a file is not the optimizer state of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is not safetensors.
    #[error("found no safetensors file: {0}")]
    Malformed(SafeTensorError),
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
            Self::Io(error) if error.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Io(_) => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        }
    }
}

impl AdamW {
    /// Writes the state to `path`, replacing a file there only once the new one is complete. One tensor at a time is
    /// copied from the device.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), InFile<StateError>> {
        let moments = self.moments.iter().flat_map(|(name, moments)| {
            let values = MOMENTS.into_iter().zip([&moments.first, &moments.second]);
            values.map(move |(suffix, values)| (format!("{name}{suffix}"), Moment { values, shape: &moments.shape }))
        });
        let metadata = HashMap::from([(STEP.to_owned(), self.num_steps.to_string())]);
        safetensors::serialize_to_file(moments, Some(metadata), path).map_err(malformed).map_err(InFile::at(path))
    }

    /// Reads the state of `model`, as it is trained, that [`write`](Self::write) wrote. The next step is to the bit the one that would have
    /// followed.
    ///
    /// # Errors
    /// [`StateError`], if the file is not the state of exactly this model's parameters.
    pub fn read<M: Module>(config: AdamWConfig, model: &M, path: &Path) -> Result<Self, InFile<StateError>> {
        let bytes = std::fs::read(path).map_err(StateError::from).map_err(InFile::at(path))?;
        Self::from_bytes(config, model, &bytes).map_err(InFile::at(path))
    }

    fn from_bytes<M: Module>(config: AdamWConfig, model: &M, bytes: &[u8]) -> Result<Self, StateError> {
        let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let step = header.metadata().as_ref().and_then(|metadata| metadata.get(STEP));
        let num_steps = step.and_then(|step| step.parse().ok()).ok_or_else(|| StateError::Step {
            found: step.map_or_else(|| "missing".to_owned(), |step| quoted(step)),
        })?;
        if num_steps == 0 {
            return Ok(Self::new(config));
        }
        let mut parameters = Parameters::default();
        model.visit(&mut parameters);
        let mut unknown: BTreeSet<&str> = file.names().into_iter().collect();
        let mut moments = BTreeMap::new();
        for (name, (shape, device)) in parameters.found {
            let [first, second] = MOMENTS.map(|suffix| {
                let name = format!("{name}{suffix}");
                unknown.remove(name.as_str());
                moment(&file, name, &shape, &device)
            });
            moments.insert(name, Moments { first: first?, second: second?, shape });
        }
        match unknown.first() {
            Some(name) => Err(StateError::Unknown { name: (*name).to_owned() }),
            None => Ok(Self { moments, num_steps, ..Self::new(config) }),
        }
    }
}

fn moment(file: &SafeTensors, name: String, shape: &[usize], device: &Device) -> Result<Tensor<1>, StateError> {
    let found = match file.tensor(&name) {
        Ok(view) if view.dtype() == Dtype::F32 && view.shape() == shape => {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let values: Vec<f32> = values.collect();
            let len = values.len();
            return Ok(Tensor::from_data(TensorData::new(values, [len]), device));
        }
        Ok(view) => format!("{:?} {:?}", view.dtype(), view.shape()),
        Err(_) => "nothing".to_owned(),
    };
    Err(StateError::Moment { name, found, expected: shape.to_vec() })
}

fn malformed(error: SafeTensorError) -> StateError {
    match error {
        SafeTensorError::IoError(error) => StateError::Io(error),
        error => StateError::Malformed(error),
    }
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

/// A moment as it is written.
struct Moment<'a> {
    values: &'a Tensor<1>,
    shape: &'a [usize],
}

impl View for Moment<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.to_data().iter::<f32>().flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}
