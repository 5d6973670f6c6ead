//! What keeps functions that are compiled for an instruction set from being called before somebody asked the CPU for it: the
//! tables of this room are [`Unproven`], and only a CPU that has their features lets a [`Kernels`] out.

use super::detect::features;
use super::{AttentionOps, DeltaOps, Int8Ops, Kernels};

/// Functions that are compiled for CPU features. Nothing in here can be called: there is no way to the functions but
/// [`Unproven::prove`], which asks the CPU, and where they need no features `for_any_cpu`.
#[derive(Clone, Copy)]
pub(super) struct Unproven<T>(T);

impl<T> Unproven<T> {
    /// Locks functions up. Where they are compiled for features, their lists say so.
    pub(super) const fn new(functions: T) -> Unproven<T> {
        Unproven(functions)
    }
}

impl Unproven<Int8Ops> {
    /// What needs no features.
    ///
    /// # Panics
    /// When it needs some, while this program is compiled.
    pub(super) const fn for_any_cpu(&self) -> Int8Ops {
        assert!(self.0.features.is_empty(), "these functions are compiled for features");
        self.0
    }
}

impl Unproven<Kernels> {
    /// The same under another name.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(super) const fn named(&self, name: &'static str) -> Unproven<Kernels> {
        Unproven(Kernels { name, ..self.0 })
    }

    /// The same with other products.
    pub(super) const fn with_int8(&self, int8: Unproven<Int8Ops>) -> Unproven<Kernels> {
        Unproven(Kernels { int8: int8.0, ..self.0 })
    }

    /// The same with another attention.
    pub(super) const fn with_attention(&self, attend: Unproven<AttentionOps>) -> Unproven<Kernels> {
        Unproven(Kernels { attend: attend.0, ..self.0 })
    }

    /// The same with another Gated DeltaNet.
    pub(super) const fn with_delta(&self, delta: Unproven<DeltaOps>) -> Unproven<Kernels> {
        Unproven(Kernels { delta: delta.0, ..self.0 })
    }

    /// A table that needs no features.
    ///
    /// # Panics
    /// When it needs some, while this program is compiled.
    pub(super) const fn for_any_cpu(&self) -> Kernels {
        let Kernels { features, int8, attend, delta, .. } = &self.0;
        let is_free = features.is_empty() && int8.features.is_empty() && attend.features.is_empty();
        assert!(is_free && delta.features.is_empty(), "these functions are compiled for features");
        Kernels { ..self.0 }
    }

    /// The table's name.
    pub(super) fn name(&self) -> &'static str {
        self.0.name
    }

    /// The CPU features that its functions are compiled with, each once.
    pub(super) fn needs(&self) -> Vec<&'static str> {
        let mut needs: Vec<&str> = Vec::new();
        for list in [self.0.features, self.0.int8.features, self.0.attend.features, self.0.delta.features] {
            for name in list.split(',').filter(|name| !name.is_empty()) {
                if !needs.contains(&name) {
                    needs.push(name);
                }
            }
        }
        needs
    }

    /// Those of them that this CPU does not have.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let has = features();
        self.needs().into_iter().filter(|name| !has.contains(&(*name, true))).collect()
    }

    /// The table, where this CPU has all that its functions are compiled with.
    pub(super) fn prove(&'static self) -> Option<&'static Kernels> {
        self.missing().is_empty().then_some(&self.0)
    }
}
