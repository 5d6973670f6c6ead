//! Gated DeltaNet on a GPU, beside the scalar table.

use longtake::kernels::cuda::{DeltaMem, DeltaRowsMem};
use longtake::kernels::{CONV_KERNEL, DeltaRows, DeltaShape, DeltaState, DeltaWeights, delta};

use super::{Rng, down, gpu, scalar, up};

fn close(got: &[f32], want: &[f32], case: &str) {
    let top = want.iter().fold(0f32, |top, x| top.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * top, "{case}: {g} instead of {w} at {i}");
    }
}

#[test]
fn the_recurrence_agrees_with_scalar() {
    let (gpu, kernels) = (gpu(), scalar());
    let shapes = [(1, 1, 128, 128), (2, 4, 16, 32), (1, 3, 144, 48)];
    for (seed, (n_head_k, n_head_v, d_k, d_v)) in shapes.into_iter().enumerate() {
        let shape = DeltaShape { n_head_k, n_head_v, d_k, d_v };
        let (n_channels, n_value) = (shape.conv_dim(), shape.value_dim());
        let mut rng = Rng(seed as u64);
        let (conv, norm) = (rng.vec(CONV_KERNEL * n_channels), rng.vec(d_v));
        let (a, dt_bias) = (rng.vec(n_head_v).iter().map(|a| -a.abs()).collect::<Vec<_>>(), rng.vec(n_head_v));
        let mut state = rng.vec(shape.n_state());
        let dev_state = up(&gpu, &state);
        let [dev_conv, dev_a, dev_dt, dev_norm] = [&conv, &a, &dt_bias, &norm].map(|x| up(&gpu, x));
        let weights = DeltaWeights { conv: &conv, a: &a, dt_bias: &dt_bias, norm: &norm, norm_eps: 1e-6 };
        let of = DeltaMem { conv: &dev_conv, a: &dev_a, dt_bias: &dev_dt, norm: &dev_norm, norm_eps: 1e-6 };
        let broken = up(&gpu, &[0f32]);
        // A batch, a token, another batch: each goes on from the state before.
        for n in [9, 1, 21] {
            let case = format!("{shape:?}, {n} tokens");
            let (mut qkv, z) = (rng.vec(n * n_channels), rng.vec(n * n_value));
            let (beta, alpha) = (rng.vec(n * n_head_v), rng.vec(n * n_head_v));
            let [dev_qkv, dev_z, dev_beta, dev_alpha] = [&qkv, &z, &beta, &alpha].map(|x| up(&gpu, x));
            let out = up(&gpu, &vec![0f32; n * n_value]);
            let rows = DeltaRowsMem { qkv: &dev_qkv, z: &dev_z, beta: &dev_beta, alpha: &dev_alpha };
            gpu.delta(&shape, &of, &dev_state, &rows, n, (&out, &broken)).unwrap();
            let mut want = vec![0f32; n * n_value];
            let rows = DeltaRows { qkv: &mut qkv, z: &z, beta: &beta, alpha: &alpha };
            delta(kernels, &shape, weights, DeltaState::of(&shape, &mut state), rows, &mut want).unwrap();
            close(&down(&out), &want, &case);
            close(&down(&dev_state), &state, &case);
        }
        assert_eq!(down(&broken)[0].to_bits(), 0);
        let (qkv, z) = (up(&gpu, &vec![f32::NAN; n_channels]), up(&gpu, &vec![1f32; n_value]));
        let (beta, alpha) = (up(&gpu, &vec![0f32; n_head_v]), up(&gpu, &vec![0f32; n_head_v]));
        let rows = DeltaRowsMem { qkv: &qkv, z: &z, beta: &beta, alpha: &alpha };
        gpu.delta(&shape, &of, &dev_state, &rows, 1, (&up(&gpu, &vec![0f32; n_value]), &broken)).unwrap();
        assert_eq!(down(&broken)[0].to_bits(), 1, "a NaN is noticed");
    }
}
