//! Tests of the room `tensor`.
