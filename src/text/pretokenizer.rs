//! How text is cut into words before merging, by the names of `tokenizer.ggml.pre`.
//!
//! llama.cpp cuts with one expression after the other, each within the pieces of the one before: what matches becomes a
//! piece, and so does what is between. That is what a sequence of isolating splits does. It never composes characters; the
//! reference tokenizers of Qwen do (NFC), and so do we for these.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use crate::gguf::Metadata;
use crate::{Error, Result};

/// The key that names the rule.
const KEY: &str = "tokenizer.ggml.pre";

/// How Qwen2 tokenizers split text into words; as `tokenizer.json` spells it.
pub(crate) const QWEN2_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Qwen3.5: marks belong to the letters before them; as its `tokenizer.json` spells it.
pub(crate) const QWEN35_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Llama 3: up to three digits at a time.
const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// GPT-2. What no alternative matches, a single space before a word of another kind, is a piece as well.
const GPT2_SPLIT: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// One way of cutting, with the names it goes by.
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    splits: &'static [&'static str],
    /// Whether characters are composed first.
    pub nfc: bool,
    /// Whether a word that is a token is that token, whatever the merges would make of it.
    pub ignore_merges: bool,
}

const KNOWN: &[PreTokenizer] = &[
    PreTokenizer { names: &["qwen2"], splits: &[QWEN2_SPLIT], nfc: true, ignore_merges: false },
    PreTokenizer { names: &["qwen35"], splits: &[QWEN35_SPLIT], nfc: true, ignore_merges: false },
    PreTokenizer {
        names: &["deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "kormo", "f2llmv2"],
        splits: &[QWEN2_SPLIT],
        nfc: false,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["default"],
        splits: &[r"[\p{P}$+<=>^~|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"],
        nfc: false,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "modern-bert", "trillion", "granite-docling", "exaone4"],
        splits: &[GPT2_SPLIT],
        nfc: false,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        splits: &[r"\p{N}", GPT2_SPLIT],
        nfc: false,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        splits: &[LLAMA3_SPLIT],
        nfc: false,
        ignore_merges: true,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        splits: &[LLAMA3_SPLIT],
        nfc: false,
        ignore_merges: false,
    },
];

impl PreTokenizer {
    /// The rule that a file names; a file that names none means `default`.
    ///
    /// # Errors
    /// `Unsupported` for a name that is not known, with those that are.
    pub(super) fn from_metadata(meta: &Metadata) -> Result<&'static PreTokenizer> {
        let name = meta.str(KEY)?.unwrap_or("default");
        KNOWN.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            let name: String = name.chars().take(40).collect();
            let known: Vec<&str> = KNOWN.iter().flat_map(|pre| pre.names).copied().collect();
            Error::unsupported(format!("key `{KEY}` is `{name}`, supported: {}", known.join(", ")))
        })
    }

    /// The splits, and the alphabet of bytes behind them.
    ///
    /// # Errors
    /// An expression that does not compile.
    pub(super) fn build(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for split in self.splits {
            let pattern = SplitPattern::Regex((*split).to_string());
            steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
        }
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    /// The words of a text, spelled in bytes of the alphabet: a space is `Ġ`, a newline `Ċ`.
    fn words(pre: &str, text: &str) -> Vec<String> {
        let mut meta = Metadata::default();
        meta.set(KEY, pre);
        let built = PreTokenizer::from_metadata(&meta).unwrap().build().unwrap();
        let mut string = PreTokenizedString::from(text);
        built.pre_tokenize(&mut string).unwrap();
        let pieces = string.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(word, ..)| word.to_string()).collect()
    }

    #[test]
    fn words_of_every_rule() {
        const TEXT: &str = "It's 12345 $x:\n  end ";
        let rows: &[(&str, &[&str])] = &[
            ("qwen2", &["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġ$", "x", ":Ċ", "Ġ", "Ġend", "Ġ"]),
            ("qwen35", &["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġ$", "x", ":Ċ", "Ġ", "Ġend", "Ġ"]),
            ("llama-bpe", &["It", "'s", "Ġ", "123", "45", "Ġ$", "x", ":Ċ", "Ġ", "Ġend", "Ġ"]),
            ("gpt-2", &["It", "'s", "Ġ12345", "Ġ$", "x", ":", "ĊĠ", "Ġend", "Ġ"]),
            ("starcoder", &["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġ$", "x", ":", "ĊĠ", "Ġend", "Ġ"]),
            // Punctuation is cut off first, and digits go in threes from the left.
            ("default", &["It", "'", "s", "Ġ", "123", "45", "Ġ", "$", "x", ":", "ĊĠ", "Ġend", "Ġ"]),
        ];
        for (pre, want) in rows {
            assert_eq!(words(pre, TEXT), *want, "{pre}");
        }
        // A mark beside a letter: one word for Qwen3.5 alone.
        assert_eq!(words("qwen35", "q\u{307}").len(), 1);
        assert_eq!(words("qwen2", "q\u{307}").len(), 2);
    }
}
