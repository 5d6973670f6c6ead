//! Row operations, embeddings, picking.

use longtake::kernels::cuda::{DevMat, TopMem};
use longtake::kernels::{Kernels, gelu_erf};
use longtake::tensor::{MatView, dequantize_row, quantize_row};

use super::{Rng, WEIGHT_TYPES, down, gpu, scalar, up};

fn close(got: &[f32], want: &[f32], case: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-6 * (w.abs() + 1.0), "{case}: {g} instead of {w} at {i}");
    }
}

#[test]
fn row_operations_agree_with_scalar() {
    let (gpu, k) = (gpu(), scalar());
    for (seed, (n_rows, n)) in [(1, 1), (3, 5), (2, 31), (4, 33), (1, 257), (3, 1536)].into_iter().enumerate() {
        let mut rng = Rng(seed as u64);
        let (x, y) = (rng.vec(n_rows * n), rng.vec(n_rows * n));
        let (w, b) = (rng.vec(n), rng.vec(n));
        let wide: Vec<f32> = x.iter().map(|v| v * 30.0).collect();
        let case = |op: &str| format!("{op} seed {seed} ({n_rows}, {n})");
        let rows = |op: &dyn Fn(&[f32], &mut [f32])| {
            let mut out = vec![0f32; n_rows * n];
            x.chunks(n).zip(out.chunks_mut(n)).for_each(|(x, out)| op(x, out));
            out
        };
        let (dev_x, dev_w, dev_b, out) = (up(&gpu, &x), up(&gpu, &w), up(&gpu, &b), up(&gpu, &x));

        gpu.rms_norm(&dev_x, &dev_w, 1e-6, &out, n_rows).unwrap();
        close(&down(&out), &rows(&|x, out| (k.rms_norm)(x, &w, 1e-6, out)), &case("rms_norm"));
        gpu.layer_norm(&dev_x, (&dev_w, &dev_b), 1e-6, &out, n_rows).unwrap();
        close(&down(&out), &rows(&|x, out| (k.layer_norm)(x, &w, &b, 1e-6, out)), &case("layer_norm"));

        let element = |op: &dyn Fn(&Kernels, &mut [f32])| {
            let mut x = wide.clone();
            op(k, &mut x);
            x
        };
        let (gate, gelu, erf, sum) = (up(&gpu, &wide), up(&gpu, &wide), up(&gpu, &wide), up(&gpu, &wide));
        gpu.silu_mul(&gate, &up(&gpu, &y), n_rows * n).unwrap();
        close(&down(&gate), &element(&|k, x| (k.silu_mul)(x, &y)), &case("silu_mul"));
        gpu.quick_gelu(&gelu, n_rows * n).unwrap();
        close(&down(&gelu), &element(&|k, x| (k.quick_gelu)(x)), &case("quick_gelu"));
        gpu.gelu_erf(&erf, n_rows * n).unwrap();
        close(&down(&erf), &element(&|_, x| gelu_erf(x)), &case("gelu_erf"));
        gpu.add(&sum, &up(&gpu, &y), n_rows * n).unwrap();
        let want = element(&|_, x| x.iter_mut().zip(&y).for_each(|(x, y)| *x += y));
        assert_eq!(down(&sum), want, "{}", case("add"));
    }
}

/// Queries and gates of rows that hold both, rows in another order, learned positions: as plain loops do it.
#[test]
fn rows_are_arranged_as_they_should() {
    let gpu = gpu();
    for (seed, (n, n_head, d)) in [(1, 1, 2), (5, 3, 20), (7, 2, 256)].into_iter().enumerate() {
        let mut rng = Rng(seed as u64 + 60);
        let (rows, x) = (rng.vec(n * n_head * 2 * d), rng.vec(n * n_head * d));
        let (dev_rows, queries, gated) = (up(&gpu, &rows), up(&gpu, &x), up(&gpu, &x));
        gpu.take_queries(&dev_rows, (n * n_head, d), &queries).unwrap();
        gpu.gate_heads(&dev_rows, (n * n_head, d), &gated).unwrap();
        let at = |i: usize| i / d * 2 * d + i % d;
        assert_eq!(down(&queries), (0..x.len()).map(|i| rows[at(i)]).collect::<Vec<_>>());
        for (i, got) in down(&gated).iter().enumerate() {
            let want = f64::from(x[i]) / (1.0 + f64::from(-rows[at(i) + d]).exp());
            assert!((f64::from(*got) - want).abs() < 1e-6, "gate {i}: {got} for {want}");
        }
    }
    let mut rng = Rng(70);
    let (n_seq, n_per_seq, width) = (2, 6, 5);
    let (rows, to) = (rng.vec(n_seq * n_per_seq * width), [3i32, 0, 5, 1, 4, 2]);
    let out = up(&gpu, &vec![f32::NAN; rows.len()]);
    let ids = gpu.upload(&to, "test").unwrap();
    gpu.reorder_rows(&up(&gpu, &rows), (n_seq * n_per_seq, width), (&ids, n_per_seq), &out).unwrap();
    let got = down(&out);
    for it in 0..n_seq * n_per_seq {
        let place = it / n_per_seq * n_per_seq + to[it % n_per_seq] as usize;
        assert_eq!(got[place * width..][..width], rows[it * width..][..width], "row {it}");
    }
    for (h, w, side) in [(2, 3, 5), (6, 1, 4), (1, 6, 1), (3, 2, 2)] {
        let (table, x) = (rng.vec(side * side * width), rng.vec(n_seq * h * w * width));
        let places: Vec<i32> = (0..h * w).flat_map(|i| [(i / w) as i32, (i % w) as i32]).collect();
        let (places, dev) = (gpu.upload(&places, "test").unwrap(), up(&gpu, &x));
        gpu.add_positions(&dev, (n_seq * h * w, width), (&places, h * w), (h, w), (&up(&gpu, &table), side)).unwrap();
        let got = down(&dev);
        let spot = |at: usize, n: usize| {
            let x = if n > 1 { (at * (side - 1)) as f64 / (n - 1) as f64 } else { 0.0 };
            (x as usize, (x as usize + 1).min(side - 1), x.fract())
        };
        for (i, got) in got.iter().enumerate() {
            let (it, e) = (i / width % (h * w), i % width);
            let ((y0, y1, fy), (x0, x1, fx)) = (spot(it / w, h), spot(it % w, w));
            let of = |y: usize, x: usize| f64::from(table[(y * side + x) * width + e]);
            let above = of(y0, x0) * (1.0 - fx) + of(y0, x1) * fx;
            let below = of(y1, x0) * (1.0 - fx) + of(y1, x1) * fx;
            let want = f64::from(x[i]) + above * (1.0 - fy) + below * fy;
            assert!((f64::from(*got) - want).abs() < 1e-5, "{h}x{w} on {side}: {got} for {want}");
        }
    }
}

