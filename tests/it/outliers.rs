//! Twins of models whose keys and values have channels that are far larger than the others, as those of large trained models do and
//! those of small ones do not. Keys of a pair of channels are so many times larger and queries as much smaller; values are, and
//! columns of the output matrix are as much smaller: in exact arithmetic the model is the same.

use std::sync::Arc;

use longtake::gguf::{GgmlType, Gguf, GgufWriter};
use longtake::tensor::dequantize_row;

/// Pairs of channels of a head of keys, and channels of a head of values, that become outliers: of 64 and 128.
const PAIRS: usize = 3;
const VALUES: usize = 2;

/// The twin of a text model with plain attention whose rotary pairs are (i, i + d / 2); `by` is a power of two, so that not even
/// weights are rounded.
pub fn twin(file: &Gguf, by: f32) -> Arc<Gguf> {
    assert!(by.log2().fract() == 0.0, "{by}");
    let meta = file.meta();
    let arch = meta.need_str("general.architecture").unwrap();
    let size = |name: &str| meta.need_uint(&format!("{arch}.{name}")).unwrap() as usize;
    let (n_head, n_head_kv, n_embd) =
        (size("attention.head_count"), size("attention.head_count_kv"), size("embedding_length"));
    let d = meta.uint(&format!("{arch}.attention.key_length")).unwrap().map_or(n_embd / n_head, |d| d as usize);
    // Of every head others: channels of the pairs, and of values.
    let of_keys = |ih: usize| (0..PAIRS).flat_map(move |i| [0, d / 2].map(|half| (7 * ih + 11 * i) % (d / 2) + half));
    let of_values = |ih: usize| (0..VALUES).map(move |i| (5 * ih + 29 * i + 3) % d);
    let group = n_head / n_head_kv;
    let rows = |n_heads: usize, channels: &dyn Fn(usize) -> Vec<usize>| -> Vec<usize> {
        (0..n_heads).flat_map(|ih| channels(ih).into_iter().map(move |c| ih * d + c)).collect()
    };
    let keys = rows(n_head_kv, &|ih| of_keys(ih).collect());
    let queries = rows(n_head, &|ih| of_keys(ih / group).collect());
    let values = rows(n_head_kv, &|ih| of_values(ih).collect());
    let outputs = rows(n_head, &|ih| of_values(ih / group).collect());
    let mut writer = GgufWriter::new(meta.clone());
    let mut all = Vec::new();
    for t in file.tensors() {
        let n_cols = t.ne[0];
        let part = t.name.strip_prefix("blk.").and_then(|name| name.split_once('.')).map_or("", |(_, part)| part);
        let change = match part {
            "attn_k.weight" | "attn_k.bias" => Some((&keys, by)),
            "attn_q.weight" | "attn_q.bias" => Some((&queries, 1.0 / by)),
            "attn_v.weight" | "attn_v.bias" => Some((&values, by)),
            "attn_output.weight" => Some((&outputs, 1.0 / by)),
            _ => None,
        };
        let Some((which, by)) = change else {
            writer.tensor(t.name.clone(), t.ty, &t.ne).unwrap();
            all.push(file.data(t).to_vec());
            continue;
        };
        let mut x = vec![0f32; t.ne.iter().product()];
        dequantize_row(t.ty, file.data(t), &mut x).unwrap();
        if part == "attn_output.weight" {
            x.chunks_exact_mut(n_cols).for_each(|row| which.iter().for_each(|c| row[*c] *= by));
        } else {
            let width = if part.ends_with("bias") { 1 } else { n_cols };
            which.iter().for_each(|row| x[row * width..][..width].iter_mut().for_each(|x| *x *= by));
        }
        writer.tensor(t.name.clone(), GgmlType::F32, &t.ne).unwrap();
        all.push(x.iter().flat_map(|x| x.to_le_bytes()).collect());
    }
    let bytes = writer.to_bytes(|i, out| {
        out.extend_from_slice(&all[i]);
        Ok(())
    });
    Arc::new(Gguf::from_vec("twin", bytes.unwrap()).unwrap())
}
