//! GGUF files put together byte by byte, so that a test can make each single thing wrong. Nothing here is checked.

/// A file in the making. Counts follow what was added unless a test sets them.
#[derive(Clone, Default)]
pub struct Build {
    pub version: Option<u32>,
    pub n_tensors: Option<u64>,
    pub n_keys: Option<u64>,
    pub alignment: Option<usize>,
    pub keys: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub data: Vec<u8>,
}

/// A GGUF string.
pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// The value part of an array.
pub fn array(element_type: u32, n: u64, elements: &[u8]) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &n.to_le_bytes(), elements].concat()
}

impl Build {
    pub fn new() -> Build {
        Build::default()
    }

    /// Adds a key with a value type and the bytes of the value.
    pub fn key(mut self, key: impl AsRef<[u8]>, value_type: u32, value: &[u8]) -> Build {
        self.keys.push([&string(key)[..], &value_type.to_le_bytes(), value].concat());
        self
    }

    /// Adds a tensor record.
    pub fn tensor(mut self, name: impl AsRef<[u8]>, ne: &[u64], ty: u32, offset: u64) -> Build {
        let ne_bytes: Vec<u8> = ne.iter().flat_map(|n| n.to_le_bytes()).collect();
        let n_dims = (ne.len() as u32).to_le_bytes();
        self.tensors.push([&string(name)[..], &n_dims, &ne_bytes, &ty.to_le_bytes(), &offset.to_le_bytes()].concat());
        self
    }

    /// Adds a tensor record from its bytes.
    pub fn raw_tensor(mut self, record: Vec<u8>) -> Build {
        self.tensors.push(record);
        self
    }

    /// Appends `n` bytes of data.
    pub fn data(mut self, n: usize) -> Build {
        self.data.resize(self.data.len() + n, 0x3c);
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        self.keys.iter().for_each(|key| out.extend(key));
        self.tensors.iter().for_each(|tensor| out.extend(tensor));
        if !self.tensors.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment.unwrap_or(32)), 0);
        }
        out.extend(&self.data);
        out
    }
}