/// Weights become the same floats as on the host, to the last bit.
#[test]
fn embedding_rows_are_those_of_the_host() {
    let gpu = gpu();
    for ty in WEIGHT_TYPES {
        for (seed, blocks) in [1, 2, 5].into_iter().enumerate() {
            let (n_cols, n_rows) = (ty.block_len() * blocks, 7);
            let mut rng = Rng(seed as u64 + 10);
            let mut packed = vec![0u8; n_rows * ty.row_bytes(n_cols).unwrap()];
            quantize_row(ty, &rng.vec(n_rows * n_cols), &mut packed, None).unwrap();
            let mut want = vec![0f32; n_rows * n_cols];
            dequantize_row(ty, &packed, &mut want).unwrap();
            let view = MatView::new(ty, n_cols, n_rows, &packed).unwrap();
            let table = DevMat::upload(&gpu, view, "test").unwrap();
            let out = gpu.alloc(n_rows * n_cols * 4, "test").unwrap();
            gpu.embed(&table, None, n_rows, &out).unwrap();
            assert!(down(&out) == want, "{ty} seed {seed}: whole");
            // The last is outside the matrix, and becomes a row within it.
            let ids = [6, 0, 3, 3, 7];
            let on_gpu = gpu.upload(&ids, "test").unwrap();
            gpu.embed(&table, Some(&on_gpu), ids.len(), &out).unwrap();
            let row = |id: &i32| want[(*id % 7) as usize * n_cols..][..n_cols].to_vec();
            let rows: Vec<f32> = ids.iter().flat_map(row).collect();
            assert!(down(&out)[..rows.len()] == rows, "{ty} seed {seed}: tokens");
        }
    }
}

#[test]
fn the_largest_come_first_and_ties_by_index() {
    let gpu = gpu();
    for (seed, (n_rows, n, k)) in
        [(1, 1, 1), (2, 3, 5), (1, 1000, 7), (3, 2500, 40), (2, 4096, 3), (2, 9000, 5)].into_iter().enumerate()
    {
        let mut rng = Rng(seed as u64 + 20);
        // Few different values, so that there are ties; some that are no numbers.
        let mut x: Vec<f32> = (0..n_rows * n).map(|_| (rng.normal() * 20.0).round()).collect();
        for _ in 0..n / 10 {
            let at = rng.below(n_rows * n);
            x[at] = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY][rng.below(3)];
        }
        let [values, ids, flags] = gpu.alloc_parts([n_rows * k * 4, n_rows * k * 4, 4], "test").unwrap();
        let to = TopMem::new(&gpu, (n_rows, n), k, values, ids).unwrap();
        gpu.top_k(&up(&gpu, &x), (n_rows, n), k, &to, &flags).unwrap();
        let (values, mut ids, mut flag) = (down(&to.values), vec![0i32; n_rows * k], [0i32]);
        to.ids.read(&mut ids).unwrap();
        flags.read(&mut flag).unwrap();
        let is_broken = x.iter().any(|v| v.is_nan() || *v == f32::INFINITY);
        assert_eq!(flag, [if is_broken { 2 } else { 0 }], "seed {seed}");
        for (r, row) in x.chunks(n).enumerate() {
            let mut want: Vec<usize> = (0..n).filter(|i| !row[*i].is_nan()).collect();
            want.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
            let mut want: Vec<i32> = want.into_iter().map(|i| i as i32).take(k).collect();
            want.resize(k, -1);
            let got = &ids[r * k..][..k];
            // Zeros of both signs are equal.
            let same = |a: i32, b: i32| a == b || (a >= 0 && b >= 0 && row[a as usize] == row[b as usize]);
            assert!(got.iter().zip(&want).all(|(a, b)| same(*a, *b)), "seed {seed} row {r}: {got:?} not {want:?}");
            let found = got.iter().zip(&values[r * k..]).filter(|(id, _)| **id >= 0);
            found.for_each(|(id, v)| assert_eq!(row[*id as usize], *v, "seed {seed} row {r}"));
        }
    }
}
