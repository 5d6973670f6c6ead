//! Byte-level BPE from GGUF keys, through the `tokenizers` crate.
//!
//! What Qwen2 tokenizers do, in order: special tokens are cut out of the text; the rest is NFC-normalized, split into words
//! by a regular expression (`pretokenizer.rs` has those of other files), mapped byte by byte into a printable alphabet, and
//! merged word by word.
//!
//! Cost, as `tests/it/text/cost.rs` prints it (two cores of a busy Xeon server, profile `dev`, where only the dependencies
//! are optimized): a vocabulary of 151 936 tokens and 151 387 merges is ready in 0.37 s. A megabyte of text takes 0.2 to 1 s
//! whether it is words, one long word, digits or Chinese: ordinary text is fed to the crate in short stretches, and a long
//! word costs n log n.

use std::sync::OnceLock;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, Model, OffsetReferential, OffsetType, PostProcessorWrapper,
    TokenizerImpl,
};

use super::bytes;
use super::guide::Compiler;
use super::pretokenizer::PreTokenizer;
use crate::gguf::Metadata;
use crate::{Error, Result};

/// Most rows of a vocabulary. The largest of this kind in use have about 250 000; each takes some 300 bytes here.
pub const MAX_VOCAB: usize = 1 << 18;
/// Most text between two places where it is safe to cut, in bytes; about 160 bytes of memory go with each.
pub const MAX_UNCUT_BYTES: usize = 2 << 20;
/// Longest run of white space, in bytes: the regular expression engine gives up on runs of a million.
pub const MAX_SPACE_BYTES: usize = 256 << 10;
/// Text is encoded in stretches of about this many bytes.
const STRETCH: usize = 16 << 10;

/// llama.cpp's token types, as stored in `tokenizer.ggml.token_type`.
pub mod token_type {
    /// A piece of text.
    pub const NORMAL: i32 = 1;
    /// What stands for text that has no token.
    pub const UNKNOWN: i32 = 2;
    /// A token that steers and is not text: turns, pads.
    pub const CONTROL: i32 = 3;
    /// A whole piece that was added, not merged.
    pub const USER_DEFINED: i32 = 4;
    /// A number without a meaning.
    pub const UNUSED: i32 = 5;
}

type Bpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Text to ids and back.
pub struct Tokenizer {
    bpe: Bpe,
    /// Finds control and user-defined tokens in text.
    special: Finder,
    /// Finds user-defined tokens only.
    user_defined: Finder,
    /// The bytes of all tokens, one after another; token `id` ends at `ends[id]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    types: Vec<u8>,
    stops: Vec<u32>,
    /// What forms of answers are compiled with; made when the first one is.
    compiler: OnceLock<Result<Compiler, String>>,
}

/// A stretch of text, or a special token that stood in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Span {
    Text(String),
    Token(u32),
}

