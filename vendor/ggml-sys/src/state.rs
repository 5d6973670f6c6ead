//! A saved cache of llama.cpp, made longer by repeating its tokens: a stand-in for a long prefill in benches.
//!
//! The form is that of `llama_state_seq_get_data` in the pinned version: magic, sequence, streams (1), cells, one record per
//! cell, then flags, the keys of each layer as rows of cells, the values as rows of cells or, without flash attention,
//! transposed. Models with recurrent layers have their states behind it: cells (1), the position of the last token, sequences (0),
//! then the states themselves, which are of one size at every depth. Whatever does not fit this description is an error.
#![forbid(unsafe_code)]

type Result<T> = std::result::Result<T, String>;

/// Reads little-endian numbers and slices.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("the saved cache ends early")?;
        self.0 = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.bytes(4)?.try_into().expect("four bytes")) as usize)
    }

    fn u64(&mut self) -> Result<usize> {
        Ok(u64::from_le_bytes(self.bytes(8)?.try_into().expect("eight bytes")) as usize)
    }
}

/// The saved cache of tokens 0 to n, repeated until it holds `depth` tokens.
///
/// # Errors
/// A cache that is saved in another form.
pub fn repeated(state: &[u8], depth: usize) -> Result<Vec<u8>> {
    let mut from = Reader(state);
    let mut to = Vec::new();
    to.extend_from_slice(from.bytes(8)?); // magic, sequence
    let (n_streams, n_cells) = (from.u32()?, from.u32()?);
    if n_streams != 1 || n_cells == 0 {
        return Err(format!("`{n_streams}` streams and `{n_cells}` cells in the saved cache, expected 1 and some"));
    }
    to.extend_from_slice(&1u32.to_le_bytes());
    to.extend_from_slice(&(depth as u32).to_le_bytes());

    // position, number of sequences (1), with M-RoPE x, y and token, the sequence
    let start = from.0;
    let fits = |size: &usize| is_records(start, n_cells, *size);
    let record = [24, 12].into_iter().find(fits).ok_or("the cells of the saved cache are not numbered from 0")?;
    let records = from.bytes(n_cells * record)?;
    for (i, cell) in (0..depth).zip(records.chunks_exact(record).cycle()) {
        let position = (i as u32).to_le_bytes();
        let mut cell = cell.to_vec();
        cell[..4].copy_from_slice(&position);
        if record == 24 {
            // Text has the same position on all axes.
            cell[8..12].copy_from_slice(&position);
            cell[12..16].copy_from_slice(&position);
        }
        to.extend_from_slice(&cell);
    }

    let flags = from.bytes(16)?;
    to.extend_from_slice(flags);
    let mut flags = Reader(flags);
    let (transposed, n_layer) = (flags.u32()?, flags.u32()?);
    for _ in 0..n_layer {
        repeat_rows(&mut from, &mut to, n_cells, depth)?;
    }
    for _ in 0..n_layer {
        if transposed == 0 {
            repeat_rows(&mut from, &mut to, n_cells, depth)?;
            continue;
        }
        let header = from.bytes(12)?;
        to.extend_from_slice(header);
        let mut header = Reader(&header[4..]);
        let (element, n_rows) = (header.u32()?, header.u32()?);
        for _ in 0..n_rows {
            repeat(from.bytes(product(n_cells, element)?)?, product(depth, element)?, &mut to);
        }
    }
    if !from.0.is_empty() {
        let (cells, position, sequences) = (from.u32()?, from.u32()?, from.u32()?);
        if (cells, position + 1, sequences) != (1, n_cells, 0) {
            return Err(format!("`{}` bytes are left of the saved cache that are no states", from.0.len()));
        }
        [1, (depth as u32).saturating_sub(1), 0].iter().for_each(|n| to.extend_from_slice(&n.to_le_bytes()));
        to.extend_from_slice(from.bytes(from.0.len())?);
    }
    Ok(to)
}

/// Type and bytes per cell, then the cells.
fn repeat_rows(from: &mut Reader<'_>, to: &mut Vec<u8>, n_cells: usize, depth: usize) -> Result<()> {
    let header = from.bytes(12)?;
    to.extend_from_slice(header);
    let row = Reader(&header[4..]).u64()?;
    repeat(from.bytes(product(n_cells, row)?)?, product(depth, row)?, to);
    Ok(())
}

/// As many bytes as these hold one after the other. Room is made for them alone: a cache at depth takes gigabytes.
fn repeat(bytes: &[u8], mut n: usize, to: &mut Vec<u8>) {
    to.reserve_exact(n);
    while n > 0 && !bytes.is_empty() {
        let part = n.min(bytes.len());
        to.extend_from_slice(&bytes[..part]);
        n -= part;
    }
}

fn product(a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b).ok_or_else(|| "the saved cache has impossible sizes".to_string())
}

/// Whether records of this size say position i, one sequence, ..., sequence 0.
fn is_records(bytes: &[u8], n: usize, size: usize) -> bool {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")));
    (0..n).all(|i| {
        let at = i * size;
        word(at) == Some(i as u32) && word(at + 4) == Some(1) && word(at + size - 4) == Some(0)
    })
}
