//! One kernel, run so many times and nothing else: what `benches/instructions/count.sh` counts the instructions of under emulation.
//!
//! `count product TYPE COLS ROWS TOKENS TIMES` or `count attention TYPE DEPTH TOKENS TIMES` (12 heads on 2 KV heads of 128)

use std::hint::black_box;

use longtake::cache::CacheType;
use longtake::gguf::GgmlType;
use longtake::kernels::{self, Activations, AttentionShape, CacheRows, KvView, attention, kv_write};
use longtake::random::Rng;
use longtake::tensor::MatView;

const USAGE: &str = "usage: count product TYPE COLS ROWS TOKENS TIMES | attention TYPE DEPTH TOKENS TIMES";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |arg: &str| arg.parse::<usize>().expect(USAGE);
    match args[..] {
        ["product", ty, cols, rows, tokens, times] => {
            product(ty, number(cols), number(rows), number(tokens), number(times))
        }
        ["attention", ty, depth, tokens, times] => attend(ty, number(depth), number(tokens), number(times)),
        _ => panic!("{USAGE}"),
    }
}

fn product(ty: &str, n_cols: usize, n_rows: usize, n_tokens: usize, times: usize) {
    let kernels = kernels::select().expect("the best one of this CPU");
    let all = [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::Q5_K, GgmlType::Q4_0, GgmlType::Q8_0];
    let ty = all.into_iter().find(|t| t.to_string().eq_ignore_ascii_case(ty)).expect("a type of weights");
    let mut rng = Rng::new(1);
    // Small bytes keep the scales finite.
    let data: Vec<u8> =
        (0..ty.row_bytes(n_cols).expect("whole blocks") * n_rows).map(|_| rng.next_u64() as u8 & 0x3b).collect();
    let weights = MatView::new(ty, n_cols, n_rows, &data).expect("whole rows");
    let x = Rng::new(2).vec(n_tokens * n_cols);
    let mut out = vec![0.0; n_tokens * n_rows];
    for _ in 0..times {
        Activations::new(kernels, black_box(&x), n_cols).matmul(weights, &mut out);
        black_box(&mut out);
    }
}

fn attend(ty: &str, depth: usize, n: usize, times: usize) {
    const HEADS: (usize, usize, usize) = (12, 2, 128);
    let kernels = kernels::select().expect("the best one of this CPU");
    let ty =
        CacheType::all().into_iter().find(|t| t.to_string().eq_ignore_ascii_case(ty)).expect("a type of the cache");
    let (n_head, n_head_kv, d) = HEADS;
    let stride = (depth + n) * ty.row_bytes(d).expect("whole blocks");
    let [k, v] = [3, 4].map(|seed| {
        let mut data = vec![0u8; n_head_kv * stride];
        let to = CacheRows { ty, data: &mut data, stride, slot: 0 };
        kv_write(kernels, &Rng::new(seed).vec((depth + n) * n_head_kv * d), None, None, (n_head_kv, d), to)
            .expect("finite");
        data
    });
    let view = KvView { type_k: ty, type_v: ty, k: &k, v: &v, stride_k: stride, stride_v: stride };
    let q = Rng::new(5).vec(n * n_head * d);
    let mut out = vec![0f32; q.len()];
    let shape = AttentionShape { n_head, n_head_kv, d, n_past: depth, causal: true, exact: true };
    for _ in 0..times {
        attention(kernels, shape, view, black_box(&q), &mut out);
        black_box(&mut out);
    }
}