impl Tokenizer {
    /// Builds the tokenizer from `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    /// `Unsupported` for another kind of tokenizer; `Format` or `Mismatch` for keys that contradict each other.
    pub fn from_metadata(meta: &Metadata) -> Result<Tokenizer> {
        check_kind(meta)?;
        let tokens = meta.need_strings("tokenizer.ggml.tokens")?;
        let types = read_types(meta, tokens.len())?;
        let vocab = read_vocab(tokens)?;
        let merges = read_merges(meta.need_strings("tokenizer.ggml.merges")?, &vocab)?;
        let stops = read_stops(meta, &vocab, tokens.len())?;
        let bpe = build(vocab, merges, PreTokenizer::from_metadata(meta)?)?;

        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(tokens.len()));
        for (token, kind) in tokens.iter().zip(&types) {
            match i32::from(*kind) {
                token_type::UNUSED => {} // padding rows print nothing
                token_type::NORMAL => bytes::push_bytes(token, &mut bytes),
                _ => bytes.extend_from_slice(token.as_bytes()),
            }
            ends.push(bytes.len());
        }
        let of = |kinds: &[i32]| {
            let wanted = tokens.iter().zip(&types).filter(|(_, t)| kinds.contains(&i32::from(**t)));
            Finder::new(wanted.map(|(token, _)| token.as_str()), bpe.get_model())
        };
        let special = of(&[token_type::UNKNOWN, token_type::CONTROL, token_type::USER_DEFINED])?;
        let user_defined = of(&[token_type::USER_DEFINED])?;
        Ok(Tokenizer { special, user_defined, bpe, bytes, ends, types, stops, compiler: OnceLock::new() })
    }

    /// Ids of `text`. With `parse_special`, special tokens written in the text become their ids; without, they are
    /// ordinary text. User-defined tokens (added to the vocabulary, but not special) are recognized either way, as in
    /// the reference.
    ///
    /// # Errors
    /// `Limit` for text that cannot be cut for more than [`MAX_UNCUT_BYTES`] or holds more than [`MAX_SPACE_BYTES`] of
    /// white space in a row.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let finder = if parse_special { &self.special } else { &self.user_defined };
        let mut ids = Vec::new();
        for span in finder.split(text) {
            match span {
                Span::Token(id) => ids.push(id),
                Span::Text(text) => self.encode_ordinary(&text, &mut ids)?,
            }
        }
        Ok(ids)
    }

    /// Text of `ids`; ill-formed bytes become U+FFFD. Ids outside the vocabulary and padding rows have no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        for id in ids {
            if !(skip_special && self.is_control(*id)) {
                bytes.extend_from_slice(self.token_bytes(*id));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Raw bytes of one token (special tokens: their text; padding rows and ids outside the vocabulary: nothing).
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..*end]
    }

    /// The id of the token spelled exactly so.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.bpe.get_model().token_to_id(token)
    }

    /// Rows of the vocabulary, padding included.
    pub fn n_vocab(&self) -> usize {
        self.types.len()
    }

    /// Whether generation ends at `id`: the end token, `<|im_end|>`, `<|endoftext|>`, the end-of-turn token.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stops.contains(&id)
    }

    /// The tokens at which generation ends.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// Whether `id` is a piece of text, and no token that was added to the vocabulary.
    pub fn is_ordinary(&self, id: u32) -> bool {
        self.types.get(id as usize).is_some_and(|t| i32::from(*t) == token_type::NORMAL)
    }

    /// What makes guides of forms.
    ///
    /// # Errors
    /// A vocabulary that no form can be followed with, each time.
    pub(super) fn compiler(&self) -> Result<&Compiler> {
        let made = self.compiler.get_or_init(|| Compiler::new(self).map_err(|err| err.to_string()));
        made.as_ref().map_err(|message| Error::unsupported(message.as_str()))
    }

    /// Whether `id` is a control token, which printed text leaves out.
    pub fn is_control(&self, id: u32) -> bool {
        let kind = self.types.get(id as usize).map(|t| i32::from(*t));
        matches!(kind, Some(token_type::CONTROL | token_type::UNKNOWN))
    }

    /// Cuts control and user-defined tokens out of `text`.
    pub(super) fn split_special(&self, text: &str) -> Vec<Span> {
        self.special.split(text)
    }

    /// The spellings of all control tokens.
    pub(super) fn control_tokens(&self) -> impl Iterator<Item = &str> {
        let ids = (0..self.types.len() as u32).filter(|id| self.is_control(*id));
        ids.filter_map(|id| std::str::from_utf8(self.token_bytes(id)).ok())
    }

    /// Appends the ids of text without special tokens.
    fn encode_ordinary(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        check_space(text)?;
        let mut rest = text;
        while !rest.is_empty() {
            let (stretch, after) = rest.split_at(safe_cut(rest)?);
            let failed = |err: tokenizers::Error| Error::format(format!("the tokenizer failed: {err}"));
            ids.extend_from_slice(self.bpe.encode_fast(stretch, false).map_err(failed)?.get_ids());
            rest = after;
        }
        Ok(())
    }
}

