//! Tests of the room `gguf`.
