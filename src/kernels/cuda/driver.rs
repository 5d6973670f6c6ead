//! GPUs through NVIDIA's driver library, which is looked for at run time: a machine without one has no GPUs.

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUdevice_attribute_enum as Attribute, CUmemorytype_enum as Side, CUresult,
    CUstreamCaptureMode_enum as CaptureMode,
};

use super::kernel::Kernel;
use super::memory::{Args, Driver, Gpu, RawCopy};
use super::stream::Stream;
use crate::error::Context;
use crate::{Error, ErrorKind, Result};

include!(concat!(env!("OUT_DIR"), "/cuda_modules.rs"));

/// What is known of a GPU without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number, as `CUDA_VISIBLE_DEVICES` leaves it.
    pub index: usize,
    /// As its maker calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Bytes in all.
    pub memory: u64,
}

/// The GPUs of this machine.
///
/// # Errors
/// `Unsupported` saying what is missing: the driver, or a GPU.
pub fn gpus() -> Result<Vec<GpuInfo>> {
    // SAFETY: loads the library, whose initialisers are trusted as those of any system library.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::unsupported("no NVIDIA driver is installed (libcuda is missing)"));
    }
    // SAFETY: called before anything else of the library; the argument must be 0.
    check(unsafe { sys::cuInit(0) }, "start the NVIDIA driver")?;
    let mut n = 0;
    // SAFETY: writes one integer.
    check(unsafe { sys::cuDeviceGetCount(&mut n) }, "count the GPUs")?;
    if n == 0 {
        return Err(Error::unsupported("the NVIDIA driver finds no GPU"));
    }
    (0..n).map(info).collect()
}

fn device(index: c_int) -> Result<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: writes one integer.
    check(unsafe { sys::cuDeviceGet(&mut device, index) }, "find a GPU")?;
    Ok(device)
}

fn info(index: c_int) -> Result<GpuInfo> {
    let device = device(index)?;
    let mut name = [0; 256];
    // SAFETY: writes at most 256 bytes, the last of them 0.
    check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 256, device) }, "name a GPU")?;
    // SAFETY: the name ends within the array.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let attribute = |attribute| -> Result<u32> {
        let mut value = 0;
        // SAFETY: writes one integer.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) }, "ask a GPU")?;
        Ok(value as u32)
    };
    let mut memory = 0;
    // SAFETY: writes one number.
    check(unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) }, "measure a GPU")?;
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(GpuInfo { index: index as usize, name, capability: (major, minor), memory: memory as u64 })
}

impl GpuInfo {
    /// Whether kernels of this build run on it.
    pub fn can_run(&self) -> bool {
        self.capability >= (7, 5)
    }
}

impl Gpu {
    /// Opens a GPU of [`gpus`].
    ///
    /// # Errors
    /// A GPU that is too old, or a driver that does not know the kernels.
    pub fn open(info: &GpuInfo) -> Result<Gpu> {
        if !info.can_run() {
            let (major, minor) = info.capability;
            return Err(Error::unsupported(format!(
                "{} has compute capability {major}.{minor}, expected 7.5 or later",
                info.name
            )));
        }
        Ok(Gpu::new(Real::open(info).at(|| info.name.clone())?))
    }
}

/// The error of a driver call; `what` completes "cannot".
fn check(code: CUresult, what: &str) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: writes a pointer to a constant string, or null for a code that it does not know.
    unsafe { sys::cuGetErrorString(code, &mut text) };
    let text = if text.is_null() {
        "unknown to this driver".to_string()
    } else {
        // SAFETY: a constant of the library.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let kind = if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY { ErrorKind::Limit } else { ErrorKind::Io };
    Err(Error::new(kind, format!("cannot {what}: {text} (CUDA error {})", code as u32)))
}

struct Real {
    name: String,
    context: sys::CUcontext,
    streams: [sys::CUstream; Stream::COUNT],
    modules: Vec<sys::CUmodule>,
    /// The handle of each kernel that was launched, by its number.
    functions: [OnceLock<usize>; Kernel::COUNT],
}

