//! A card that is the host itself: the same kernels, compiled by the host's C++ compiler and run block after block by
//! `tests/cuda_emu`. For tests; thousands of times slower than any card.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, PoisonError};

use super::memory::{Card, Driver, RawCopy};
use crate::{Error, Result};

unsafe extern "C" {
    fn longtake_emulation_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        args: *mut *mut c_void,
    ) -> c_int;
}

impl Card {
    /// An emulated card with `memory` bytes.
    pub fn emulated(memory: usize) -> Card {
        Card::new(Emulated { memory, taken: Mutex::default() })
    }
}

struct Emulated {
    memory: usize,
    /// Memory by its address, in words of 16 bytes, as a card aligns it (and better).
    taken: Mutex<HashMap<u64, Vec<u128>>>,
}

impl Emulated {
    fn free_bytes(&self, taken: &HashMap<u64, Vec<u128>>) -> usize {
        self.memory.saturating_sub(taken.values().map(|words| words.len() * size_of::<u128>()).sum())
    }
}

impl Driver for Emulated {
    fn name(&self) -> &str {
        "emulated card"
    }

    fn memory(&self) -> Result<(u64, u64)> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((self.free_bytes(&taken) as u64, self.memory as u64))
    }

    fn alloc(&self, bytes: usize) -> Result<Option<u64>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > self.free_bytes(&taken) {
            return Ok(None);
        }
        let words = vec![0u128; bytes.div_ceil(size_of::<u128>())];
        let at = words.as_ptr() as u64;
        taken.insert(at, words);
        Ok(Some(at))
    }

    unsafe fn free(&self, at: u64) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
    }

    unsafe fn copy(&self, copy: RawCopy) -> Result<()> {
        for row in 0..copy.rows {
            let host = copy.host.wrapping_add(row * copy.host_pitch);
            let card = (copy.card as *mut u8).wrapping_add(row * copy.card_pitch);
            let (from, to) = if copy.to_card { (host, card) } else { (card, host) };
            // SAFETY: the caller's promise: `width` bytes on both sides, which do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), to, copy.width) };
        }
        Ok(())
    }

    unsafe fn launch(&self, name: &str, grid: [u32; 3], block: u32, args: &mut [*mut c_void]) -> Result<()> {
        let c_name = CString::new(name).expect("names of kernels are plain words");
        let block = [block, 1, 1];
        // SAFETY: the caller's promise about the arguments; grid and block are three numbers each.
        let code =
            unsafe { longtake_emulation_launch(c_name.as_ptr(), grid.as_ptr(), block.as_ptr(), args.as_mut_ptr()) };
        match code {
            0 => Ok(()),
            1 => Err(Error::unsupported(format!("there is no kernel `{name}`"))),
            _ => Err(Error::limit(format!("no card runs `{name}` on {grid:?} blocks of {block:?} threads"))),
        }
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
