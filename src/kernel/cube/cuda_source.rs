//! The CUDA C++ of every kernel that the operations launch, without CUDA: [`Recorder`] compiles what is launched on it and runs
//! nothing. `experiments/nvrtc.py` has NVRTC compile the sources.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::{Cube, DType};
use burn::tensor::IntDType;
use burn_cubecl::CubeDevice;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl_core::bytes::Bytes;
use cubecl_core::client::Client;
use cubecl_core::device::{DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId};
use cubecl_core::environment::stream::StreamId;
use cubecl_core::future::DynFut;
use cubecl_core::ir::features::{Features, MmaConfig, Plane};
use cubecl_core::ir::{
    DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties, VectorSize,
};
use cubecl_core::profile::{ProfileDuration, TimingMethod};
use cubecl_core::{Compiler, CubeCount, CubeKernel, define_kernel};
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use cubecl_server::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_server::dry_run::LaunchMode;
use cubecl_server::logging::ServerLogger;
use cubecl_server::memory_management::{ManagedMemoryHandle, MemoryAllocationMode, StreamMemoryReport};
use cubecl_server::server::{
    BufferBinding, CopyDescriptor, IoError, KernelArguments, ProfileError, ProfilingToken, Server, ServerCommunication,
    ServerError, ServerStorage, ServerUtilities,
};
use cubecl_server::storage::{BytesResource, BytesStorage, ManagedResource};

use super::public;
use super::quantized::{WordMatrix, WordStack, Words};
use crate::kernel::adamw::{AdamWOps, AdamWStep};
use crate::kernel::attention::{AttentionBackward, Band, CachedAttention, Inputs, Mask};
use crate::kernel::blocks::{BlockFormat, WordPlaces};
use crate::kernel::embedding::EmbeddingBackward;
use crate::kernel::expert_mlp::{ExpertMlpBackward, expert_mlp_of_blocks};
use crate::kernel::linear::Operand;
use crate::kernel::linear_cross_entropy::{self, LinearCrossEntropy, LinearCrossEntropyBackward, Upstream};
use crate::kernel::rms_norm::{RmsNorm, RmsNormBackward};
use crate::kernel::rope::{Rope, RopeBackward};
use crate::kernel::silu_mul::{SiluMul, SiluMulBackward};
use crate::kernel::top_k_softmax::{TopKSoftmax, TopKSoftmaxBackward};

/// Sources by the name of the kernel's type and their text, with the bytes of shared memory that a launch asks for.
type Sources = Arc<Mutex<BTreeMap<(&'static str, String), usize>>>;

/// A device of CUDA that has no memory, and compiles kernels without running them.
#[derive(Debug)]
struct Recorder {
    options: CompilationOptions,
    utilities: Arc<ServerUtilities>,
    sources: Sources,
}

impl Recorder {
    /// Compute capability `version`, 80 or 90, as `cubecl-cuda` describes it to kernels.
    fn open(version: u16, sources: Sources) -> Client {
        Self::open_without(|_| (), version, sources)
    }

    /// The same, without features that `remove` takes away. Devices that are open at the same time differ in `version`.
    fn open_without(remove: impl FnOnce(&mut Features), version: u16, sources: Sources) -> Client {
        let device = DeviceId { type_id: u16::MAX, index_id: version };
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 1024,
            max_shared_memory_size: if version >= 90 { 227 << 10 } else { 163 << 10 },
            max_cube_count: (i32::MAX as u32, u16::MAX.into(), u16::MAX.into()),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: Some(if version >= 90 { 132 } else { 108 }),
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            num_cpu_cores: None,
            last_level_cache_size: None,
            max_vector_size: VectorSize::MAX,
            cube_mma_reserved_shared_memory: 0,
        };
        let mut properties = DeviceProperties::new(
            Features::default(),
            MemoryDeviceProperties::new(1 << 34, 512),
            hardware,
            TimingMethod::Device,
            DeviceIdentity { name: "none".to_owned(), fingerprint: format!("sm_{version}"), physical: None },
        );
        register_supported_types(&mut properties);
        properties.features.memory_reinterpret = true;
        properties.features.alignment = true;
        properties.features.plane.insert(Plane::Ops);
        properties.features.plane.insert(Plane::Sync);
        let [of_factors, of_sums] = [DType::BF16, DType::F32].map(dtype_to_elem_type);
        let (a_type, b_type, cd_type, m, n, k) = (of_factors, of_factors, of_sums, 16, 16, 16);
        properties.features.matmul.cmma.insert(MmaConfig { a_type, b_type, cd_type, m, n, k });
        remove(&mut properties.features);
        let (utilities, _) = ServerUtilities::init(
            ServiceId::of::<Self>(device),
            "cuda source",
            properties,
            TargetProperties::default(),
            Arc::new(ServerLogger::default()),
            ContiguousMemoryLayoutPolicy::new(512),
        );
        let supports_features = CppSupportedFeatures {
            grid_constants: true,
            clusters: version >= 90,
            fast_math: true,
            fast_tanh: true,
            elect_sync: version >= 90,
            dp4a: true,
        };
        let options = CompilationOptions { supports_features, ..CompilationOptions::default() };
        Client::init(device, Self { options, utilities: Arc::new(utilities), sources })
    }
}