// SAFETY: handles of the driver may be used from any thread once the context is current there, which every method sees to.
unsafe impl Send for Real {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Real {}

impl Real {
    fn open(info: &GpuInfo) -> Result<Real> {
        let device = device(info.index as c_int)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: writes a handle, which lives as long as the process.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) }, "open the GPU")?;
        // SAFETY: the handle is valid.
        check(unsafe { sys::cuCtxSetCurrent(context) }, "use the GPU")?;
        let mut streams = [std::ptr::null_mut(); Stream::COUNT];
        for stream in &mut streams {
            // SAFETY: writes a handle; the context is current. Streams that do not wait for the default one.
            check(unsafe { sys::cuStreamCreate(stream, 1) }, "make a stream")?;
        }
        let load = |(name, image): &(&str, &[u8])| {
            let mut module = std::ptr::null_mut();
            let what = format!("load the kernels of `{name}`; an older driver than the toolkit they were built with?");
            // SAFETY: a whole image as nvcc wrote it, which the driver copies.
            check(unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) }, &what).map(|()| module)
        };
        let modules = MODULES.iter().map(load).collect::<Result<_>>()?;
        let functions = std::array::from_fn(|_| OnceLock::new());
        Ok(Real { name: info.name.clone(), context, streams, modules, functions })
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the handle is valid for the whole process.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "use the GPU")
    }

    fn stream(&self, stream: Stream) -> sys::CUstream {
        self.streams[stream as usize]
    }

    /// The handle of `kernel`, looked for once.
    fn function(&self, kernel: Kernel) -> Result<sys::CUfunction> {
        let known = &self.functions[kernel.id()];
        if let Some(function) = known.get() {
            return Ok(*function as sys::CUfunction);
        }
        for module in &self.modules {
            let mut function = std::ptr::null_mut();
            // SAFETY: a module of this context; writes a handle when it succeeds.
            let code = unsafe { sys::cuModuleGetFunction(&mut function, *module, kernel.c_name().as_ptr()) };
            if code == CUresult::CUDA_SUCCESS {
                // Another thread may have found the same.
                known.get_or_init(|| function as usize);
                return Ok(function);
            }
        }
        Err(Error::unsupported(format!("there is no kernel `{}`", kernel.name())))
    }
}

/// Bytes of a piece of a long copy: enough for the full rate of a bus, little enough to stay in a cache of the host.
const STAGING_PIECE: usize = 4 << 20;

impl Driver for Real {
    fn name(&self) -> &str {
        &self.name
    }

