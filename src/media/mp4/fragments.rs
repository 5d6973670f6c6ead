//! Fragments: files whose index is spread over `moof` boxes, each before its part of the pictures.

use super::boxes::{boxes, child, u32_at, u64_at};
use super::samples::SampleTable;
use crate::Result;

/// What holds for the fragments of one track where they say nothing else: looked up once, not for each.
pub(super) struct Defaults {
    id: u32,
    /// Description, duration, size, flags.
    fields: [u32; 4],
}

impl Defaults {
    /// From the content of an `mvex` box, for the track of that id.
    pub(super) fn of(mvex: &[u8], id: u32) -> Defaults {
        let trex = boxes(mvex).find(|(name, data)| name == b"trex" && u32_at(data, 4) == Some(id));
        let field = |i: usize| trex.and_then(|(_, data)| u32_at(data, 8 + i * 4)).unwrap_or(0);
        Defaults { id, fields: std::array::from_fn(field) }
    }
}

impl SampleTable {
    /// Adds the samples of a fragment: the content of a `moof` box that begins at byte `moof_at` of the file.
    ///
    /// # Errors
    /// Those of [`SampleTable::push`].
    pub(super) fn read_moof(&mut self, moof: &[u8], moof_at: u64, defaults: &Defaults) -> Result<()> {
        for (_, traf) in boxes(moof).filter(|(name, _)| name == b"traf") {
            let Some(tfhd) = child(traf, b"tfhd").filter(|tfhd| u32_at(tfhd, 4) == Some(defaults.id)) else { continue };
            let flags = u32_at(tfhd, 0).unwrap_or(0) & 0xFF_FFFF;
            let mut at = 8;
            let mut field = |bit: u32, len: usize| {
                let here = (flags & bit != 0).then_some(at);
                at += if flags & bit != 0 { len } else { 0 };
                here
            };
            let base = field(0x1, 8).and_then(|at| u64_at(tfhd, at)).unwrap_or(moof_at);
            let mut default =
                |bit: u32, i: usize| field(bit, 4).and_then(|at| u32_at(tfhd, at)).unwrap_or(defaults.fields[i]);
            let config = default(0x2, 0);
            let defaults = [default(0x8, 1), default(0x10, 2), default(0x20, 3)];
            if let Some(tfdt) = child(traf, b"tfdt") {
                let time = if tfdt.first() == Some(&1) { u64_at(tfdt, 4) } else { u32_at(tfdt, 4).map(u64::from) };
                self.dts = time.and_then(|t| i64::try_from(t).ok()).unwrap_or(self.dts);
            }
            let mut offset = base;
            for (_, trun) in boxes(traf).filter(|(name, _)| name == b"trun") {
                offset = self.read_trun(trun, base, offset, config, defaults)?;
            }
        }
        Ok(())
    }

    /// One run of samples of a fragment; returns where the next run begins unless it says so itself.
    fn read_trun(&mut self, trun: &[u8], base: u64, next: u64, config: u32, defaults: [u32; 3]) -> Result<u64> {
        let flags = u32_at(trun, 0).unwrap_or(0) & 0xFF_FFFF;
        let count = u32_at(trun, 4).unwrap_or(0);
        let mut at = 8;
        let mut take = |bit: u32| {
            let value = (flags & bit != 0).then(|| u32_at(trun, at));
            at += if flags & bit != 0 { 4 } else { 0 };
            value
        };
        let mut offset = match take(0x1).flatten() {
            Some(shift) => base.saturating_add_signed(i64::from(shift as i32)),
            None => next,
        };
        let first_flags = take(0x4).flatten();
        for i in 0..count {
            let mut field = |bit: u32, default: u32| match take(bit) {
                Some(value) => value.ok_or(()),
                None => Ok(default),
            };
            let fields = (|| {
                Ok::<_, ()>((
                    field(0x100, defaults[0])?,
                    field(0x200, defaults[1])?,
                    field(0x400, defaults[2])?,
                    field(0x800, 0)?,
                ))
            })();
            // The rest of a run that is cut off is lost.
            let Ok((delta, size, sample_flags, shift)) = fields else {
                self.lost = self.lost.saturating_add((count - i) as usize);
                return Ok(offset);
            };
            let sample_flags = first_flags.filter(|_| i == 0).unwrap_or(sample_flags);
            let sync = sample_flags & 0x1_0000 == 0;
            self.push(offset, size, delta, i64::from(shift as i32), sync, config)?;
            offset = offset.saturating_add(u64::from(size));
        }
        Ok(offset)
    }
}
