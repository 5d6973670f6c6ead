//! Forms by llguidance: an Earley parser over a lexer of derivatives, walked along a trie of the tokenizer's tokens.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};

use super::{Form, Guide, Tokenizer, gbnf};
use crate::{Error, Result};

/// Time for compiling a form.
const MAX_TIME: Duration = Duration::from_secs(2);
/// Forms that are compiled at a time, those included that were given up and have not noticed yet.
const MAX_AT_ONCE: usize = 4;
/// Compiled forms that are kept.
const MAX_KEPT: usize = 16;
/// Stack of a thread that compiles: deep schemas recurse.
const STACK: usize = 16 << 20;
/// Tokens longer than this are never chosen while a form is followed; the trie has a limit of its own, beyond which it panics.
const MAX_TOKEN_BYTES: usize = 256;
/// Bytes of all tokens together, likewise.
const MAX_VOCAB_BYTES: usize = 3 << 20;
/// Longest word of an error.
const MAX_WORDS: usize = 300;

/// White space between the tokens of JSON: models would fill a context with it if it were free.
const WHITESPACE: &str = r" |\n[ \t]{0,40}";

/// What forms are compiled for: the tokens of a model.
pub(crate) struct Compiler {
    factory: Arc<ParserFactory>,
    /// Compiled forms, newest last, as they were before their first token.
    kept: Mutex<VecDeque<(Form, Matcher)>>,
    n_running: Arc<AtomicUsize>,
}

/// An error of the library in one line.
fn shorten(err: &dyn std::fmt::Display) -> String {
    let words: String = err.to_string().lines().next().unwrap_or_default().chars().take(MAX_WORDS).collect();
    // A panic of theirs is caught by them, and tells of places in their files.
    if words.starts_with("panic") { "it cannot be compiled".to_string() } else { words.replace('`', "'") }
}

