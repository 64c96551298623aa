//! Launches that are recorded once and replayed by one call: a decoding step launches some hundred small kernels, which takes
//! the host longer than they take a GPU. CUDA records them as a graph of its driver, wgpu as prepared dispatches
//! (CubeCL 0.11.3, `Client::start_capture`).
//!
//! A replay reads and writes the buffers of its recording. A copy from the host is refused by wgpu, and CUDA replays the same
//! bytes, so work must not move numbers from the host. It reads each [`Input`], which the host overwrites between replays, and what
//! a pass keeps, such as a cache, must stay in the buffers of [`buffer`].

#[cfg(feature = "cube")]
use std::thread::{self, ThreadId};

#[cfg(feature = "cube")]
use burn::backend::{Backend, BackendGraph, Cube, Dispatch, DispatchDevice};
#[cfg(feature = "cube")]
use burn::tensor::BackendPrimitive;
use burn::tensor::kind::Basic;
use burn::tensor::{Device, Element, Float, Int, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::{cubecl::bytes::Bytes, tensor::CubeTensor};
use bytemuck::Pod;

#[cfg(feature = "cube")]
use super::cube::{empty, primitive};

/// Recorded launches, and the tensors that they write.
///
/// The device keeps the memory that they use, temporary buffers too, as it is until the graph is dropped: nothing else is placed
/// in it.
#[derive(Debug)]
pub struct Graph<T> {
    output: T,
    #[cfg(feature = "cube")]
    recording: Recording,
}

/// Why a device does not record launches.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device does not record launches: {0}")]
pub struct CaptureError(String);

/// Whether launches on this device can be recorded, as far as is known before one tries.
pub fn has_graphs(device: &Device) -> bool {
    super::is_cube(device) && !device.is_autodiff()
}

impl<T> Graph<T> {
    /// Runs `work` once, then records its launches without running them. `work` must be safe to run twice, and must not move
    /// numbers from the host: wgpu refuses it; CUDA replays the same bytes.
    ///
    /// # Errors
    /// If the device does not record it. `work` must then be run again before its results are used.
    ///
    /// # Panics
    /// If `work` does, as when it waits for numbers of the device.
    pub fn capture(device: &Device, mut work: impl FnMut() -> T) -> Result<Self, CaptureError> {
        #[cfg(feature = "cube")]
        if has_graphs(device) {
            let device = super::dispatch_device(device);
            let mut window = Window::prepare(&device)?;
            // Compiles the kernels, and leaves the memory that the recording needs in the pool: it cannot allocate any.
            drop(work());
            Dispatch::graph_start_capture(&device).map_err(refused)?;
            let output = work();
            let graph = window.close()?;
            drop(window);
            return Ok(Self { output, recording: Recording { graph, device, thread: thread::current().id() } });
        }
        let _ = (device, &mut work);
        Err(CaptureError("it has no graphs".to_owned()))
    }

    /// Runs the recorded launches. Their results, in the same tensors each time, are there until the next replay.
    ///
    /// # Panics
    /// On another thread than that of the recording, or if the device fails.
    pub fn replay(&mut self) -> &T {
        #[cfg(feature = "cube")]
        self.recording.run();
        &self.output
    }
}

/// The reason of the device, in one line.
#[cfg(feature = "cube")]
fn refused(error: impl std::fmt::Display) -> CaptureError {
    CaptureError(error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

/// A graph on its device.
#[cfg(feature = "cube")]
#[derive(Debug)]
struct Recording {
    graph: BackendGraph<Dispatch>,
    device: DispatchDevice,
    /// CubeCL has a stream per thread.
    thread: ThreadId,
}

#[cfg(feature = "cube")]
impl Recording {
    #[expect(unsafe_code, reason = "only the caller knows that the buffers of a graph are alive and its own")]
    fn run(&mut self) {
        assert_eq!(thread::current().id(), self.thread, "a graph is replayed on the thread of its recording");
        // SAFETY: Buffers are alive: the server guards every page that the recorded launches were given until the graph is
        // dropped, so that no other allocation is placed there and none on it moves (`end_capture` of cubecl-wgpu,
        // `Window::instantiate` of cubecl-server). The thread, and so the stream, is that of the recording, on which inputs are
        // written and outputs read, in this order; no other has the tensors of a step.
        unsafe { Dispatch::graph_replay(&self.device, &self.graph) }.expect("the device replays its launches");
    }
}

/// A recording from its preparation on. Dropping it ends the recording, also after a panic: the stream would record all later work.
#[cfg(feature = "cube")]
struct Window<'a> {
    device: &'a DispatchDevice,
    is_open: bool,
}

#[cfg(feature = "cube")]
impl<'a> Window<'a> {
    fn prepare(device: &'a DispatchDevice) -> Result<Self, CaptureError> {
        Dispatch::graph_prepare(device).map_err(refused)?;
        Ok(Self { device, is_open: true })
    }

    fn close(&mut self) -> Result<BackendGraph<Dispatch>, CaptureError> {
        self.is_open = false;
        Dispatch::graph_stop_capture(self.device).map_err(refused)
    }
}

#[cfg(feature = "cube")]
impl Drop for Window<'_> {
    fn drop(&mut self) {
        if self.is_open {
            let _discarded = self.close();
        }
    }
}

/// The type of the numbers of an [`Input`].
pub trait Number: Element + Pod {
    /// The kind of tensors of them.
    #[cfg(feature = "cube")]
    type Kind: Basic + BackendPrimitive<Cube, Primitive = CubeTensor>;
    /// The kind of tensors of them.
    #[cfg(not(feature = "cube"))]
    type Kind: Basic;
}

impl Number for i32 {
    type Kind = Int;
}

impl Number for f32 {
    type Kind = Float;
}

/// A tensor that the host overwrites between replays.
#[derive(Debug)]
pub struct Input<const D: usize, N: Number>(Tensor<D, N::Kind>);

impl<const D: usize, N: Number> Input<D, N> {
    /// An input of zeros.
    pub fn zeros(shape: [usize; D], device: &Device) -> Self {
        let zeros = Tensor::zeros(shape, device);
        #[cfg(feature = "cube")]
        if super::is_cube(device) {
            // Burn's choice of a layout would pad rows on CUDA.
            let input = Self(Tensor::from_primitive::<Cube>(empty(shape, N::dtype(), &primitive(zeros))));
            input.write(&vec![N::zeroed(); shape.iter().product()]);
            return input;
        }
        Self(zeros)
    }

    /// The tensor, which has the numbers of every later [`write`](Self::write).
    pub fn tensor(&self) -> Tensor<D, N::Kind> {
        self.0.clone()
    }

    /// Overwrites the tensor, for all who have it.
    ///
    /// # Panics
    /// If the device has no graphs, or the tensor another size.
    pub fn write(&self, numbers: &[N]) {
        assert_eq!(self.0.shape().num_elements(), numbers.len(), "numbers of an input");
        #[cfg(feature = "cube")]
        {
            let CubeTensor { client, handle, .. } = primitive(self.tensor());
            client.write(&handle, Bytes::from_bytes_vec(bytemuck::cast_slice(numbers).to_vec()));
        }
        #[cfg(not(feature = "cube"))]
        panic!("no device of this build has graphs");
    }
}

/// Identifies a buffer of a device. The ids of freed buffers are not reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer(usize);

/// The buffer that a tensor is in, if its device has graphs. An operation in place leaves it there.
pub fn buffer<const D: usize>(x: &Tensor<D>) -> Option<Buffer> {
    #[cfg(feature = "cube")]
    if has_graphs(&x.device()) {
        return Some(Buffer(primitive(x.clone()).handle.memory.clone().binding().id().value));
    }
    let _ = x;
    None
}
