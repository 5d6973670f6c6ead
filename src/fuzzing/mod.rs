//! Everything that reads what others wrote, as functions from bytes: what the fuzzers in `fuzz/` call.
//! In: bytes of any kind. Out: nothing, or a panic that says what was promised and not kept.
//! Start reading at [`TARGETS`]. Bodies stand in the rooms that they are about, in files called `fuzz.rs`; the test in
//! [`smoke`] runs all of them without a fuzzer. `docs/fuzzing.md` says how to run them and what came of it.
//! On purpose absent here: decoders of others that are written in C++ or have a process of their own.
#![forbid(unsafe_code)]

mod seeds;
#[cfg(test)]
mod smoke;
mod sparse;

pub(crate) use seeds::{file, files};
pub(crate) use sparse::Sparse;

/// One parser under test.
pub struct Target {
    /// The name that `cargo fuzz run` takes.
    pub name: &'static str,
    /// Reads `bytes` and checks what came out.
    pub run: fn(&[u8]),
    /// Inputs to begin with: whole and valid ones, for the most part.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every parser that takes bytes from outside.
pub const TARGETS: &[Target] = &[
    Target { name: "gguf", run: crate::gguf::fuzz::file, seeds: crate::gguf::fuzz::file_seeds },
    Target { name: "model", run: crate::model::fuzz::load, seeds: crate::model::fuzz::load_seeds },
    Target { name: "take", run: crate::stream::take::fuzz::take, seeds: crate::stream::take::fuzz::take_seeds },
    Target { name: "records", run: crate::stream::take::fuzz::records, seeds: crate::stream::take::fuzz::record_seeds },
    Target { name: "imatrix", run: crate::convert::fuzz::imatrix, seeds: crate::convert::fuzz::imatrix_seeds },
    Target { name: "safetensors", run: crate::convert::fuzz::header, seeds: crate::convert::fuzz::header_seeds },
    Target { name: "converter", run: crate::convert::fuzz::family, seeds: crate::convert::fuzz::family_seeds },
    Target { name: "config", run: crate::convert::fuzz::config, seeds: crate::convert::fuzz::config_seeds },
    Target { name: "hf_tokenizer", run: crate::convert::fuzz::tokenizer, seeds: crate::convert::fuzz::tokenizer_seeds },
    Target { name: "mp4", run: crate::media::mp4::fuzz::mp4, seeds: crate::media::mp4::fuzz::mp4_seeds },
    Target { name: "h264", run: crate::media::fuzz::h264, seeds: crate::media::fuzz::h264_seeds },
    Target { name: "y4m", run: crate::media::fuzz::y4m, seeds: crate::media::fuzz::y4m_seeds },
    Target { name: "animation", run: crate::media::fuzz::animation, seeds: crate::media::fuzz::animation_seeds },
    Target { name: "image", run: crate::media::fuzz::image, seeds: crate::media::fuzz::image_seeds },
    Target { name: "messages", run: crate::text::fuzz::messages, seeds: crate::text::fuzz::message_seeds },
    Target {
        name: "request",
        run: crate::server::wire::fuzz::request,
        seeds: crate::server::wire::fuzz::request_seeds,
    },
    Target { name: "template", run: crate::text::fuzz::template, seeds: crate::text::fuzz::template_seeds },
    Target { name: "tokenizer", run: crate::text::fuzz::vocabulary, seeds: crate::text::fuzz::vocabulary_seeds },
    Target { name: "encode", run: crate::text::fuzz::encode, seeds: crate::text::fuzz::encode_seeds },
    Target { name: "tables", run: crate::eval::choice::fuzz::tables, seeds: crate::eval::choice::fuzz::table_seeds },
    Target {
        name: "parquet",
        run: crate::eval::choice::fuzz::parquet,
        seeds: crate::eval::choice::fuzz::parquet_seeds,
    },
    Target {
        name: "subtitles",
        run: crate::eval::choice::fuzz::subtitles,
        seeds: crate::eval::choice::fuzz::subtitle_seeds,
    },
];

/// The target called `name`.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target is called `{name}`"))
}

/// A byte that chooses between several things, and the rest.
pub(crate) fn choice(bytes: &[u8]) -> Option<(u8, &[u8])> {
    bytes.split_first().map(|(first, rest)| (*first, rest))
}
