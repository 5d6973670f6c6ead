//! Positions: which axis drives each rotary frequency, and where every token stands.
//! In: a layout, a section split, segments of text and vision. Out: a [`Pos`] per token and the angles of each pair.
//! Start reading at [`Layout`]; [`axes()`] is the allocation table, [`Placer`] the placement rule, [`Rotary`] the angles.
//! On purpose absent here: keys and queries. No kernel knows a layout's name; kernels see cos and sin.
#![forbid(unsafe_code)]

mod axes;
mod layout;
mod place;
mod rotary;
mod scale;
mod stretch;

pub use axes::{Axis, axes, default_sections};
pub use layout::Layout;
pub use place::{Placer, Pos, Segment, place_all};
pub use rotary::{Rotary, RotaryTable, rotate_f32, rotate_f64};
pub use scale::{check_temporal_scale, parse_temporal_scale, scale_warning};
pub use stretch::{Stretch, Yarn};
