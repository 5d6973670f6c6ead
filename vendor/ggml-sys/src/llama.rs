//! A model in llama.cpp: loading, prefill, decoding, logits.

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use crate::rows::TypeId;
use crate::state::repeated;
use crate::sys;
use crate::system::{Error, Result, start};

/// A loaded text model.
pub struct Model {
    ptr: *mut sys::llama_model,
}

// SAFETY: llama.cpp does not write to a model after loading it.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Loads a GGUF file on the CPU. With `repack` weights are copied into the order of ggml's fastest kernels where it has
    /// such kernels; without, the file is mapped.
    ///
    /// # Errors
    /// What llama.cpp says about the file.
    pub fn load(path: &Path, repack: bool) -> Result<Arc<Model>> {
        start();
        let name = path.display();
        let c_path = CString::new(path.as_os_str().as_encoded_bytes());
        let c_path = c_path.map_err(|_| Error::new(format!("`{name}` is not a path")))?;
        // SAFETY: the parameters are the defaults but for two, the path is a C string that outlives the call.
        let ptr = unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = 0;
            params.use_extra_bufts = repack;
            sys::llama_model_load_from_file(c_path.as_ptr(), params)
        };
        if ptr.is_null() { Err(Error::new(format!("cannot load `{name}`"))) } else { Ok(Arc::new(Model { ptr })) }
    }

    /// Logits per token.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.ptr)) as usize }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: freed once; contexts hold the model alive.
        unsafe { sys::llama_model_free(self.ptr) };
    }
}

/// How a context computes.
#[derive(Debug, Clone, Copy)]
pub struct ContextOptions {
    /// Tokens that the cache has room for.
    pub n_ctx: usize,
    /// Tokens per step of prefill.
    pub n_batch: usize,
    pub n_threads: usize,
    /// Flash attention; a quantized cache of values needs it.
    pub flash: bool,
    pub type_k: TypeId,
    pub type_v: TypeId,
}

/// The tokens of a call whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    Last,
    All,
}

/// A cache and threads of a model.
pub struct Context {
    ptr: *mut sys::llama_context,
    pool: *mut sys::ggml_threadpool,
    batch: sys::llama_batch,
    n_past: usize,
    /// What was filled, where the cache cannot be cut back to it.
    filled: Option<Vec<u8>>,
    options: ContextOptions,
    model: Arc<Model>,
}

impl Context {
    /// An empty cache and started threads.
    ///
    /// # Errors
    /// What llama.cpp says: combinations that it does not support, or memory that it does not get.
    pub fn new(model: &Arc<Model>, options: ContextOptions) -> Result<Context> {
        let ContextOptions { n_ctx, n_batch, n_threads, flash, type_k, type_v } = options;
        if n_ctx == 0 || n_batch == 0 || n_threads == 0 || n_ctx.max(n_batch).max(n_threads) > i32::MAX as usize {
            return Err(Error::new("context, batch and threads must be at least 1"));
        }
        // SAFETY: the parameters are the defaults but for plain numbers; each object is checked before it is used and is freed
        // by `drop`, or here when it is the only one.
        unsafe {
            let mut params = sys::llama_context_default_params();
            params.n_ctx = n_ctx as u32;
            (params.n_batch, params.n_ubatch) = (n_batch as u32, n_batch as u32);
            (params.n_threads, params.n_threads_batch) = (n_threads as i32, n_threads as i32);
            params.flash_attn_type =
                if flash { sys::LLAMA_FLASH_ATTN_TYPE_ENABLED } else { sys::LLAMA_FLASH_ATTN_TYPE_DISABLED };
            (params.type_k, params.type_v) = (type_k, type_v);
            params.no_perf = true;
            let ptr = sys::llama_init_from_model(model.ptr, params);
            if ptr.is_null() {
                return Err(Error::new("cannot make a context"));
            }
            let mut threads = sys::ggml_threadpool_params_default(n_threads as i32);
            let pool = sys::ggml_threadpool_new(&mut threads);
            if pool.is_null() {
                sys::llama_free(ptr);
                return Err(Error::new("cannot start threads"));
            }
            sys::llama_attach_threadpool(ptr, pool, pool);
            let batch = sys::llama_batch_init(n_batch as i32, 0, 1);
            Ok(Context { ptr, pool, batch, n_past: 0, filled: None, options, model: Arc::clone(model) })
        }
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.n_past
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.n_past == 0
    }

