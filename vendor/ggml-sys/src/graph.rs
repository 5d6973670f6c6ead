//! Matrix products through a ggml graph on the CPU backend, as llama.cpp runs them.

use std::ffi::c_void;

use crate::rows::{TypeId, row_bytes};
use crate::sys;
use crate::system::{Error, Result, start};

/// Products out(n_tokens, n_rows) = x(n_tokens, n_cols) · wᵀ of one input with several weight matrices, one graph each.
pub struct MatMul {
    backend: sys::ggml_backend_t,
    pool: *mut sys::ggml_threadpool,
    contexts: Vec<*mut sys::ggml_context>,
    buffers: Vec<sys::ggml_backend_buffer_t>,
    x: *mut sys::ggml_tensor,
    /// Weights, product and graph of each matrix.
    products: Vec<(*mut sys::ggml_tensor, *mut sys::ggml_tensor, *mut sys::ggml_cgraph)>,
}

impl MatMul {
    /// Room for `copies` matrices (n_rows, n_cols) of type `ty` and `n_tokens` rows of activations. With `repack` the weights
    /// go where ggml interleaves them for its fastest kernels; `Ok(None)` when it has none for this type and shape.
    ///
    /// # Errors
    /// Memory that ggml does not get.
    pub fn new(
        ty: TypeId,
        (n_cols, n_rows): (usize, usize),
        n_tokens: usize,
        copies: usize,
        n_threads: usize,
        repack: bool,
    ) -> Result<Option<MatMul>> {
        start();
        let _ = row_bytes(ty, n_cols);
        // SAFETY: an ordinary run of ggml's interface; every object it gives out is checked and owned by `this` at once, and
        // dropped with it.
        unsafe {
            let backend = sys::ggml_backend_cpu_init();
            let mut params = sys::ggml_threadpool_params_default(n_threads as i32);
            let pool = sys::ggml_threadpool_new(&mut params);
            let (contexts, buffers, products) = (Vec::new(), Vec::new(), Vec::new());
            let mut this = MatMul { backend, pool, contexts, buffers, x: std::ptr::null_mut(), products };
            if backend.is_null() || pool.is_null() {
                return Err(Error::new("no memory for the CPU backend"));
            }
            sys::ggml_backend_cpu_set_n_threads(backend, n_threads as i32);
            sys::ggml_backend_cpu_set_threadpool(backend, pool);
            let weights = this.context(copies)?;
            let rest = this.context(4 * copies + 1)?;
            this.x = sys::ggml_new_tensor_2d(rest, sys::GGML_TYPE_F32, n_cols as i64, n_tokens as i64);
            for _ in 0..copies {
                let w = sys::ggml_new_tensor_2d(weights, ty, n_cols as i64, n_rows as i64);
                let out = sys::ggml_mul_mat(rest, w, this.x);
                let graph = sys::ggml_new_graph_custom(rest, 8, false);
                sys::ggml_build_forward_expand(graph, out);
                this.products.push((w, out, graph));
            }
            let plain = sys::ggml_backend_get_default_buffer_type(backend);
            let place = match repack {
                false => plain,
                true => match repacking_buffers(this.products[0].1) {
                    Some(place) => place,
                    None => return Ok(None),
                },
            };
            for (context, place) in [(weights, place), (rest, plain)] {
                let buffer = sys::ggml_backend_alloc_ctx_tensors_from_buft(context, place);
                if buffer.is_null() {
                    return Err(Error::new("no memory for the matrices"));
                }
                this.buffers.push(buffer);
            }
            Ok(Some(this))
        }
    }

