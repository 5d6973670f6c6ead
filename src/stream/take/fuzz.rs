//! Takes from bytes, for `crate::fuzzing`.

use byteorder::{ByteOrder, LE};
use xxhash_rust::xxh3::xxh3_64;

use super::record::{self, BYTES, Record, WORDS, chain_start, hash_of_nothing, hash_slots};
use super::{
    CACHE_K, CACHE_STATES, CACHE_V, CHECKPOINTS, STATE_PLACES, Take, TakeHeader, rows_ne, states_ne, tensors_as_said,
};
use crate::Result;
use crate::cache::{CacheShape, CacheType, KvCache, LayerSet, Recurrent};
use crate::fuzzing::Sparse;
use crate::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use crate::kernels::DeltaShape;
use crate::position::Clock;
use crate::stream::stamps::{Markers, PairText};

/// A whole take. Hashes would let no changed file through, so they are made to fit first.
pub(crate) fn take(input: &[u8]) {
    let Some(file) = Sparse::new(input) else { return };
    let bytes = file.to_vec();
    let Ok(gguf) = Gguf::from_vec("fuzz", bytes.clone()) else { return };
    let Ok(header) = TakeHeader::read(gguf.meta()) else { return };
    if header.check().is_err() {
        return;
    }
    assert!(header.n_tokens() <= header.shape.n_ctx);
    let again = TakeHeader::read(&header.to_metadata()).expect("what was written can be read");
    // The text of numbers tells NaN from other numbers, as `==` would not.
    assert_eq!(format!("{again:?}"), format!("{header:?}"));

    let bytes = sealed(&gguf, &header, bytes.clone()).unwrap_or(bytes);
    let Ok(gguf) = Gguf::from_vec("fuzz", bytes) else { return };
    let take = Take { records: Vec::new(), header, file: gguf };
    let Ok(take) = take.checked() else { return };
    assert!(take.n_done() <= take.header.n_tokens() && take.n_checkpoints() >= 1);
    let cache = take.cache().expect("a checked take has a cache");
    assert_eq!(cache.len(), take.n_done());
}

/// The file with hashes that fit: each record of its table continues the one before and counts the rows that are there.
fn sealed(gguf: &Gguf, header: &TakeHeader, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (k, v) = tensors_as_said(gguf, &header.shape).ok()?;
    let table = gguf.tensor(CHECKPOINTS)?;
    let copies = (gguf.data_copy(k).ok()?, gguf.data_copy(v).ok()?);
    let cache = KvCache::from_memory(header.shape, 0, copies.0, copies.1).ok()?;
    let (mut chain, mut from) = (chain_start(gguf.fronts().next()?), 0);
    // What the record of each place says of the states, where there are any.
    let states = |i: usize| {
        let [n_state, n_layer, _] = states_ne(&header.shape).filter(|_| i > 0)?;
        let data = gguf.data(gguf.tensor(CACHE_STATES)?);
        let n_bytes = n_state.checked_mul(n_layer)?.checked_mul(size_of::<f32>())?;
        data.chunks_exact(n_bytes.max(1)).nth(i % STATE_PLACES).map(xxh3_64)
    };
    let start = usize::try_from(gguf.file_offset(table)).ok()?;
    for (i, slot) in bytes.get_mut(start..start + table.n_bytes)?.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
        let word = |i: usize| LE::read_u64(&slot[8 * i..]);
        if slot.iter().all(|b| *b == 0) {
            break;
        }
        let to = usize::try_from(word(0)).ok().filter(|n| (from..=header.n_tokens()).contains(n))?;
        let rows = if to == 0 { hash_of_nothing() } else { hash_slots(&cache, from..to) };
        let record = Record::after(chain, to as u64, (rows, states(i).unwrap_or(0)), word(2), word(3));
        (chain, from) = (record.chain, to);
        *slot = record.to_bytes();
    }
    Some(bytes)
}

/// A table of records alone: a count of tokens, then the table; an odd count has the table sealed first.
pub(crate) fn records(input: &[u8]) {
    const START: u64 = 77;
    let Some((head, table)) = input.split_first_chunk::<4>() else { return };
    let n_tokens = u64::from(u32::from_le_bytes(*head));
    let mut table = table.to_vec();
    if n_tokens % 2 == 1 {
        let mut chain = START;
        for slot in table.as_chunks_mut::<BYTES>().0.iter_mut().take_while(|slot| slot.iter().any(|b| *b != 0)) {
            let word = |i: usize| LE::read_u64(&slot[8 * i..]);
            let record = Record::after(chain, word(0), (word(1), word(4)), word(2), word(3));
            chain = record.chain;
            *slot = record.to_bytes();
        }
    }
    let Ok(records) = record::read(&table, START, n_tokens) else { return };
    let mut chain = START;
    for (i, record) in records.iter().enumerate() {
        assert!(record.n_tokens <= n_tokens && (i == 0) == (record.n_tokens == 0));
        assert_eq!(
            *record,
            Record::after(chain, record.n_tokens, (record.rows, record.states), record.milliseconds, record.written)
        );
        assert_eq!(record.to_bytes()[..], table[i * BYTES..][..BYTES]);
        chain = record.chain;
    }
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let table = |n_tokens: u32, counts: &[u64], room: usize| {
        let mut input = n_tokens.to_le_bytes().to_vec();
        let mut chain = 77;
        for n in counts {
            let record = Record::after(chain, *n, (n ^ 5, n % 3), 1000 + n, 1_700_000_000 + n);
            chain = record.chain;
            input.extend(record.to_bytes());
        }
        input.resize(4 + room * BYTES, 0);
        input
    };
    vec![
        table(1501, &[0, 512, 1024, 1501], 6),
        table(1500, &[0, 512, 1500], 4),
        table(1, &[0], 1),
        table(9, &[0, 9], 2),
    ]
}