/// Finds added tokens in text, the leftmost first and of those the longest.
struct Finder {
    added: AddedVocabulary,
    /// Bytes with which a token begins: text without them need not be searched.
    first: [bool; 256],
}

impl Finder {
    fn new<'a>(tokens: impl Iterator<Item = &'a str>, model: &BPE) -> Result<Finder> {
        let mut first = [false; 256];
        let tokens: Vec<_> = tokens
            .inspect(|token| first[usize::from(token.as_bytes()[0])] = true)
            .map(|token| AddedToken::from(token, true))
            .collect();
        let mut added = AddedVocabulary::new();
        let failed = |err: tokenizers::Error| Error::format(format!("special tokens: {err}"));
        added.add_tokens(tokens, model, None::<&NormalizerWrapper>).map_err(failed)?;
        Ok(Finder { added, first })
    }

    fn split(&self, text: &str) -> Vec<Span> {
        if !text.bytes().any(|b| self.first[usize::from(b)]) {
            return vec![Span::Text(text.to_string())];
        }
        let found = self.added.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let spans =
            found.get_splits(OffsetReferential::Original, OffsetType::None).into_iter().map(|(text, _, token)| {
                match token.as_ref().and_then(|tokens| tokens.first()) {
                    Some(token) => Span::Token(token.id),
                    None => Span::Text(text.to_string()),
                }
            });
        spans.collect()
    }
}

/// Refuses every kind of tokenizer but byte-level BPE, and what Qwen2 prompts do not have.
fn check_kind(meta: &Metadata) -> Result<()> {
    let (key, want) = ("tokenizer.ggml.model", "gpt2");
    let found = meta.need_str(key)?;
    if found != want {
        let found: String = found.chars().take(40).collect();
        return Err(Error::unsupported(format!("key `{key}` is `{found}`, expected `{want}`")));
    }
    PreTokenizer::from_metadata(meta)?;
    for key in ["tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"] {
        if meta.bool(key)? == Some(true) {
            return Err(Error::unsupported(format!(
                "key `{key}` is `true`, expected `false`: Qwen2 prompts add nothing"
            )));
        }
    }
    Ok(())
}

/// The type of each token.
fn read_types(meta: &Metadata, n_vocab: usize) -> Result<Vec<u8>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let types = meta.ints(KEY)?.ok_or_else(|| Error::format(format!("key `{KEY}` is missing")))?;
    if types.len() != n_vocab {
        return Err(Error::mismatch(format!("key `{KEY}` has `{}` entries for {n_vocab} tokens", types.len())));
    }
    let one = |(id, t): (usize, &i64)| match t {
        1..=5 => Ok(*t as u8),
        _ => Err(Error::format(format!("key `{KEY}`: token `{id}` has type `{t}`, expected 1 to 5"))),
    };
    types.iter().enumerate().map(one).collect()
}

/// Tokens to ids.
fn read_vocab(tokens: &[String]) -> Result<Vocab> {
    const KEY: &str = "tokenizer.ggml.tokens";
    if tokens.is_empty() {
        return Err(Error::format(format!("key `{KEY}` is empty")));
    }
    if tokens.len() > MAX_VOCAB {
        return Err(Error::limit(format!("key `{KEY}` has `{}` tokens, at most {MAX_VOCAB}", tokens.len())));
    }
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (id, token) in (0u32..).zip(tokens) {
        if token.is_empty() {
            return Err(Error::format(format!("key `{KEY}`: token `{id}` is empty")));
        }
        if let Some(other) = vocab.insert(token.clone(), id) {
            return Err(Error::format(format!("key `{KEY}`: tokens `{other}` and `{id}` are both {token:?}")));
        }
    }
    // Without all of them, some text would vanish in silence.
    let absent = (0..=255u8).find(|b| !vocab.contains_key(bytes::char_of(*b).encode_utf8(&mut [0; 4]) as &str));
    match absent {
        Some(byte) => Err(Error::format(format!("key `{KEY}`: no token for the byte `{byte:#04x}`"))),
        None => Ok(vocab),
    }
}

