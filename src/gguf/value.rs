//! Metadata values: the thirteen GGUF value types.
#![forbid(unsafe_code)]

use crate::{Error, Result};

/// The type tag of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    /// An unsigned integer of 8 bits.
    U8 = 0,
    /// An integer of 8 bits.
    I8 = 1,
    /// An unsigned integer of 16 bits.
    U16 = 2,
    /// An integer of 16 bits.
    I16 = 3,
    /// An unsigned integer of 32 bits.
    U32 = 4,
    /// An integer of 32 bits.
    I32 = 5,
    /// A float of 32 bits.
    F32 = 6,
    /// Yes or no, in a byte.
    Bool = 7,
    /// Text in UTF-8.
    String = 8,
    /// Several of one type.
    Array = 9,
    /// An unsigned integer of 64 bits.
    U64 = 10,
    /// An integer of 64 bits.
    I64 = 11,
    /// A float of 64 bits.
    F64 = 12,
}

impl ValueType {
    /// Every tag; the position is the number in the file.
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    /// The tag with GGUF's number `id`.
    ///
    /// # Errors
    /// `Format` with the id, for a number that GGUF does not know.
    pub fn from_id(id: u32) -> Result<ValueType> {
        let known = usize::try_from(id).ok().and_then(|i| ValueType::ALL.get(i));
        known.copied().ok_or_else(|| Error::format(format!("value type id `{id}` is not known, expected 0 to 12")))
    }

    /// GGUF's number.
    pub fn id(self) -> u32 {
        self as u32
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer of 8 bits.
    U8(u8),
    /// An integer of 8 bits.
    I8(i8),
    /// An unsigned integer of 16 bits.
    U16(u16),
    /// An integer of 16 bits.
    I16(i16),
    /// An unsigned integer of 32 bits.
    U32(u32),
    /// An integer of 32 bits.
    I32(i32),
    /// A float of 32 bits.
    F32(f32),
    /// Yes or no, in a byte.
    Bool(bool),
    /// Text in UTF-8.
    String(String),
    /// Several of one type.
    Array(Array),
    /// An unsigned integer of 64 bits.
    U64(u64),
    /// An integer of 64 bits.
    I64(i64),
    /// A float of 64 bits.
    F64(f64),
}

/// A metadata array: one vector per element type, so a 150 000-entry vocabulary costs no more than its strings.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Unsigned integers of 8 bits.
    U8(Vec<u8>),
    /// Integers of 8 bits.
    I8(Vec<i8>),
    /// Unsigned integers of 16 bits.
    U16(Vec<u16>),
    /// Integers of 16 bits.
    I16(Vec<i16>),
    /// Unsigned integers of 32 bits.
    U32(Vec<u32>),
    /// Integers of 32 bits.
    I32(Vec<i32>),
    /// Floats of 32 bits.
    F32(Vec<f32>),
    /// Yes or no each.
    Bool(Vec<bool>),
    /// Texts in UTF-8.
    String(Vec<String>),
    /// Unsigned integers of 64 bits.
    U64(Vec<u64>),
    /// Integers of 64 bits.
    I64(Vec<i64>),
    /// Floats of 64 bits.
    F64(Vec<f64>),
}

impl Value {
    /// Its type tag.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The name of its type, as people write it (`u32`, `string`, `array of f32`).
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(array) => array.type_name(),
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F64(_) => "f64",
        }
    }

    /// An integer of any width.
    pub fn as_int(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// A float of either width, or an integer.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => self.as_int().map(|i| i as f64),
        }
    }
}

impl Array {
    /// The type tag of its elements.
    pub fn value_type(&self) -> ValueType {
        match self {
            Array::U8(_) => ValueType::U8,
            Array::I8(_) => ValueType::I8,
            Array::U16(_) => ValueType::U16,
            Array::I16(_) => ValueType::I16,
            Array::U32(_) => ValueType::U32,
            Array::I32(_) => ValueType::I32,
            Array::F32(_) => ValueType::F32,
            Array::Bool(_) => ValueType::Bool,
            Array::String(_) => ValueType::String,
            Array::U64(_) => ValueType::U64,
            Array::I64(_) => ValueType::I64,
            Array::F64(_) => ValueType::F64,
        }
    }

    /// The name of its type, as people write it (`array of f32`).
    pub fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "array of u8",
            Array::I8(_) => "array of i8",
            Array::U16(_) => "array of u16",
            Array::I16(_) => "array of i16",
            Array::U32(_) => "array of u32",
            Array::I32(_) => "array of i32",
            Array::F32(_) => "array of f32",
            Array::Bool(_) => "array of bool",
            Array::String(_) => "array of string",
            Array::U64(_) => "array of u64",
            Array::I64(_) => "array of i64",
            Array::F64(_) => "array of f64",
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its integers, if it holds integers that fit.
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        Some(match self {
            Array::U8(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Array::I8(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Array::U16(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Array::I16(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Array::U32(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Array::I32(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Array::U64(v) => return v.iter().map(|x| i64::try_from(*x).ok()).collect(),
            Array::I64(v) => v.clone(),
            _ => return None,
        })
    }
}

/// `From` for each scalar and each vector, so that `Metadata::set` reads well.
macro_rules! from {
    ($($variant:ident $t:ty),*) => {$(
        impl From<$t> for Value {
            fn from(v: $t) -> Value {
                Value::$variant(v)
            }
        }
        impl From<Vec<$t>> for Value {
            fn from(v: Vec<$t>) -> Value {
                Value::Array(Array::$variant(v))
            }
        }
    )*};
}
from!(U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool, String String, U64 u64, I64 i64, F64 f64);

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::String(v.to_string())
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Value {
        Value::Array(v)
    }
}

impl From<Vec<&str>> for Value {
    fn from(v: Vec<&str>) -> Value {
        Value::Array(Array::String(v.into_iter().map(str::to_string).collect()))
    }
}
