//! What a layer of the language model does to each token by itself: an MLP, or a few of many that a router chooses. The weights, by
//! name; what is done with them is in `decoder.rs`.

use super::device::{Device, Linear, Stack};
use super::family::FfnSpec;
use super::host::Host;
use super::weights::Loader;
use super::{ExpertShape, HParams};
use crate::{Error, Result};

/// The second half of a layer.
pub(super) enum Ffn<D: Device> {
    Dense(Mlp<D>),
    Experts(Experts<D>),
}

/// down(silu(gate · x) * up · x). Matrices are (rows, columns) = (outputs, inputs).
pub(super) struct Mlp<D: Device> {
    /// (n_ff, n_embd)
    pub gate: Linear<D>,
    pub up: Linear<D>,
    /// (n_embd, n_ff)
    pub down: Linear<D>,
}

/// MLPs of which each token goes through a few.
pub(super) struct Experts<D: Device> {
    pub shape: ExpertShape,
    /// Scores of the experts: (n, n_embd).
    pub router: Linear<D>,
    /// Of each expert (n_ff, n_embd).
    pub gate: Stack<D>,
    pub up: Stack<D>,
    /// Of each expert (n_embd, n_ff).
    pub down: Stack<D>,
    /// What every token goes through beside them, behind what its sigmoid weighs it with: (1, n_embd).
    pub shared: Option<(Linear<D>, Mlp<D>)>,
}

impl Ffn<Host> {
    /// That of layer `il`, or `None` where a matrix is missing.
    pub(super) fn load(load: &mut Loader<'_>, hp: &HParams, il: usize) -> Option<Ffn<Host>> {
        match (hp.spec.ffn, hp.experts) {
            (FfnSpec::Experts { shared }, Some(shape)) => Experts::load(load, hp, shape, shared, il).map(Ffn::Experts),
            _ => Mlp::load(load, hp, il, "").map(Ffn::Dense),
        }
    }

    /// A copy on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    pub(super) fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Ffn<D>> {
        Ok(match self {
            Ffn::Dense(mlp) => Ffn::Dense(mlp.on(home, what)?),
            Ffn::Experts(Experts { shape, router, gate, up, down, shared }) => {
                let shared =
                    shared.as_ref().map(|(gate, mlp)| Ok::<_, Error>((gate.on(home, what)?, mlp.on(home, what)?)));
                // Where both are in one tensor, that goes there once.
                let on_gate = gate.on::<D>(home, what)?;
                let Stack { mat, first, step, n_rows } = up;
                let on_up = if mat.is(&gate.mat) {
                    Stack { mat: on_gate.mat.clone(), first: *first, step: *step, n_rows: *n_rows }
                } else {
                    up.on(home, what)?
                };
                Ffn::Experts(Experts {
                    shape: *shape,
                    router: router.on(home, what)?,
                    gate: on_gate,
                    up: on_up,
                    down: down.on(home, what)?,
                    shared: shared.transpose()?,
                })
            }
        })
    }
}

impl<D: Device> Ffn<D> {
    /// All of its matrices, those of experts once for all of them.
    pub(super) fn mats(&self) -> Vec<&D::Mat> {
        match self {
            Ffn::Dense(mlp) => mlp.mats().into(),
            Ffn::Experts(Experts { router, gate, up, down, shared, .. }) => {
                let shared = shared.iter().flat_map(|(gate, mlp)| [&gate.weight].into_iter().chain(mlp.mats()));
                [&router.weight, &gate.mat, &up.mat, &down.mat].into_iter().chain(shared).collect()
            }
        }
    }
}

impl Mlp<Host> {
    /// That of layer `il` whose tensors' names have this end.
    fn load(load: &mut Loader<'_>, hp: &HParams, il: usize, end: &str) -> Option<Mlp<Host>> {
        let name = |part: &str| format!("blk.{il}.{part}{end}");
        // Every tensor is asked for before the first `?`, so that one error lists all that are wrong.
        let gate = load.matrix(&name("ffn_gate"), hp.n_embd, hp.n_ff);
        let up = load.matrix(&name("ffn_up"), hp.n_embd, hp.n_ff);
        let down = load.matrix(&name("ffn_down"), hp.n_ff, hp.n_embd);
        Some(Mlp { gate: gate?, up: up?, down: down? })
    }

    fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Mlp<D>> {
        let Mlp { gate, up, down } = self;
        Ok(Mlp { gate: gate.on(home, what)?, up: up.on(home, what)?, down: down.on(home, what)? })
    }
}

impl<D: Device> Mlp<D> {
    fn mats(&self) -> [&D::Mat; 3] {
        [&self.gate.weight, &self.up.weight, &self.down.weight]
    }
}

impl Experts<Host> {
    fn load(load: &mut Loader<'_>, hp: &HParams, shape: ExpertShape, shared: bool, il: usize) -> Option<Experts<Host>> {
        let ExpertShape { n, n_ff, .. } = shape;
        let name = |part: &str| format!("blk.{il}.{part}");
        let router = load.matrix(&name("ffn_gate_inp"), hp.n_embd, n);
        let [gate, up] = load.gate_and_up(&name("ffn"), hp.n_embd, n_ff, n);
        let down = load.stack(&name("ffn_down_exps"), n_ff, hp.n_embd, n);
        let shared = shared.then(|| {
            let gate = load.matrix(&name("ffn_gate_inp_shexp"), hp.n_embd, 1);
            let mlp = Mlp::load(load, hp, il, "_shexp");
            Some((gate?, mlp?))
        });
        let (router, gate, up, down) = (router?, gate?, up?, down?);
        // The outer one says whether there is a shared one, the inner one whether it is whole.
        let shared = shared.map_or(Some(None), |found| found.map(Some))?;
        Some(Experts { shape, router, gate, up, down, shared })
    }
}