impl Compiler {
    /// # Errors
    /// A vocabulary without an end token, or larger than the trie can be.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Compiler> {
        let stops = tokenizer.stops();
        let Some(first) = stops.first() else {
            return Err(Error::unsupported("the model has no end token, so an answer of a form could not end"));
        };
        let words: Vec<Vec<u8>> = (0..tokenizer.n_vocab() as u32).map(|id| word(tokenizer, id)).collect();
        let n_bytes: usize = words.iter().map(Vec::len).sum();
        if n_bytes > MAX_VOCAB_BYTES {
            let message = format!("the tokens have `{n_bytes}` bytes together, at most {MAX_VOCAB_BYTES} for forms");
            return Err(Error::unsupported(message));
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, *first), &words).with_eos_tokens(stops);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|err| Error::unsupported(format!("forms: {}", shorten(&err))))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // One to two kilobytes each.
            max_lexer_states: 50_000,
            max_grammar_size: 200_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Compiler { factory: Arc::new(factory), kept: Mutex::default(), n_running: Arc::default() })
    }

    /// A guide for one answer of a form.
    ///
    /// # Errors
    /// See [`Form::guide`].
    pub(crate) fn guide(&self, form: &Form) -> Result<Box<dyn Guide>> {
        let found = self.lock().iter().find(|(kept, _)| kept == form).map(|(_, matcher)| matcher.deep_clone());
        if let Some(matcher) = found {
            return Ok(Box::new(Follower { matcher, mask: SimpleVob::new() }));
        }
        let matcher = self.compile(grammar_of(form)?)?;
        let mut kept = self.lock();
        kept.push_back((form.clone(), matcher.deep_clone()));
        if kept.len() > MAX_KEPT {
            kept.pop_front();
        }
        drop(kept);
        Ok(Box::new(Follower { matcher, mask: SimpleVob::new() }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Form, Matcher)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles on a thread of its own, which may take [`MAX_TIME`]. One that takes longer is left to itself, and counts.
    fn compile(&self, grammar: TopLevelGrammar) -> Result<Matcher> {
        let running = Running::new(&self.n_running)?;
        let (factory, (send, done)) = (self.factory.clone(), sync_channel(1));
        let work = move || {
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            // The first mask belongs to it: it finds what the compiler leaves to the first step.
            let first = matcher.compute_mask_or_eos();
            let made = match (matcher.get_error(), first) {
                (Some(err), _) => Err(shorten(&err)),
                (None, Err(err)) => Err(shorten(&err)),
                (None, Ok(_)) => Ok(matcher),
            };
            drop(running);
            let _ = send.send(made);
        };
        crate::kernels::threads::builder("form").stack_size(STACK).spawn(work)?;
        match done.recv_timeout(MAX_TIME) {
            Ok(made) => made.map_err(|words| Error::bad_input(format!("the form cannot be followed: {words}"))),
            Err(RecvTimeoutError::Timeout) => {
                let n = MAX_TIME.as_secs();
                Err(Error::bad_input(format!("the form takes more than `{n}` seconds to compile: make it simpler")))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::bad_input("the form cannot be compiled")),
        }
    }
}

/// One of those that compile.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(n: &Arc<AtomicUsize>) -> Result<Running> {
        if n.fetch_add(1, Ordering::AcqRel) >= MAX_AT_ONCE {
            n.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::busy(format!("`{MAX_AT_ONCE}` forms are being compiled at the moment")));
        }
        Ok(Running(n.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The bytes of a token as the trie knows it: nothing for what no form may hold, a mark before what is not text.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    match bytes {
        // The byte with which the trie marks what is not text begins no character.
        [] | [TokTrie::SPECIAL_TOKEN_MARKER, ..] => Vec::new(),
        _ if bytes.len() > MAX_TOKEN_BYTES => Vec::new(),
        _ if tokenizer.is_ordinary(id) => bytes.to_vec(),
        // `<tool_call>` and its like: a grammar names them, text never is one.
        _ => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
    }
}

/// What a schema says of the compiler itself is ours to say.
pub(crate) fn settle(schema: &mut Value) {
    let options = JsonCompileOptions { whitespace_pattern: Some(WHITESPACE.into()), ..JsonCompileOptions::default() };
    if let (Some(fields), Ok(options)) = (schema.as_object_mut(), serde_json::to_value(options)) {
        fields.insert("x-guidance".to_string(), options);
    }
}

/// A form in the words of the library.
fn grammar_of(form: &Form) -> Result<TopLevelGrammar> {
    let schema = |mut schema: Value| {
        settle(&mut schema);
        GrammarWithLexer::from_json_schema(schema)
    };
    let grammar = match form {
        Form::Object => schema(json!({ "type": "object" })),
        // `true` is a schema, too.
        Form::Schema(Value::Bool(true)) => schema(json!({})),
        Form::Schema(value @ Value::Object(_)) => schema(value.clone()),
        Form::Schema(_) => return Err(Error::bad_input("the schema is no object")),
        Form::Regex(text) => GrammarWithLexer::from_regex(text),
        Form::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| Value::from(word.as_str()).to_string()).collect();
            GrammarWithLexer::from_lark(format!("start: {}", words.join(" | ")))
        }
        Form::Grammar(text) if text.contains("::=") => GrammarWithLexer::from_lark(gbnf::to_lark(text)?),
        Form::Grammar(text) | Form::Lark(text) => GrammarWithLexer::from_lark(text.clone()),
    };
    Ok(TopLevelGrammar::from_grammar(grammar))
}

/// Follows a form along an answer.
struct Follower {
    matcher: Matcher,
    mask: SimpleVob,
}

fn lost(err: &dyn std::fmt::Display) -> Error {
    Error::bad_input(format!("the form of the answer cannot be followed further: {}", shorten(err)))
}

impl Guide for Follower {
    fn allowed(&mut self) -> Result<&[u32]> {
        self.mask = self.matcher.compute_mask_or_eos().map_err(|err| lost(&err))?;
        Ok(self.mask.as_slice())
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        self.matcher.consume_token(id).map_err(|err| lost(&err))
    }
}
