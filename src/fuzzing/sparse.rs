//! A file that ends in zeros which take no room: media data and weights that no parser looks at.

use std::io::{Read, Result, Seek, SeekFrom};

/// Most zeros after an input: enough for an index to point at, and soon read should a parser read all of it.
const MAX_ZEROS: u32 = 1 << 20;

/// Bytes with zeros after them, read like a file.
pub(crate) struct Sparse<'a> {
    head: &'a [u8],
    len: u64,
    at: u64,
}

impl<'a> Sparse<'a> {
    /// The file that `input` describes: the first four bytes are the number of zeros (below a megabyte), little-endian, then
    /// comes what stands before them.
    pub(crate) fn new(input: &'a [u8]) -> Option<Sparse<'a>> {
        let (zeros, head) = input.split_first_chunk::<4>()?;
        let len = head.len() as u64 + u64::from(u32::from_le_bytes(*zeros) % MAX_ZEROS);
        Some(Sparse { head, len, at: 0 })
    }

    /// The input that describes `file`, whose zeros at the end are counted.
    pub(crate) fn input(file: &[u8]) -> Vec<u8> {
        let n_head = file.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let n_head = n_head.max(file.len().saturating_sub(MAX_ZEROS as usize - 1));
        let zeros = (file.len() - n_head) as u32;
        [&zeros.to_le_bytes()[..], &file[..n_head]].concat()
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// All of it.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.head.to_vec();
        bytes.resize(self.len as usize, 0);
        bytes
    }
}

impl Read for Sparse<'_> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let n = self.len.saturating_sub(self.at).min(out.len() as u64) as usize;
        let here = usize::try_from(self.at).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        let n_head = here.len().min(n);
        out[..n_head].copy_from_slice(&here[..n_head]);
        out[n_head..n].fill(0);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Sparse<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(shift) => self.len.checked_add_signed(shift),
            SeekFrom::Current(shift) => self.at.checked_add_signed(shift),
        };
        self.at = at.ok_or_else(|| std::io::Error::other("a place before the file"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_its_file() {
        for file in [&b""[..], b"\0\0", b"abc", b"abc\0\0\0"] {
            let input = Sparse::input(file);
            let mut sparse = Sparse::new(&input).unwrap();
            assert_eq!((sparse.len(), sparse.to_vec()), (file.len() as u64, file.to_vec()));
            let mut read = Vec::new();
            sparse.read_to_end(&mut read).unwrap();
            assert_eq!(read, file);
            sparse
                .seek(SeekFrom::End(-1))
                .map_or_else(|_| assert!(file.is_empty()), |at| assert_eq!(at + 1, sparse.len()));
        }
    }
}
