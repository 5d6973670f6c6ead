//! Where templates run: minijinja with everything that a template could use to take the machine away from its owner
//! switched off, capped or paid for. Templates come with model files, so they are as hostile as the files.
//!
//! What bounds a template: its source and output are capped; every step, byte and list item costs fuel, and the fuel
//! grows with the conversation; every value it makes is capped and looked at ([`program`](mod@super::program)); recursion is capped by the
//! engine; it runs on a thread of its own, whose stack holds the deepest nesting that source can pay for; and whoever waits
//! for it stops waiting after [`DEADLINE`]. Nothing of the host is in reach: the engine has no loader, no files, no clock,
//! and values are plain data.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use minijinja::machinery::{eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind as JinjaKind, Output, State, Value};

use super::program::{self, Program};
use crate::{Error, ErrorKind, Result};

/// Longest template, in bytes. The longest in common use have about 20 000.
pub(super) const MAX_SOURCE_BYTES: usize = 64 << 10;
/// Longest rendered conversation, in bytes.
pub(super) const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// How long anyone waits for a template.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Fuel that every rendering gets: instructions, or 64 bytes of new data each.
const BASE_FUEL: u64 = 100_000;
/// Fuel for each message and each part. The Qwen templates need less than 100.
const ITEM_FUEL: u64 = 300;
/// Fuel for every byte of text, in bytes of copies: a template may handle the conversation 16 times.
const COPIES: u64 = 16;
/// Bytes that one unit of fuel pays for, in the engine's own price list.
const BYTES_PER_FUEL: u64 = 64;
/// Address space for the thread's stack; only what is used becomes memory. Measured: source of 64 KiB that is one chain of
/// `elif` needs less than 256 MiB, and lists nested by a loop 370 bytes a level.
const STACK_BYTES: usize = if usize::BITS >= 64 { 256 << 20 } else { 64 << 20 };
/// Deepest value that `tojson` writes.
const MAX_JSON_DEPTH: usize = 64;

/// A template that compiles: its source, and the environment that can do nothing but render it.
#[derive(Clone)]
pub(super) struct Sandbox {
    env: Environment<'static>,
    source: Arc<str>,
}

impl Sandbox {
    /// Compiles `source`.
    ///
    /// # Errors
    /// `Format` for what is no template; `Limit` for one that is too long.
    pub(super) fn new(source: &str) -> Result<Sandbox> {
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("chat template: `{}` bytes, at most {MAX_SOURCE_BYTES}", source.len());
            return Err(Error::limit(message));
        }
        let mut env = Environment::new();
        env.set_debug(false);
        env.set_formatter(print);
        env.set_unknown_method_callback(call_method);
        env.add_function("raise_exception", raise_exception);
        env.add_filter("tojson", to_json);
        // These print values or the whole state for debugging, without a price.
        env.remove_filter("pprint");
        env.remove_global("debug");
        let source: Arc<str> = source.into();
        let this = Sandbox { env, source: source.clone() };
        with_deadline(DEADLINE, move || program(&source).map(drop).map_err(error))?;
        Ok(this)
    }

    /// Renders the template with `context`; `n_items` messages and parts and `text_bytes` of text set the fuel.
    pub(super) fn render(&self, context: Value, n_items: usize, text_bytes: usize) -> Result<String> {
        let Sandbox { mut env, source } = self.clone();
        let fuel = BASE_FUEL + n_items as u64 * ITEM_FUEL + text_bytes as u64 * COPIES / BYTES_PER_FUEL;
        env.set_fuel(Some(fuel));
        with_deadline(DEADLINE, move || {
            let namespaces = program::equip(&mut env);
            // Compiled again each time, which takes a millisecond: it borrows the source.
            let Program { body, blocks } = program(&source).map_err(error)?;
            let mut out = String::new();
            let rendered = {
                let mut output = make_string_output(&mut out);
                eval(&env, &body, context, &blocks, &mut output, AutoEscape::None).map(drop).map_err(error)
            };
            drop(namespaces);
            rendered?;
            if out.len() > MAX_OUTPUT_BYTES {
                return Err(Error::limit(format!("chat template: it writes more than {MAX_OUTPUT_BYTES} bytes")));
            }
            Ok(out)
        })
    }
}

/// As in the reference: a line that holds only a tag leaves no trace.
fn program(source: &str) -> Result<Program<'_>, minijinja::Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    Program::compile("chat template", source, syntax)
}

/// Whether `err` says that a template was given up while it was still running.
pub(super) fn is_stuck(err: &Error) -> bool {
    err.kind() == ErrorKind::Limit && err.message() == STUCK
}

/// The name of the threads that templates run on. A panic of the engine on one is caught, but the process's panic hook sees
/// it first: programs that want nothing printed give their hook an exception for this name.
pub const THREAD: &str = "longtake chat template";

const STUCK: &str = "chat template: not done after 10 seconds";

/// Runs `work` on a thread with a large stack and waits for it until the deadline. Nothing can end a thread from outside:
/// work that is given up goes on until its fuel is gone.
fn with_deadline<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tx, rx) = sync_channel(1);
    let thread = thread::Builder::new().name(THREAD.to_string()).stack_size(STACK_BYTES);
    // The receiver may have stopped waiting; then nobody wants the result.
    let spawned = thread.spawn(move || drop(tx.send(work())));
    spawned.map_err(|err| Error::new(ErrorKind::Io, format!("chat template: no thread to run it: {err}")))?;
    match rx.recv_timeout(deadline) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(Error::limit(STUCK)),
        Err(RecvTimeoutError::Disconnected) => Err(Error::format("chat template: the engine failed")),
    }
}

