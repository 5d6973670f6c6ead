//! How long work reports on itself, and how it is asked to stop.

use crate::Result;

/// Listens to a conversion or quantization. Every method has a default that does nothing.
pub trait Progress {
    /// A file is begun: its final name and how many bytes of tensor data it will get.
    fn begin(&mut self, what: &str, n_bytes: u64) {
        let _ = (what, n_bytes);
    }

    /// `n_bytes` more were made, for `tensor`.
    ///
    /// # Errors
    /// An error stops the work; nothing it was writing stays behind.
    fn advance(&mut self, tensor: &str, n_bytes: u64) -> Result<()> {
        let _ = (tensor, n_bytes);
        Ok(())
    }

    /// Something the user should know and could not expect.
    fn note(&mut self, message: &str) {
        let _ = message;
    }
}

/// Listens to nothing.
impl Progress for () {}
