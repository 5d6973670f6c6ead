//! Tests of the room `media`.
