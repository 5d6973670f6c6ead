//! Layers whose rows live in the memory of a device. The cache keeps room for them on the host as well, which takes no memory
//! until [`KvCache::pull`] brings rows over: to be written to a take, looked at, or moved.

use std::any::Any;
use std::ops::Range;

use super::{CachePart, CacheShape, KvCache};
use crate::Result;

/// Equally long rows of bytes at equal distances.
#[derive(Debug, Clone, Copy)]
pub struct Strided {
    /// Bytes before the first one.
    pub at: usize,
    /// Bytes from row to row.
    pub pitch: usize,
    /// Bytes of each.
    pub width: usize,
    /// How many there are.
    pub rows: usize,
}

/// Keys and values of consecutive layers in the memory of a device, laid out as on the host.
pub trait DeviceRows: Send + Sync {
    /// Which layers.
    fn layers(&self) -> Range<usize>;

    /// Replaces `rows` of keys or values by those at the same places in `host`, which holds these layers alone.
    ///
    /// # Errors
    /// What the device says.
    fn write(&self, part: CachePart, host: &[u8], rows: Strided) -> Result<()>;

    /// The opposite direction.
    ///
    /// # Errors
    /// What the device says.
    fn read(&self, part: CachePart, host: &mut [u8], rows: Strided) -> Result<()>;

    /// Replaces the states of the recurrent ones among these layers by `host`, (layers, n_state) floats.
    ///
    /// # Errors
    /// What the device says.
    fn write_states(&self, host: &[f32]) -> Result<()>;

    /// The opposite direction.
    ///
    /// # Errors
    /// What the device says.
    fn read_states(&self, host: &mut [f32]) -> Result<()>;

    /// For the device, which knows its own kind.
    fn as_any(&self) -> &dyn Any;
}

/// All layers that are elsewhere.
pub(super) struct Elsewhere {
    rows: Vec<Box<dyn DeviceRows>>,
    /// Leading slots that hold on the devices what they should.
    pub n_device: usize,
    /// Leading slots of these layers that do so on the host.
    pub n_host: usize,
}

impl KvCache {
    /// Gives layers their rows on devices; each call replaces what was there.
    pub fn place(&mut self, rows: Vec<Box<dyn DeviceRows>>) {
        if let Some(states) = &mut self.states {
            (states.here, states.there) = (true, false);
        }
        self.elsewhere = Some(Elsewhere { rows, n_device: 0, n_host: self.len });
    }

    /// The rows on each device, in the order in which they were placed; none where all layers are on the host.
    pub fn placed(&self) -> &[Box<dyn DeviceRows>] {
        self.elsewhere.as_ref().map_or(&[], |elsewhere| &elsewhere.rows)
    }

    /// Brings over what the host holds and the devices do not.
    ///
    /// # Errors
    /// What a device says.
    pub fn push(&mut self) -> Result<()> {
        let Some(elsewhere) = &mut self.elsewhere else { return Ok(()) };
        let missing = elsewhere.n_device..self.len;
        if !missing.is_empty() {
            assert_eq!(elsewhere.n_host, self.len, "rows are on the host or on the devices");
            for rows in &elsewhere.rows {
                for (part, host, row) in [(CachePart::K, &self.k, self.row_k), (CachePart::V, &self.v, self.row_v)] {
                    let (memory, strided) = these(&self.shape, &rows.layers(), row, &missing);
                    rows.write(part, &host[memory], strided)?;
                }
            }
            elsewhere.n_device = self.len;
        }
        if let Some(states) = self.states.as_mut().filter(|states| !states.there) {
            for rows in &elsewhere.rows {
                rows.write_states(states.of(&rows.layers()))?;
            }
            states.there = true;
        }
        Ok(())
    }

    /// Brings the rows of layers on devices to the host, where [`KvCache::runs`] and [`KvCache::keys_f32`] find them.
    ///
    /// # Errors
    /// What a device says.
    pub fn pull(&mut self) -> Result<()> {
        let Some(elsewhere) = &mut self.elsewhere else { return Ok(()) };
        let missing = elsewhere.n_host..self.len;
        if !missing.is_empty() {
            for rows in &elsewhere.rows {
                for (part, host, row) in
                    [(CachePart::K, &mut self.k, self.row_k), (CachePart::V, &mut self.v, self.row_v)]
                {
                    let (memory, strided) = these(&self.shape, &rows.layers(), row, &missing);
                    rows.read(part, &mut host[memory], strided)?;
                }
            }
            elsewhere.n_host = self.len;
        }
        self.pull_states()
    }

    /// The states alone.
    pub(super) fn pull_states(&mut self) -> Result<()> {
        let (Some(elsewhere), Some(states)) = (&self.elsewhere, &mut self.states) else { return Ok(()) };
        if !states.here {
            for rows in &elsewhere.rows {
                rows.read_states(states.of_mut(&rows.layers()))?;
            }
            states.here = true;
        }
        Ok(())
    }

    /// Counts `n` slots as filled, after every layer wrote them where its rows are: here or on a device.
    ///
    /// # Panics
    /// When there are fewer free, or devices hold less than the slots before.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.free());
        if let Some(elsewhere) = &mut self.elsewhere {
            assert_eq!(elsewhere.n_device, self.len, "rows are missing on the devices: push first");
            elsewhere.n_device += n;
        }
        if let Some(states) = &mut self.states {
            states.complete();
            states.here &= self.elsewhere.is_none() || n == 0;
        }
        self.len += n;
    }

    /// Counts `n` slots as filled, after all layers' rows were written here.
    ///
    /// # Panics
    /// When there are fewer free, or slots before are on devices only.
    pub fn advance_here(&mut self, n: usize) {
        assert!(n <= self.free());
        if let Some(elsewhere) = &mut self.elsewhere {
            assert_eq!(elsewhere.n_host, self.len, "rows are on devices: pull first");
            elsewhere.n_host += n;
        }
        if let Some(states) = &mut self.states {
            states.complete();
            states.there = false;
        }
        self.len += n;
    }
}

/// The memory of `layers` on the host, and slots `slots` of all their heads in it; rows have `row` bytes.
fn these(shape: &CacheShape, layers: &Range<usize>, row: usize, slots: &Range<usize>) -> (Range<usize>, Strided) {
    let pitch = shape.n_ctx * row;
    let per_layer = shape.n_head_kv * pitch;
    let layers = shape.row_layer(layers.start)..shape.row_layer(layers.end);
    let rows = layers.len() * shape.n_head_kv;
    let strided = Strided { at: slots.start * row, pitch, width: slots.len() * row, rows };
    (layers.start * per_layer..layers.end * per_layer, strided)
}