/// How the names of our kernels' types begin; Burn's are not compiled.
const OURS: &str = "deepwide::kernel::";

/// The answer to all that needs memory.
fn no_memory<T>() -> Result<T, ServerError> {
    Err(IoError::UnsupportedIoOperation { backtrace: Default::default() }.into())
}

impl DeviceService for Recorder {
    fn init(_: DeviceId) -> Self {
        unreachable!("it is inserted when it is opened")
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for Recorder {}

impl Server for Recorder {
    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    fn read(&mut self, _: Vec<CopyDescriptor>, _: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        Box::pin(async { no_memory() })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: Vec<BufferBinding>, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn check(&mut self, _: Vec<BufferBinding>, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    #[expect(unsafe_code, reason = "a method of the trait; nothing is run")]
    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        _: CubeCount,
        _: KernelArguments,
        _: StreamId,
        _: LaunchMode,
    ) {
        if !kernel.name().starts_with(OURS) {
            return;
        }
        let definition = define_kernel(&*kernel).expect("a kernel that expands");
        let compiled = CppCompiler::<Cuda>::default().compile(definition, &self.options);
        let compiled = compiled.unwrap_or_else(|error| panic!("{}: {error}", kernel.name()));
        let shared_bytes = compiled.shared_memory_size;
        self.sources.lock().expect("no panic").insert((kernel.name(), compiled.source), shared_bytes);
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        no_memory()
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        unreachable!("no profile starts")
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

impl ServerStorage for Recorder {
    type Storage = BytesStorage;

    fn get_resource(&mut self, _: BufferBinding, _: StreamId) -> Result<ManagedResource<BytesResource>, ServerError> {
        no_memory()
    }
}

/// Sizes of a decoder.
struct Shape {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

const SHAPES: [(&str, Shape); 2] = [
    ("SmolLM2-135M", Shape { hidden: 576, intermediate: 1536, heads: 9, kv_heads: 3, head_dim: 64 }),
    ("Mistral-7B", Shape { hidden: 4096, intermediate: 14336, heads: 32, kv_heads: 8, head_dim: 128 }),
];

fn tensor(client: &Client, dtype: DType, shape: &[usize]) -> CubeTensor {
    empty_device_contiguous_dtype(client.clone(), CubeDevice::Cuda(Default::default()), shape.into(), dtype)
}

/// Launches every operation with a kernel, forward and backward.
fn launch_all(client: &Client, shape: &Shape) {
    let tensor = |dtype, shape: &[usize]| tensor(client, dtype, shape);
    let floats = |shape: &[usize]| tensor(DType::F32, shape);
    let &Shape { hidden, intermediate, heads, kv_heads, head_dim } = shape;
    let (batch, len) = (2, 256);

    Cube::lookup_backward(floats(&[batch, len, hidden]), tensor(DType::I32, &[batch, len]), 32_000);

    let x = || floats(&[batch * len, hidden]);
    Cube::rms_norm(x(), floats(&[hidden]), 1e-5);
    Cube::rms_norm_backward(x(), x(), floats(&[hidden]), 1e-5, true);

    let words = |format: BlockFormat, len: usize| {
        let places = WordPlaces::new(format.layout(), len);
        let (codes, scales) = (tensor(DType::I32, &[places.num_codes]), floats(&[places.num_scales]));
        Arc::new(Words { format, len, codes, scales })
    };
    for format in BlockFormat::ALL {
        let words = words(format, intermediate * hidden);
        let weight = WordMatrix { words, first: 0, shape: [intermediate, hidden] };
        weight.rows(tensor(DType::I32, &[len]));
        for rows in [1, 2, 4, 8, batch * len] {
            weight.product(public(floats(&[rows, hidden])));
        }
    }

    // On tensor cores also heads of another width, without groups.
    let of_model = [heads, kv_heads, head_dim];
    for (dtype, of_heads) in [(DType::F32, of_model), (DType::BF16, of_model), (DType::BF16, [4, 4, 96])] {
        let [heads, kv_heads, head_dim] = of_heads;
        let of_queries = |len: usize, heads: usize| tensor(dtype, &[batch, len, heads, head_dim]);
        let (q, kv) = (|| of_queries(len, heads), || of_queries(len, kv_heads));
        let angles = || floats(&[1, len, head_dim / 2]);
        Cube::rope_forward(q(), angles(), angles());
        Cube::rope_backward(q(), angles(), angles());
        for mask in [
            Mask::Band(Band { past: 0, window: Some(64) }),
            Mask::Ragged { bounds: tensor(DType::I32, &[batch, len, 2]), num_keys: len, max_visible: len },
        ] {
            let inputs = Inputs { q: q(), k: kv(), v: kv(), mask };
            let (y, kept) = Cube::attention_kept(inputs.clone());
            Cube::attention_backward(y, inputs.clone(), kept);
            Cube::cached_attention_forward(q(), kv(), kv(), angles(), angles(), kv(), kv(), inputs.mask);
        }
        // Decoding has chunks of keys, and few queries take no tensor cores.
        let [q, k, v] = [heads, kv_heads, kv_heads].map(|heads| of_queries(1, heads));
        let last = Mask::Band(Band { past: len - 1, window: None });
        let angle = || floats(&[1, 1, head_dim / 2]);
        Cube::cached_attention_forward(q, k, v, angle(), angle(), kv(), kv(), last);
        let [q, k, v] = [heads, kv_heads, kv_heads].map(|heads| of_queries(7, heads));
        let inputs = Inputs { q, k, v, mask: Mask::Band(Band { past: 0, window: None }) };
        let (y, kept) = Cube::attention_kept(inputs.clone());
        Cube::attention_backward(y, inputs, kept);
    }

    let h = || floats(&[batch * len, intermediate]);
    for dtype in [DType::F32, DType::BF16] {
        let h = || tensor(dtype, &[batch * len, intermediate]);
        Cube::silu_mul(h(), h());
        Cube::silu_mul_backward(h(), h(), h());
    }

    let inputs = || linear_cross_entropy::Inputs {
        hidden: x(),
        weight: Operand::Float(floats(&[32_000, hidden])),
        targets: tensor(DType::I32, &[batch * len]),
    };
    let of_mean = linear_cross_entropy::Gradients { hidden: x(), weight: None };
    let batch_of_tokens = inputs();
    Cube::linear_cross_entropy_forward(
        batch_of_tokens.hidden,
        batch_of_tokens.weight,
        batch_of_tokens.targets,
        Upstream::Any,
    );
    Cube::gradients(floats(&[batch * len]), inputs(), of_mean, true);

    let step = AdamWStep {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 1.0,
    };
    Cube::adamw_update(h(), h(), h(), h(), step);
    Cube::squares_by_chunk(h());

    let (num_experts, k) = (8, 2);
    let (weights, experts) = Cube::top_k_softmax(floats(&[batch * len, num_experts]), k, IntDType::I32);
    Cube::top_k_softmax_backward(weights.clone(), weights, experts, num_experts);
    let (weights, chosen) = (floats(&[batch * len, k]), tensor(DType::I32, &[batch * len, k]));
    for format in BlockFormat::ALL {
        let stacks = [[intermediate, hidden], [intermediate, hidden], [hidden, intermediate]].map(|shape| {
            let words = words(format, num_experts * intermediate * hidden);
            WordStack { words, shape, places: tensor(DType::I32, &[num_experts]) }
        });
        for tokens in [1, 2, 4, 8, batch * len] {
            let rows = |width: usize| floats(&[tokens, width]);
            let chosen = tensor(DType::I32, &[tokens, k]);
            expert_mlp_of_blocks(&rows(hidden), &rows(k), chosen, &stacks);
        }
    }
    let stacks = |dtype| {
        let [matrix, down] = [[num_experts, intermediate, hidden], [num_experts, hidden, intermediate]];
        [matrix, matrix, down].map(|shape| tensor(dtype, &shape))
    };
    for dtype in [DType::F32, DType::BF16] {
        let [gate, up, down] = stacks(dtype);
        // Few rows take no tensor cores.
        let few = |width: usize| tensor(DType::F32, &[4, width]);
        let (inputs, few_chosen) = ([few(hidden), few(k), gate, up, down], tensor(DType::I32, &[4, k]));
        let [y, gate, up] = Cube::expert_mlp_saved(inputs.clone(), few_chosen.clone());
        Cube::expert_mlp_backward(y, inputs, few_chosen, [gate, up], true);
        let [gate, up, down] = stacks(dtype);
        let inputs = [x(), weights.clone(), gate, up, down];
        let [y, gate, up] = Cube::expert_mlp_saved(inputs.clone(), chosen.clone());
        Cube::expert_mlp_backward(y, inputs, chosen.clone(), [gate, up], true);
    }
}

/// `attention` and `of_keys` of `deepwide::kernel::attention::cube::backward::of_keys::OfKeys`.
fn operation_and_kernel(name: &str) -> Option<(&str, &str)> {
    // Generic arguments have paths too.
    let path = name.strip_prefix(OURS)?.split('<').next()?;
    let path = path.strip_prefix("cube::").unwrap_or(path);
    Some((path.split("::").next()?, path.rsplit("::").nth(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels on tensor cores that attention launches, forward and backward.
    fn tensor_core_kernels(
        client: &Client,
        recorded: &Sources,
        dtype: DType,
        num_queries: usize,
        width: usize,
    ) -> usize {
        let [q, kv] = [4, 2].map(|heads| tensor(client, dtype, &[1, num_queries, heads, width]));
        let inputs = Inputs { q, k: kv.clone(), v: kv, mask: Mask::Band(Band { past: 0, window: None }) };
        let (y, kept) = Cube::attention_kept(inputs.clone());
        Cube::attention_backward(y, inputs, kept);
        client.flush().expect("all have been compiled");
        let sources = std::mem::take(&mut *recorded.lock().expect("no panic"));
        let kernels = sources.keys().filter_map(|(name, _)| operation_and_kernel(name));
        kernels.filter(|(_, kernel)| kernel.ends_with("_on_tensor_cores")).count()
    }

    #[test]
    fn attention_takes_tensor_cores_for_many_queries_in_bfloat16_alone() {
        let recorded = Sources::default();
        let client = Recorder::open(89, recorded.clone());
        for (dtype, num_queries, head_dim, expected) in [
            (DType::BF16, 17, 64, 3),
            (DType::BF16, 300, 128, 3),
            (DType::F32, 300, 64, 0),
            (DType::BF16, 16, 64, 0),
            (DType::BF16, 17, 40, 0),
            (DType::BF16, 17, 256, 0),
        ] {
            let found = tensor_core_kernels(&client, &recorded, dtype, num_queries, head_dim);
            assert_eq!(found, expected, "{num_queries} queries of {head_dim} in {dtype:?}");
        }
    }

    #[test]
    fn attention_takes_no_tensor_cores_where_a_feature_is_missing() {
        let removals: [(&str, fn(&mut Features)); 4] = [
            ("memory_reinterpret", |features| features.memory_reinterpret = false),
            ("alignment", |features| features.alignment = false),
            ("Plane::Sync", |features| features.plane -= Plane::Sync),
            ("cmma", |features| features.matmul.cmma.clear()),
        ];
        for (version, (feature, remove)) in (81..).zip(removals) {
            let recorded = Sources::default();
            let client = Recorder::open_without(remove, version, recorded.clone());
            assert_eq!(tensor_core_kernels(&client, &recorded, DType::BF16, 17, 64), 0, "without {feature}");
        }
    }

    /// With `CUDA_SOURCES` in the environment, each source is written to a file of that folder whose name is
    /// `sm_VERSION.MODEL.OPERATION.KERNEL.INDEX.SHARED_BYTES.cu`.
    #[test]
    fn each_kernel_has_cuda_source() {
        for version in [80, 90] {
            let recorded = Sources::default();
            let client = Recorder::open(version, recorded.clone());
            for (model, shape) in &SHAPES {
                launch_all(&client, shape);
                client.flush().expect("all have been compiled");
                let sources = std::mem::take(&mut *recorded.lock().expect("no panic"));
                let ours: Vec<_> = sources
                    .iter()
                    .filter_map(|((name, text), shared_bytes)| {
                        let (operation, kernel) = operation_and_kernel(name)?;
                        Some((operation, kernel, text, shared_bytes))
                    })
                    .collect();
                for operation in [
                    "adamw",
                    "attention",
                    "embedding",
                    "expert_mlp",
                    "linear_cross_entropy",
                    "quantized",
                    "rms_norm",
                    "rope",
                    "silu_mul",
                    "top_k_softmax",
                ] {
                    assert!(ours.iter().any(|(found, ..)| *found == operation), "{operation} launches no kernel");
                }
                for (index, (operation, kernel, text, shared_bytes)) in ours.into_iter().enumerate() {
                    assert!(text.contains("__global__"), "{operation}, {kernel}: {text}");
                    if let Some(folder) = std::env::var_os("CUDA_SOURCES") {
                        let file = format!("sm_{version}.{model}.{operation}.{kernel}.{index}.{shared_bytes}.cu");
                        std::fs::write(std::path::Path::new(&folder).join(file), text).expect("a folder to write to");
                    }
                }
            }
        }
    }
}