/// Merges as pairs, each checked against the vocabulary. Where a pair comes twice, its later rank counts, as in the
/// reference.
fn read_merges(lines: &[String], vocab: &Vocab) -> Result<Merges> {
    const KEY: &str = "tokenizer.ggml.merges";
    let mut joined = String::new();
    let mut pairs = Vec::with_capacity(lines.len());
    for (rank, line) in lines.iter().enumerate() {
        let pair = line.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '));
        let Some((a, b)) = pair else {
            return Err(Error::format(format!("key `{KEY}`: merge `{rank}` is {line:?}, expected two pieces")));
        };
        joined.clear();
        joined.push_str(a);
        joined.push_str(b);
        if let Some(piece) = [a, b, &joined].into_iter().find(|piece| !vocab.contains_key(*piece)) {
            return Err(Error::format(format!("key `{KEY}`: merge `{rank}` names {piece:?}, which is not a token")));
        }
        pairs.push((a.to_string(), b.to_string()));
    }
    Ok(pairs)
}

/// Checks all special ids and collects those that end generation.
fn read_stops(meta: &Metadata, vocab: &Vocab, n_vocab: usize) -> Result<Vec<u32>> {
    let mut stops: Vec<u32> = ["<|im_end|>", "<|endoftext|>"].iter().filter_map(|t| vocab.get(*t).copied()).collect();
    for (key, _) in meta.iter() {
        let Some(name) = key.strip_prefix("tokenizer.ggml.").and_then(|k| k.strip_suffix("_token_id")) else {
            continue;
        };
        let id = meta.need_uint(key)?;
        if id >= n_vocab as u64 {
            return Err(Error::format(format!("key `{key}` is `{id}`, expected an id below {n_vocab}")));
        }
        if matches!(name, "eos" | "eot") {
            stops.push(id as u32); // below `n_vocab`, which is capped
        }
    }
    stops.sort_unstable();
    stops.dedup();
    Ok(stops)
}

fn build(vocab: Vocab, merges: Merges, pre: &PreTokenizer) -> Result<Bpe> {
    let failed = |err: tokenizers::Error| Error::format(format!("the tokenizer cannot be built: {err}"));
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.ignore_merges);
    let mut bpe = Bpe::new(model.build().map_err(failed)?);
    if pre.nfc {
        bpe.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    bpe.with_pre_tokenizer(Some(pre.build().map_err(failed)?));
    Ok(bpe)
}

/// Refuses white space that the regular expression could not match in one piece.
fn check_space(text: &str) -> Result<()> {
    let mut run = 0;
    for c in text.chars() {
        run = if c.is_whitespace() { run + c.len_utf8() } else { 0 };
        if run > MAX_SPACE_BYTES {
            return Err(Error::limit(format!("more than {MAX_SPACE_BYTES} bytes of white space in a row")));
        }
    }
    Ok(())
}

/// Where to cut `text` after about [`STRETCH`] bytes so that both sides encode alone as they do together.
///
/// A cut is safe after a letter or digit that is followed by white space or punctuation: all words that end in a letter or
/// digit end there, the expression never looks back, and no character of the right side composes with the left one. Only
/// ASCII and the common CJK characters are tried, which ordinary text never goes without for long.
fn safe_cut(text: &str) -> Result<usize> {
    if text.len() <= STRETCH {
        return Ok(text.len());
    }
    let mut last = '\n';
    for (at, c) in text.char_indices() {
        let ends = last.is_ascii_alphanumeric() || matches!(last, '\u{3041}'..='\u{3096}' | '\u{4e00}'..='\u{9fff}');
        let begins = c.is_ascii_whitespace() || c.is_ascii_punctuation() || matches!(c, '、' | '。' | '，');
        if at >= STRETCH && ends && begins {
            return Ok(at);
        }
        if at > MAX_UNCUT_BYTES {
            return Err(Error::limit(format!("more than {MAX_UNCUT_BYTES} bytes of text without a place to cut it")));
        }
        last = c;
    }
    Ok(text.len())
}
