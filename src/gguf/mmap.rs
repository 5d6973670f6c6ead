//! Mapping a file: the one place that is unsafe in this room.