    /// A ggml context without memory for data, for `n_tensors` tensors and as many small graphs.
    fn context(&mut self, n_tensors: usize) -> Result<*mut sys::ggml_context> {
        // SAFETY: plain arithmetic, then a constructor whose result is checked.
        let context = unsafe {
            let per_tensor = sys::ggml_tensor_overhead() + sys::ggml_graph_overhead_custom(8, false);
            let mem_size = n_tensors * per_tensor;
            sys::ggml_init(sys::ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: true })
        };
        if context.is_null() {
            return Err(Error::new("no memory for a graph"));
        }
        self.contexts.push(context);
        Ok(context)
    }

    /// Stores matrix `i`, packed as in a file.
    ///
    /// # Panics
    /// When the length disagrees.
    pub fn set_weights(&mut self, i: usize, packed: &[u8]) {
        let w = self.products[i].0;
        // SAFETY: the tensor has its memory since `new`, and the length is checked against it.
        unsafe {
            assert_eq!(packed.len(), sys::ggml_nbytes(w), "bytes of the matrix");
            sys::ggml_backend_tensor_set(w, packed.as_ptr().cast::<c_void>(), 0, packed.len());
        }
    }

    /// Stores the activations (n_tokens, n_cols).
    ///
    /// # Panics
    /// When the length disagrees.
    pub fn set_input(&mut self, x: &[f32]) {
        // SAFETY: as above.
        unsafe {
            assert_eq!(size_of_val(x), sys::ggml_nbytes(self.x), "bytes of the activations");
            sys::ggml_backend_tensor_set(self.x, x.as_ptr().cast::<c_void>(), 0, size_of_val(x));
        }
    }

    /// Multiplies with matrix `i`.
    ///
    /// # Panics
    /// When the graph fails, which it has no reason to.
    pub fn compute(&mut self, i: usize) {
        // SAFETY: the graph's tensors have their memory since `new`.
        let status = unsafe { sys::ggml_backend_graph_compute(self.backend, self.products[i].2) };
        assert_eq!(status, sys::GGML_STATUS_SUCCESS, "a single product computes");
    }

    /// The result (n_tokens, n_rows) of the last product with matrix `i`.
    pub fn output(&self, i: usize) -> Vec<f32> {
        let out = self.products[i].1;
        // SAFETY: the tensor has its memory since `new`, and the vector is as long.
        unsafe {
            let n_bytes = sys::ggml_nbytes(out);
            let mut values = vec![0f32; n_bytes / 4];
            sys::ggml_backend_tensor_get(out, values.as_mut_ptr().cast::<c_void>(), 0, n_bytes);
            values
        }
    }

    /// Sends ggml's threads to sleep, which otherwise wait for work in a loop. The next product wakes them.
    pub fn pause(&mut self) {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::ggml_threadpool_pause(self.pool) };
    }
}

impl Drop for MatMul {
    fn drop(&mut self) {
        // SAFETY: each was given out by ggml, is owned by `self` and is freed once; null is allowed for all.
        unsafe {
            self.buffers.iter().for_each(|b| sys::ggml_backend_buffer_free(*b));
            self.contexts.iter().for_each(|c| sys::ggml_free(*c));
            sys::ggml_backend_free(self.backend);
            sys::ggml_threadpool_free(self.pool);
        }
    }
}

/// The kind of memory in which ggml interleaves the weights of `product`, if it does: asked as llama.cpp asks when it loads.
///
/// # Safety
/// `product` is a product of two tensors without memory.
unsafe fn repacking_buffers(product: *mut sys::ggml_tensor) -> Option<sys::ggml_backend_buffer_type_t> {
    type ExtraBuffers = unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *mut sys::ggml_backend_buffer_type_t;
    // SAFETY: the function is registered under this name with this signature, and its list ends with a null. The empty buffer
    // only lives while the question is asked.
    unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        let registry = sys::ggml_backend_dev_backend_reg(device);
        let function = sys::ggml_backend_reg_get_proc_address(registry, c"ggml_backend_dev_get_extra_bufts".as_ptr());
        if function.is_null() {
            return None;
        }
        let mut list = std::mem::transmute::<*mut c_void, ExtraBuffers>(function)(device);
        while !list.is_null() && !(*list).is_null() {
            let weights = (*product).src[0];
            let empty = sys::ggml_backend_buft_alloc_buffer(*list, 0);
            (*weights).buffer = empty;
            let supported = sys::ggml_backend_dev_supports_op(device, product);
            (*weights).buffer = std::ptr::null_mut();
            sys::ggml_backend_buffer_free(empty);
            if supported {
                return Some(*list);
            }
            list = list.add(1);
        }
    }
    None
}
