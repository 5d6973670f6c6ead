//! Picking the next token from logits.

/// llama.cpp's sampling flags and their meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    pub seed: u64,
    /// 0 or below: greedy.
    pub temp: f32,
    /// 0: all.
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
    pub repeat_last_n: usize,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
}

/// A sampler with its random state and its memory of recent tokens.
pub struct Sampler {
    _options: SamplerOptions,
}

impl Sampler {
    /// # Errors
    /// NaN or out-of-range options.
    pub fn new(options: SamplerOptions) -> crate::Result<Sampler> {
        Ok(Sampler { _options: options })
    }

    /// Counts `id` as seen, for the penalties (prompt and generated tokens).
    pub fn accept(&mut self, id: u32) {
        let _ = id;
        todo!()
    }

    /// The next token. Ties go to the lowest id.
    ///
    /// # Errors
    /// All logits NaN or infinite in a way that leaves nothing to choose.
    pub fn sample(&mut self, logits: &[f32]) -> crate::Result<u32> {
        let _ = logits;
        todo!()
    }
}