    fn memory(&self) -> Result<(u64, u64)> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "measure the GPU's memory")?;
        Ok((free as u64, total as u64))
    }

    fn alloc(&self, bytes: usize) -> Result<Option<u64>> {
        self.enter()?;
        let mut at = 0;
        // SAFETY: writes an address when it succeeds.
        let code = unsafe { sys::cuMemAlloc_v2(&mut at, bytes) };
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Ok(None);
        }
        check(code, "reserve memory of the GPU")?;
        let stream = self.stream(Stream::Copy);
        // SAFETY: `bytes` bytes from `at` on are this process's.
        check(unsafe { sys::cuMemsetD8Async(at, 0, bytes, stream) }, "clear memory of the GPU")?;
        // Any stream may use it next.
        self.sync(Stream::Copy)?;
        Ok(Some(at))
    }

    unsafe fn free(&self, at: u64) {
        // Nothing can be done about a failure here; the next call reports it.
        if self.enter().is_ok() {
            // SAFETY: the caller's promise; the driver waits for kernels that still use it.
            unsafe { sys::cuMemFree_v2(at) };
        }
    }

    fn alloc_host(&self, bytes: usize) -> Result<*mut u8> {
        self.enter()?;
        let mut at = std::ptr::null_mut();
        // SAFETY: writes an address when it succeeds.
        let code = unsafe { sys::cuMemHostAlloc(&mut at, bytes, 0) };
        check(code, &format!("pin {bytes} bytes of the host's memory"))?;
        // SAFETY: `bytes` bytes from `at` on are this process's.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(at.cast())
    }

    unsafe fn free_host(&self, at: *mut u8) {
        if self.enter().is_ok() {
            // SAFETY: the caller's promise.
            unsafe { sys::cuMemFreeHost(at.cast()) };
        }
    }

    fn staging_piece(&self) -> usize {
        STAGING_PIECE
    }

    unsafe fn copy(&self, stream: Stream, copy: RawCopy) -> Result<()> {
        self.enter()?;
        let (stream, RawCopy { host, host_pitch, gpu, gpu_pitch, width, rows, to_gpu }) = (self.stream(stream), copy);
        let code = if rows == 1 && to_gpu {
            // SAFETY: the caller's promise.
            unsafe { sys::cuMemcpyHtoDAsync_v2(gpu, host.cast(), width, stream) }
        } else if rows == 1 {
            // SAFETY: the caller's promise.
            unsafe { sys::cuMemcpyDtoHAsync_v2(host.cast(), gpu, width, stream) }
        } else {
            let (from, to) = if to_gpu {
                (Side::CU_MEMORYTYPE_HOST, Side::CU_MEMORYTYPE_DEVICE)
            } else {
                (Side::CU_MEMORYTYPE_DEVICE, Side::CU_MEMORYTYPE_HOST)
            };
            let (from_pitch, to_pitch) = if to_gpu { (host_pitch, gpu_pitch) } else { (gpu_pitch, host_pitch) };
            let plan = sys::CUDA_MEMCPY2D {
                srcXInBytes: 0,
                srcY: 0,
                srcMemoryType: from,
                srcHost: host.cast(),
                srcDevice: gpu,
                srcArray: std::ptr::null_mut(),
                srcPitch: from_pitch,
                dstXInBytes: 0,
                dstY: 0,
                dstMemoryType: to,
                dstHost: host.cast(),
                dstDevice: gpu,
                dstArray: std::ptr::null_mut(),
                dstPitch: to_pitch,
                WidthInBytes: width,
                Height: rows,
            };
            // SAFETY: the caller's promise.
            unsafe { sys::cuMemcpy2DAsync_v2(&plan, stream) }
        };
        check(code, "copy to or from the GPU")
    }

    unsafe fn launch(&self, stream: Stream, kernel: Kernel, grid: [u32; 3], block: u32, args: Args<'_>) -> Result<()> {
        self.enter()?;
        let (function, stream) = (self.function(kernel)?, self.stream(stream));
        let ([x, y, z], at) = (grid, args.at.as_mut_ptr());
        // SAFETY: the caller's promise; no kernel here asks for dynamic shared memory.
        let code = unsafe { sys::cuLaunchKernel(function, x, y, z, block, 1, 1, 0, stream, at, std::ptr::null_mut()) };
        check(code, "launch the kernel")
    }

    fn sync(&self, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as this.
        check(unsafe { sys::cuStreamSynchronize(self.stream(stream)) }, "finish work on the GPU")
    }

    fn new_event(&self) -> Result<u64> {
        /// Without times, which would make it slower.
        const DISABLE_TIMING: u32 = 2;
        self.enter()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: writes a handle when it succeeds.
        check(unsafe { sys::cuEventCreate(&mut event, DISABLE_TIMING) }, "make an event")?;
        Ok(event as u64)
    }

    fn free_event(&self, event: u64) {
        if self.enter().is_ok() {
            // SAFETY: a handle of `new_event`; whoever waits for it goes on waiting.
            unsafe { sys::cuEventDestroy_v2(event as sys::CUevent) };
        }
    }

    fn record(&self, event: u64, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: handles of this context.
        check(unsafe { sys::cuEventRecord(event as sys::CUevent, self.stream(stream)) }, "record an event")
    }

    fn wait(&self, event: u64, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: handles of this context; no flags.
        check(unsafe { sys::cuStreamWaitEvent(self.stream(stream), event as sys::CUevent, 0) }, "wait for an event")
    }

    fn sync_event(&self, event: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: a handle of this context.
        check(unsafe { sys::cuEventSynchronize(event as sys::CUevent) }, "finish work on the GPU")
    }

    fn begin_capture(&self, stream: Stream) -> Result<()> {
        self.enter()?;
        let mode = CaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as this.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.stream(stream), mode) }, "record launches")
    }

    fn end_capture(&self, stream: Stream) -> Result<u64> {
        self.enter()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream lives as long as this; writes a handle, null where recording failed.
        check(unsafe { sys::cuStreamEndCapture(self.stream(stream), &mut graph) }, "record launches")?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: the graph was just made; writes a handle when it succeeds.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) };
        // SAFETY: what was instantiated does not need it.
        unsafe { sys::cuGraphDestroy(graph) };
        check(code, "prepare recorded launches")?;
        Ok(exec as u64)
    }

    unsafe fn replay(&self, graph: u64, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; a handle of `end_capture`.
        check(unsafe { sys::cuGraphLaunch(graph as sys::CUgraphExec, self.stream(stream)) }, "replay launches")
    }

    fn free_graph(&self, graph: u64) {
        if self.enter().is_ok() {
            // SAFETY: a handle of `end_capture`; the driver waits for a replay that goes on.
            unsafe { sys::cuGraphExecDestroy(graph as sys::CUgraphExec) };
        }
    }
}