pub(crate) fn take_seeds() -> Vec<Vec<u8>> {
    let types = [("f32", "f32"), ("f16", "q8_0"), ("q4_0", "q4_0"), ("q8_0", "q4_0h")];
    let types = types.map(|(k, v)| [k, v].map(|name| CacheType::from_name(name).expect("a type of a cache")));
    let plain = types.iter().flat_map(|types| [0, 1, 2].map(|n| seed(*types, n, [false, false])));
    let others = [[true, false], [false, true], [true, true]].map(|has| seed(types[0], 0, has));
    plain.chain(others).map(|file| Sparse::input(&file.expect("a seed that makes sense"))).collect()
}

/// A take of two frame pairs of one token each, with `n_forgotten` of one more before them; with a recurrent layer before the one
/// of attention, or with stamps.
fn seed([type_k, type_v]: [CacheType; 2], n_forgotten: usize, [is_hybrid, is_stamped]: [bool; 2]) -> Result<Vec<u8>> {
    let state = DeltaShape { n_head_k: 1, n_head_v: 1, d_k: 16, d_v: 16 };
    let recurrent = is_hybrid.then(|| Recurrent { layers: LayerSet::of([true, false]), state });
    let n_layer = if is_hybrid { 2 } else { 1 };
    let lead = vec![vec![4, 5], vec![4, 6, 5]];
    let header = TakeHeader {
        model_name: "m".to_string(),
        model_fingerprint: "0123".to_string(),
        mmproj_fingerprint: "4567".to_string(),
        layout: "hope".to_string(),
        temporal_scale: 0.75,
        shape: CacheShape { n_layer, n_head_kv: 1, d: 32, n_ctx: 16, type_k, type_v, recurrent },
        n_batch: 4,
        n_encode: 1,
        before: vec![1, 2],
        after: vec![3],
        grid: [2 + n_forgotten, 1, 1],
        n_forgotten,
        merge: 2,
        height: 28,
        width: 28,
        dedup: (n_forgotten == 1).then_some(4.0),
        keep: (n_forgotten == 1).then_some(0.5),
        kept: (n_forgotten == 1).then(|| vec![1, 1]),
        frames: vec![0, 1, 2, 3],
        fps: 25.0,
        clock: (n_forgotten == 2).then_some(Clock { seconds_per_pair: 0.5, ids_per_second: 2.0 }),
        markers: if is_stamped { Markers::Replaced } else { Markers::Plain },
        text: is_stamped.then(|| PairText { lead, tail: vec![7], n_taken: 1 }),
        n_forgotten_text: 0,
        is_compressed: n_forgotten == 1,
        system_prompt: (n_forgotten == 1).then(|| "Be brief.".to_string()),
        source: "v.mp4".to_string(),
        source_bytes: 1234,
        source_fingerprint: "89ab".to_string(),
        asked: Some(vec![("fps".to_string(), "2".to_string())]),
    };
    let mut meta: Metadata = header.to_metadata();
    meta.set("general.alignment", 32u32);
    let shape = header.shape;
    let ne = rows_ne(&shape);
    let mut writer = GgufWriter::new(meta);
    writer.tensor(CHECKPOINTS, GgmlType::I64, &[WORDS, 3])?;
    writer.tensor(CACHE_K, type_k.ty, &ne)?;
    writer.tensor(CACHE_V, type_v.ty, &ne)?;
    let n_states = match states_ne(&shape) {
        Some(ne) => {
            writer.tensor(CACHE_STATES, GgmlType::F32, &ne)?;
            ne.iter().product()
        }
        None => 0,
    };
    let first = Record::after(chain_start(&writer.front()?), 0, (hash_of_nothing(), 0), 0, 1_700_000_000);
    let last = Record::after(first.chain, header.n_tokens() as u64, (0, 0), 5, 1_700_000_005);
    let rows = |ty: CacheType| ty.row_bytes(shape.d).unwrap_or_default() * shape.n_ctx;
    writer.to_bytes(|i, out| {
        match i {
            0 => out.extend([first.to_bytes(), last.to_bytes(), [0; BYTES]].concat()),
            1 => out.resize(rows(type_k), 0),
            2 => out.resize(rows(type_v), 0),
            _ => (0..n_states).for_each(|i| out.extend((i as f32).to_le_bytes())),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_takes_once_they_are_sealed() {
        for input in take_seeds() {
            let bytes = Sparse::new(&input).unwrap().to_vec();
            let gguf = Gguf::from_vec("seed", bytes.clone()).unwrap();
            let header = TakeHeader::read(gguf.meta()).unwrap();
            let bytes = sealed(&gguf, &header, bytes).unwrap();
            let take = Take { records: Vec::new(), header, file: Gguf::from_vec("seed", bytes).unwrap() };
            assert!(take.checked().unwrap().is_complete());
        }
    }
}
