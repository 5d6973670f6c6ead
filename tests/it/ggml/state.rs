//! Saved caches of llama.cpp that are made longer, on bytes written by hand.

use ggml_sys::repeated;

/// Two cells of one layer: three bytes of keys per cell, values of two bytes per cell or two rows of an element each.
fn saved(n: u32, with_axes: bool, transposed: bool) -> Vec<u8> {
    let mut out: Vec<u8> = [0xfeed, 0, 1, n].into_iter().flat_map(u32::to_le_bytes).collect();
    for i in 0..n {
        let axes = [i, i, 7];
        let record = [&[i, 1][..], if with_axes { &axes } else { &[] }, &[0]].concat();
        out.extend(record.into_iter().flat_map(u32::to_le_bytes));
    }
    out.extend([u32::from(transposed), 1, 0, 0].into_iter().flat_map(u32::to_le_bytes));
    let cells = |row: u8, len: u8| (0..n as u8).flat_map(move |i| (0..len).map(move |j| 100 * row + 10 * (i % 2) + j));
    out.extend(8u32.to_le_bytes());
    out.extend(3u64.to_le_bytes());
    out.extend(cells(0, 3));
    out.extend(1u32.to_le_bytes());
    if transposed {
        out.extend([2u32, 2].into_iter().flat_map(u32::to_le_bytes));
        out.extend(cells(1, 2).chain(cells(2, 2)));
    } else {
        out.extend(2u64.to_le_bytes());
        out.extend(cells(1, 2));
    }
    out
}

#[test]
fn cells_are_numbered_on_and_rows_repeated() {
    for (with_axes, transposed) in [(false, false), (true, false), (false, true), (true, true)] {
        for depth in [1, 2, 5, 8] {
            let got = repeated(&saved(2, with_axes, transposed), depth as usize).unwrap();
            assert_eq!(got, saved(depth, with_axes, transposed), "{with_axes} {transposed} {depth}");
        }
    }
}

#[test]
fn other_forms_are_refused() {
    let good = saved(2, true, false);
    for n in 0..good.len() {
        assert!(repeated(&good[..n], 5).is_err(), "cut to {n} bytes");
    }
    assert!(repeated(&[&good[..], &[0]].concat(), 5).is_err());
    for (at, name) in [(8, "streams"), (16, "position"), (20, "sequences"), (36, "sequence")] {
        let mut bad = good.clone();
        bad[at] ^= 3;
        assert!(repeated(&bad, 5).is_err(), "{name}");
    }
    let mut huge = good.clone();
    let at = good.len() - 2 * 2 - 8;
    huge[at..at + 8].fill(0xff);
    assert!(repeated(&huge, 5).is_err());
}