/// What a template raised on purpose: it does not accept the conversation.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    let message: String = message.chars().take(500).collect();
    Err(minijinja::Error::new(JinjaKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// The engine's error as ours.
fn error(err: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&err);
    while let Some(this) = cause {
        if let Some(Raised(message)) = this.downcast_ref::<Raised>() {
            return Error::bad_input(format!("chat template: {message}"));
        }
        cause = this.source();
    }
    let line = err.line().map_or_else(String::new, |line| format!("line {line}: "));
    match err.kind() {
        JinjaKind::OutOfFuel => {
            Error::limit(format!("chat template: {line}it takes too many steps or too much memory"))
        }
        kind => {
            let detail: String = err.detail().unwrap_or_default().chars().take(300).collect();
            Error::format(format!("chat template: {line}{kind}: {detail}"))
        }
    }
}

/// Prints one value into the output. Lists and maps are refused: no template has a reason to print them, and their text
/// can be much longer than they are.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    match value.kind() {
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default()).map_err(minijinja::Error::from),
        ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Invalid => {
            minijinja::escape_formatter(out, state, value)
        }
        kind => {
            let message = format!("it prints a {kind}, expected a string or a number");
            Err(minijinja::Error::new(JinjaKind::InvalidOperation, message))
        }
    }
}

/// Python's methods of strings, maps and lists, paid for before they run: the engine itself charges only for what they
/// return, once it is there.
fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    if let Some(text) = value.as_str() {
        let arg = |i: usize| args.get(i).and_then(Value::as_str);
        let hits = |needle: &str| if needle.is_empty() { text.len() + 1 } else { text.matches(needle).count() };
        let extra = match method {
            "replace" => arg(0).map_or(0, |old| hits(old).saturating_mul(arg(1).map_or(0, str::len))),
            // A value takes 24 bytes in a list, beside its text.
            "split" => hits(arg(0).unwrap_or(" ")).saturating_mul(48),
            "splitlines" => hits("\n").saturating_mul(48),
            "join" => return join(state, text, args),
            "format" => {
                return Err(minijinja::Error::new(JinjaKind::UnknownMethod, "string has no method named format"));
            }
            _ => 0,
        };
        state.consume_fuel((text.len().saturating_add(extra) / BYTES_PER_FUEL as usize) as u64)?;
    } else if method == "count" {
        program::pay(state, value)?; // compared with the argument, item by item
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// `separator.join(strings)`.
fn join(state: &mut State, separator: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    let wrong = |what| minijinja::Error::new(JinjaKind::InvalidOperation, what);
    let [list] = args else { return Err(wrong("join takes one list")) };
    let mut out = String::new();
    for (i, item) in list.try_iter()?.enumerate() {
        let item = item.as_str().ok_or_else(|| wrong("join takes a list of strings"))?;
        state.consume_fuel(1 + ((item.len() + separator.len()) as u64) / BYTES_PER_FUEL)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(item);
    }
    Ok(out.into())
}

/// `value | tojson`, in Python's spelling (a space after `,` and `:`, nothing escaped for HTML), as the reference has it.
/// Keys of maps come in alphabetical order.
fn to_json(state: &mut State, value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Spelled as in Python; the reference's default already.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if indent.is_some_and(|n| n > 16) {
        return Err(minijinja::Error::new(JinjaKind::InvalidOperation, "tojson indents by at most 16"));
    }
    let mut out = String::new();
    write_json(state, value, indent, 0, &mut out)?;
    Ok(out.into())
}

fn write_json(
    state: &mut State,
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> Result<(), minijinja::Error> {
    let wrong = |what: String| minijinja::Error::new(JinjaKind::BadSerialization, what);
    if depth > MAX_JSON_DEPTH {
        return Err(wrong(format!("tojson writes at most {MAX_JSON_DEPTH} levels")));
    }
    let start = out.len();
    let new_line = |out: &mut String, depth: usize, first: bool| {
        if !first {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        if let Some(n) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / BYTES_PER_FUEL)?;
            out.push_str(&serde_json::Value::from(text).to_string());
        }
        kind @ (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) => {
            let is_map = kind == ValueKind::Map;
            out.push(if is_map { '{' } else { '[' });
            let mut first = true;
            for item in value.try_iter()? {
                state.consume_fuel(2)?;
                new_line(out, depth + 1, first);
                first = false;
                if is_map {
                    let Some(key) = item.as_str() else {
                        return Err(wrong("tojson takes strings as keys".to_string()));
                    };
                    state.consume_fuel(key.len() as u64 / BYTES_PER_FUEL)?;
                    out.push_str(&serde_json::Value::from(key).to_string());
                    out.push_str(": ");
                    write_json(state, &value.get_item(&item)?, indent, depth + 1, out)?;
                } else {
                    write_json(state, &item, indent, depth + 1, out)?;
                }
            }
            if !first && indent.is_some() {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent.unwrap_or(0) * depth));
            }
            out.push(if is_map { '}' } else { ']' });
        }
        kind => return Err(wrong(format!("tojson cannot write a value of type {kind}"))),
    }
    state.consume_fuel((out.len() - start) as u64 / BYTES_PER_FUEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_or_failing_work_is_an_error() {
        let slow = with_deadline(Duration::from_millis(20), || {
            thread::sleep(Duration::from_secs(2));
            Ok(1)
        });
        assert!(is_stuck(&slow.unwrap_err()));
        let failing: Result<u8> = with_deadline(DEADLINE, || panic!("a test of a failing engine"));
        assert_eq!(failing.unwrap_err().kind(), ErrorKind::Format);
        assert_eq!(with_deadline(DEADLINE, || Ok(1)).unwrap(), 1);
        let refused: Result<u8> = with_deadline(DEADLINE, || Err(Error::limit("too much")));
        assert!(!is_stuck(&refused.unwrap_err()));
    }
}
