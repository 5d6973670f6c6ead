//! Positions: which ids drive each rotary frequency, and where every token stands.
//! In: a layout, a section split, segments of text and vision. Out: a [`Pos`] per token and the angles of each pair.
//! Start reading at [`Layout::rule`]: a layout is data; [`drivers()`] makes its allocation table, [`Placer`] follows its rule of
//! placement, [`Rotary`] computes the angles.
//! On purpose absent here: keys and queries. No kernel knows a layout's name; kernels see cos and sin.
#![forbid(unsafe_code)]

mod clock;
mod drivers;
mod layout;
mod place;
mod rotary;
mod rule;
mod scale;
mod stretch;

pub use clock::{Clock, Pace};
pub use drivers::{Driver, default_sections, drivers};
pub use layout::Layout;
pub use place::{Placer, Pos, Segment, place_all};
pub use rotary::{Rotary, RotaryTable, rotate_f32, rotate_f64};
pub use rule::{BlockRule, Cursor, Pairs, Rule, Space, Time};
pub use scale::{check_temporal_scale, parse_temporal_scale, scale_warning};
pub use stretch::{Stretch, Yarn};