    /// Computes text tokens behind those in the cache, in steps of `n_batch`, and returns logits (n, n_vocab).
    ///
    /// # Errors
    /// A full cache, a token that the model does not have.
    pub fn forward(&mut self, tokens: &[u32], logits: Logits) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        let n_vocab = self.model.n_vocab();
        let n_steps = tokens.len().div_ceil(self.options.n_batch);
        for (i, step) in tokens.chunks(self.options.n_batch).enumerate() {
            self.step(step, logits)?;
            let wanted = match logits {
                Logits::All => 0..step.len(),
                Logits::Last if i + 1 == n_steps => step.len() - 1..step.len(),
                Logits::Last => 0..0,
            };
            for it in wanted {
                // SAFETY: llama.cpp computed a row of logits for this token, which stays valid until the next call.
                let row = unsafe { sys::llama_get_logits_ith(self.ptr, it as i32) };
                if row.is_null() {
                    return Err(Error::new(format!("no logits for token {it}")));
                }
                // SAFETY: a row is `n_vocab` long.
                out.extend_from_slice(unsafe { std::slice::from_raw_parts(row, n_vocab) });
            }
        }
        Ok(out)
    }

    /// Computes text tokens as [`Context::forward`] does and leaves the logits where they are.
    ///
    /// # Errors
    /// As there.
    pub fn run(&mut self, tokens: &[u32]) -> Result<()> {
        tokens.chunks(self.options.n_batch).try_for_each(|step| self.step(step, Logits::Last))
    }

    /// One call of `llama_decode`, with logits for the last token at least, as `llama-bench` does it.
    fn step(&mut self, tokens: &[u32], logits: Logits) -> Result<()> {
        let n_vocab = self.model.n_vocab();
        if tokens.is_empty() || tokens.len() > self.options.n_batch {
            return Err(Error::new(format!("a step of `{}` tokens", tokens.len())));
        }
        if let Some(token) = tokens.iter().find(|t| **t as usize >= n_vocab) {
            return Err(Error::new(format!("token `{token}` is not among the `{n_vocab}` of the model")));
        }
        if self.n_past + tokens.len() > self.options.n_ctx {
            return Err(Error::new(format!("`{}` tokens are more than the cache holds", self.n_past + tokens.len())));
        }
        self.batch.n_tokens = tokens.len() as i32;
        for (i, token) in tokens.iter().enumerate() {
            let wanted = logits == Logits::All || i + 1 == tokens.len();
            // SAFETY: the batch was made for `n_batch` tokens of one sequence each, and `i` is below that.
            unsafe {
                *self.batch.token.add(i) = *token as sys::llama_token;
                *self.batch.pos.add(i) = (self.n_past + i) as sys::llama_pos;
                *self.batch.n_seq_id.add(i) = 1;
                **self.batch.seq_id.add(i) = 0;
                *self.batch.logits.add(i) = i8::from(wanted);
            }
        }
        // SAFETY: the batch is filled for `n_tokens`.
        let status = unsafe { sys::llama_decode(self.ptr, self.batch) };
        if status != 0 {
            return Err(Error::new(format!("llama_decode gave `{status}`")));
        }
        self.n_past += tokens.len();
        Ok(())
    }

    /// Forgets all but the first `n` tokens. A model with recurrent layers forgets all, or what came after the tokens that it was
    /// filled with.
    ///
    /// # Errors
    /// What cannot be forgotten.
    pub fn truncate(&mut self, n: usize) -> Result<()> {
        if n < self.n_past {
            // SAFETY: the context is alive; sequence 0 from `n` on.
            let done = unsafe { sys::llama_memory_seq_rm(sys::llama_get_memory(self.ptr), 0, n as i32, -1) };
            if !done {
                let filled = self.filled.take().ok_or_else(|| Error::new(format!("cannot go back to token `{n}`")))?;
                self.load(&filled)?;
                self.filled = Some(filled);
                self.ends_at(n)?;
            }
            self.n_past = n;
        }
        Ok(())
    }

    /// Replaces the cache by a saved one.
    fn load(&mut self, state: &[u8]) -> Result<()> {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.ptr), false) };
        self.n_past = 0;
        // SAFETY: the context is alive; llama.cpp checks what it reads.
        let read = unsafe { sys::llama_state_seq_set_data(self.ptr, state.as_ptr(), state.len(), 0) };
        if read == state.len() { Ok(()) } else { Err(Error::new("llama.cpp does not take the filled cache")) }
    }

    /// Checks that the cache holds `n` tokens.
    fn ends_at(&self, n: usize) -> Result<()> {
        // SAFETY: the context is alive.
        let last = unsafe { sys::llama_memory_seq_pos_max(sys::llama_get_memory(self.ptr), 0) };
        if i64::from(last) != n as i64 - 1 {
            return Err(Error::new(format!("the cache ends at `{last}`, expected {}", n as i64 - 1)));
        }
        Ok(())
    }

    /// Fills an empty cache with `depth` tokens without computing them all: one step is computed, and its keys and values are
    /// repeated. The values are not what a long text would give, but the work over them is the same.
    ///
    /// # Errors
    /// A cache that is too small, or that llama.cpp does not save in the known form.
    pub fn fill(&mut self, depth: usize) -> Result<()> {
        assert!(self.is_empty(), "only an empty cache is filled");
        if depth == 0 {
            return Ok(());
        }
        let n_vocab = self.model.n_vocab();
        let tokens: Vec<u32> =
            (0..depth.min(self.options.n_batch)).map(|i| (i.wrapping_mul(7919) % n_vocab) as u32).collect();
        self.step(&tokens, Logits::Last)?;
        if depth > tokens.len() {
            let state = repeated(&self.state()?, depth).map_err(Error::new)?;
            self.load(&state)?;
        }
        self.ends_at(depth)?;
        self.n_past = depth;
        // SAFETY: the model is alive.
        if unsafe { sys::llama_model_is_hybrid(self.model.ptr) || sys::llama_model_is_recurrent(self.model.ptr) } {
            self.filled = Some(self.state()?);
        }
        Ok(())
    }

    /// The cache as llama.cpp saves it.
    pub(crate) fn state(&mut self) -> Result<Vec<u8>> {
        // SAFETY: the size is asked first; llama.cpp writes no more than it is told there is room for.
        unsafe {
            let mut state = vec![0; sys::llama_state_seq_get_size(self.ptr, 0)];
            let written = sys::llama_state_seq_get_data(self.ptr, state.as_mut_ptr(), state.len(), 0);
            if written == 0 || written != state.len() { Err(Error::new("cannot save the cache")) } else { Ok(state) }
        }
    }

    /// Sends the threads to sleep, which otherwise wait for work in a loop. The next step wakes them.
    pub fn pause(&mut self) {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::ggml_threadpool_pause(self.pool) };
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: each was made by `new` and is freed once, the threads after the context that uses them.
        unsafe {
            sys::llama_batch_free(self.batch);
            sys::llama_free(self.ptr);
            sys::ggml_threadpool_free(self.pool);
        }
    }
}
