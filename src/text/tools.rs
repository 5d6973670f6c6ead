//! Calls of tools, in the forms that chat templates teach: what a model has to write, as a grammar, and what it wrote, as calls.
//!
//! ```text
//! <tool_call>                                 <tool_call>
//! {"name": "look", "arguments": {"at": 3}}    <function=look>
//! </tool_call>                                <parameter=at>
//!                                             3
//!                                             </parameter>
//!                                             </function>
//!                                             </tool_call>
//! ```
//!
//! A call that is begun is kept to the form and to the tool's own schema, so that it can always be read.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Form, Tokenizer};
use crate::{Error, Result};

/// What begins and ends a call in both forms.
const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// What ends an argument in tags.
const PARAMETER_END: &str = "\n</parameter>\n";
/// Longest name of a tool, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub name: String,
    /// The schema of its arguments, an object.
    pub parameters: Value,
    /// What the template is told.
    pub told: Value,
}

/// Whether tools are called.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Choice {
    /// As the model likes.
    #[default]
    Auto,
    /// At least one, and nothing is said beside it.
    Required,
    /// This one.
    Named(String),
}

/// How a template writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One object of JSON with `name` and `arguments`.
    Json,
    /// `<function=…>` with a `<parameter=…>` for each argument.
    Tags,
}

impl Style {
    /// The style of a template, by what it holds; none, where it knows no tools.
    pub(crate) fn of(template: &str) -> Option<Style> {
        match () {
            () if !template.contains("tools") || !template.contains(OPEN) => None,
            () if template.contains("<function=") => Some(Style::Tags),
            () => Some(Style::Json),
        }
    }

    /// The form of an answer that may call `tools`.
    ///
    /// # Errors
    /// A choice of a tool that is not there; a schema that is no object.
    pub(crate) fn form(
        self,
        tools: &[Tool],
        choice: &Choice,
        is_parallel: bool,
        tokenizer: &Tokenizer,
    ) -> Result<Form> {
        let chosen: Vec<&Tool> = match choice {
            Choice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
            _ => tools.iter().collect(),
        };
        if chosen.is_empty() {
            return Err(Error::bad_input("the tool that has to be called is not among the tools"));
        }
        let is_token = |text: &str| tokenizer.token_id(text).is_some_and(|id| !tokenizer.is_ordinary(id));
        // A token of its own, or the letters of it.
        let sign = |text: &str| if is_token(text) { text.to_string() } else { quoted(text) };
        let is_many = is_parallel && !matches!(choice, Choice::Named(_));
        let mut lark = String::new();
        let more = if is_many { " (\"\\n\" open call)*" } else { "" };
        match choice {
            Choice::Required | Choice::Named(_) => {
                let _ = writeln!(lark, "start: open call{more}\nopen: {}", sign(OPEN));
            }
            Choice::Auto if is_token(OPEN) => {
                // Thoughts have tokens of their own, too.
                let thoughts = ["<think>", "</think>"].iter().filter(|text| is_token(text));
                let thoughts: String = thoughts.map(|text| format!(" | {text}")).collect();
                let _ = writeln!(lark, "start: said* (open call{more})?\nsaid: TEXT{thoughts}");
                let _ = writeln!(lark, "TEXT: /(?s:.+)/\nopen: {OPEN}");
            }
            Choice::Auto => {
                // Text ends where it spells the beginning of a call, which text alone never does.
                let _ = writeln!(lark, "start: TEXT | said call{more}\nsaid[suffix={}]: /(?s:.*)/", quoted(OPEN));
                let _ = writeln!(lark, "TEXT: /(?s:.*)/ & ~/(?s:.*){OPEN}(?s:.*)/\nopen: {}", quoted(OPEN));
            }
        }
        let names: Vec<String> = (0..chosen.len()).map(|i| format!("call{i}")).collect();
        let _ = writeln!(lark, "call: \"\\n\" ({}) \"\\n\" {}", names.join(" | "), sign(CLOSE));
        for (i, tool) in chosen.iter().enumerate() {
            match self {
                Style::Json => {
                    let head = quoted(&format!("{{\"name\": {}, \"arguments\": ", quoted(&tool.name)));
                    let _ = writeln!(lark, "call{i}: {head} args{i} \"}}\"\nargs{i}: {}", inline(&tool.parameters));
                }
                Style::Tags => tags(&mut lark, i, tool)?,
            }
        }
        // Not to be taken for GBNF by what a description may hold.
        Ok(Form::Lark(lark))
    }
}

/// A text as JSON and Lark write it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A schema within Lark.
fn inline(schema: &Value) -> String {
    let mut schema = schema.clone();
    super::guide::settle(&mut schema);
    format!("%json {schema}")
}

/// The parameters of a tool, with their schemas, and whether each has to be given.
fn parameters(tool: &Tool) -> Result<Vec<(&String, &Value, bool)>> {
    let required = tool.parameters["required"].as_array();
    let is_required = |name: &String| required.is_some_and(|list| list.iter().any(|item| item == name));
    let list = match tool.parameters.get("properties") {
        None => return Ok(Vec::new()),
        Some(Value::Object(list)) => list,
        Some(_) => return Err(Error::bad_input(format!("the parameters of `{}` are no object", tool.name))),
    };
    Ok(list.iter().map(|(name, schema)| (name, schema, is_required(name))).collect())
}

/// Whether values of a schema are written as they are, without quotes: strings of which no more is said. Others are written as
/// JSON, which keeps them to what is.
fn is_text(schema: &Value) -> bool {
    const REMARKS: &[&str] = &["type", "title", "description", "default", "examples", "$comment", "deprecated"];
    let is_free = |fields: &Map<String, Value>| fields.keys().all(|name| REMARKS.contains(&name.as_str()));
    schema["type"] == "string" && schema.as_object().is_some_and(is_free)
}

/// The values of a schema that lists strings.
fn words(schema: &Value) -> Option<Vec<&str>> {
    let list = schema.get("enum")?.as_array()?;
    list.iter().map(Value::as_str).collect()
}

/// The call of a tool in tags: its parameters in their order, those that may be left out at will.
fn tags(lark: &mut String, i: usize, tool: &Tool) -> Result<()> {
    let parameters = parameters(tool)?;
    let _ = write!(lark, "call{i}: {}", quoted(&format!("<function={}>\n", tool.name)));
    for (j, (.., is_required)) in parameters.iter().enumerate() {
        let _ = write!(lark, " p{i}_{j}{}", if *is_required { "" } else { "?" });
    }
    let _ = writeln!(lark, " \"</function>\"");
    // Parameters of a schema by reference would need its definitions.
    let definitions: Map<String, Value> = ["$defs", "definitions"]
        .iter()
        .filter_map(|name| Some((name.to_string(), tool.parameters.get(*name)?.clone())))
        .collect();
    for (j, (name, schema, _)) in parameters.iter().enumerate() {
        if name.chars().any(|c| c == '>' || c == '\n') {
            return Err(Error::bad_input(format!("a parameter of `{}` has a name that tags cannot hold", tool.name)));
        }
        let head = quoted(&format!("<parameter={name}>\n"));
        if is_text(schema) {
            let _ = writeln!(lark, "p{i}_{j}: {head} v{i}_{j}\nv{i}_{j}[suffix={}]: /(?s:.*)/", quoted(PARAMETER_END));
        } else if let Some(words) = words(schema) {
            let words: Vec<String> = words.into_iter().map(quoted).collect();
            let _ = writeln!(lark, "p{i}_{j}: {head} ({}) {}", words.join(" | "), quoted(PARAMETER_END));
        } else {
            let mut schema = (*schema).clone();
            if let Some(fields) = schema.as_object_mut() {
                definitions.iter().for_each(|(name, value)| drop(fields.insert(name.clone(), value.clone())));
            }
            let _ =
                writeln!(lark, "p{i}_{j}: {head} v{i}_{j} {}\nv{i}_{j}: {}", quoted(PARAMETER_END), inline(&schema));
        }
    }
    Ok(())
}

/// A piece of an answer that may call tools.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Text(String),
    /// A call begins: its number, and the tool's name.
    Call(usize, String),
    /// More of a call's arguments, which are JSON.
    Arguments(usize, String),
}

/// Reads calls as they are written.
pub(crate) struct Reader {
    style: Style,
    tools: Vec<Tool>,
    /// What is not understood yet.
    rest: String,
    n_calls: usize,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    Text,
    /// After the mark of a call, before its name.
    Head,
    /// Within arguments of JSON: how deep, and whether within a string, after a backslash.
    Json {
        depth: usize,
        is_text: bool,
        is_escaped: bool,
    },
    /// Between tags of the tool of this number: how many arguments there were.
    Tags {
        tool: usize,
        n: usize,
    },
    /// After the arguments.
    Tail,
}

impl Reader {
    /// Nothing yet.
    pub(crate) fn new(style: Style, tools: &[Tool]) -> Reader {
        Reader { style, tools: tools.to_vec(), rest: String::new(), n_calls: 0, state: State::Text }
    }

    /// Takes text in, and tells what is understood.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Told> {
        self.rest.push_str(text);
        let mut told = Vec::new();
        while self.step(&mut told) {}
        told
    }

    /// What was held at the end.
    pub(crate) fn finish(&mut self) -> Vec<Told> {
        let rest = std::mem::take(&mut self.rest);
        if self.state == State::Head {
            // Letters that spell the mark, and no call.
            self.state = State::Text;
            return vec![Told::Text(format!("{OPEN}{rest}"))];
        }
        if self.state != State::Text || rest.is_empty() || (self.n_calls > 0 && rest.trim().is_empty()) {
            return Vec::new();
        }
        vec![Told::Text(rest)]
    }

    /// Goes on as far as a state goes; says whether there is more to do.
    fn step(&mut self, told: &mut Vec<Told>) -> bool {
        match &mut self.state {
            State::Text => {
                let at = self.rest.find(OPEN);
                // The beginning of a mark, and the line that ends before it, wait for more.
                let keep = at.unwrap_or_else(|| self.rest.len() - held(&self.rest));
                let text: String = self.rest.drain(..keep).collect();
                let text = if at.is_some() { text.trim_end().to_string() } else { text };
                let is_between = self.n_calls > 0 && text.trim().is_empty();
                if !text.is_empty() && !is_between {
                    told.push(Told::Text(text));
                }
                if at.is_some() {
                    self.rest.drain(..OPEN.len());
                    self.state = State::Head;
                }
                at.is_some()
            }
            State::Head => self.head(told),
            State::Json { depth, is_text, is_escaped } => {
                let mut end = 0;
                let mut is_over = false;
                for (at, c) in self.rest.char_indices() {
                    end = at + c.len_utf8();
                    match c {
                        _ if *is_escaped => *is_escaped = false,
                        '\\' if *is_text => *is_escaped = true,
                        '"' => *is_text = !*is_text,
                        '{' | '[' if !*is_text => *depth += 1,
                        '}' | ']' if !*is_text => *depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    is_over = *depth == 0 && !*is_text && matches!(c, '}' | ']');
                    if is_over {
                        break;
                    }
                }
                let text: String = self.rest.drain(..end).collect();
                if !text.is_empty() {
                    told.push(Told::Arguments(self.n_calls - 1, text));
                }
                if is_over {
                    self.state = State::Tail;
                }
                is_over
            }
            State::Tags { .. } => self.tags(told),
            State::Tail => match self.rest.find(CLOSE) {
                Some(at) => {
                    self.rest.drain(..at + CLOSE.len());
                    self.state = State::Text;
                    true
                }
                None => false,
            },
        }
    }

    /// The name of the tool that is called.
    fn head(&mut self, told: &mut Vec<Told>) -> bool {
        let (before, after) = match self.style {
            Style::Json => ("{\"name\": \"", "\", \"arguments\": "),
            Style::Tags => ("<function=", ">\n"),
        };
        let begin = self.rest.find(before).map(|at| at + before.len());
        let found = begin.and_then(|begin| Some((begin, begin + self.rest[begin..].find(after)?)));
        let Some((begin, end)) = found else { return false };
        let name = self.rest[begin..end].to_string();
        self.rest.drain(..end + after.len());
        let tool = self.tools.iter().position(|tool| tool.name == name).unwrap_or(0);
        told.push(Told::Call(self.n_calls, name));
        self.n_calls += 1;
        self.state = match self.style {
            Style::Json => State::Json { depth: 0, is_text: false, is_escaped: false },
            Style::Tags => State::Tags { tool, n: 0 },
        };
        true
    }

    /// One parameter, or the end of them.
    fn tags(&mut self, told: &mut Vec<Told>) -> bool {
        const END: &str = "</function>";
        let State::Tags { tool, n } = &mut self.state else { return false };
        let call = self.n_calls - 1;
        let from = self.rest.find("<parameter=");
        if let Some(at) = self.rest.find(END).filter(|at| from.is_none_or(|from| *at < from)) {
            self.rest.drain(..at + END.len());
            told.push(Told::Arguments(call, if *n == 0 { "{}" } else { "}" }.to_string()));
            self.state = State::Tail;
            return true;
        }
        let parsed = from.and_then(|from| {
            let rest = &self.rest[from + "<parameter=".len()..];
            let (name, rest) = rest.split_once(">\n")?;
            let (value, rest) = rest.split_once(PARAMETER_END)?;
            let schema = self.tools.get(*tool).map_or(&Value::Null, |tool| &tool.parameters["properties"][name]);
            let is_word = is_text(schema) || words(schema).is_some();
            let value = if is_word { None } else { serde_json::from_str(value).ok() }.unwrap_or_else(|| json!(value));
            Some((format!("{}{}: {value}", if *n == 0 { "{" } else { ", " }, quoted(name)), rest.len()))
        });
        let Some((text, n_left)) = parsed else { return false };
        *n += 1;
        told.push(Told::Arguments(call, text));
        self.rest.drain(..self.rest.len() - n_left);
        true
    }
}

/// Bytes at the end of a text that may belong to a call that follows: the beginning of its mark, and white space before it.
fn held(text: &str) -> usize {
    let mark = (1..OPEN.len()).rev().find(|n| text.ends_with(&OPEN[..*n])).unwrap_or(0);
    let before = &text[..text.len() - mark];
    mark + before.len() - before.trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, parameters: Value) -> Tool {
        Tool { name: name.into(), parameters, told: Value::Null }
    }

    /// All that is told, with calls joined, whatever pieces the text comes in.
    fn read(style: Style, text: &str, n: usize) -> (String, Vec<(String, Value)>) {
        let tools =
            [tool("look", json!({ "properties": { "at": { "type": "integer" }, "why": { "type": "string" } } }))];
        let mut reader = Reader::new(style, &tools);
        let (mut said, mut calls) = (String::new(), Vec::<(String, String)>::new());
        let chars: Vec<char> = text.chars().collect();
        let pieces = chars.chunks(n).map(|piece| piece.iter().collect::<String>());
        let mut told: Vec<Told> = pieces.flat_map(|piece| reader.push(&piece)).collect();
        told.extend(reader.finish());
        for told in told {
            match told {
                Told::Text(text) => said.push_str(&text),
                Told::Call(i, name) => {
                    assert_eq!(i, calls.len());
                    calls.push((name, String::new()));
                }
                Told::Arguments(i, text) => calls[i].1.push_str(&text),
            }
        }
        (said, calls.into_iter().map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect())
    }

    #[test]
    fn calls_are_read_in_pieces_of_any_size() {
        let json = "Let me see.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": 3, \"why\": \"a }\\\" <tool_call>\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"look\", \"arguments\": {}}\n</tool_call>";
        let tags = "Let me see.\n<tool_call>\n<function=look>\n<parameter=at>\n3\n</parameter>\n<parameter=why>\na }\" <tool_call>\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=look>\n</function>\n</tool_call>";
        let want =
            vec![("look".to_string(), json!({ "at": 3, "why": "a }\" <tool_call>" })), ("look".to_string(), json!({}))];
        for n in [1, 2, 3, 7, 1000] {
            assert_eq!(read(Style::Json, json, n), ("Let me see.".to_string(), want.clone()), "{n}");
            assert_eq!(read(Style::Tags, tags, n), ("Let me see.".to_string(), want.clone()), "{n}");
            assert_eq!(read(Style::Json, "a <tool_cal b \n", n), ("a <tool_cal b \n".to_string(), vec![]));
        }
        // A mark with no call behind it is text, and so is the end of an argument that goes on.
        for style in [Style::Json, Style::Tags] {
            assert_eq!(read(style, "a <tool_call> b", 3), ("a<tool_call> b".to_string(), vec![]));
        }
        let tags =
            "<tool_call>\n<function=look>\n<parameter=why>\na\n</parameter>b\n</parameter>\n</function>\n</tool_call>";
        assert_eq!(read(Style::Tags, tags, 5).1, [("look".to_string(), json!({ "why": "a\n</parameter>b" }))]);
        // A text that looks like a number stays a text.
        let tags = "<tool_call>\n<function=look>\n<parameter=why>\n7\n</parameter>\n</function>\n</tool_call>";
        assert_eq!(read(Style::Tags, tags, 4).1, [("look".to_string(), json!({ "why": "7" }))]);
    }

    #[test]
    fn styles_are_told_by_their_templates() {
        assert_eq!(Style::of("{% for m in messages %}"), None);
        assert_eq!(Style::of("{% if tools %}<tool_call>"), Some(Style::Json));
        assert_eq!(Style::of("{% if tools %}<tool_call><function=f>"), Some(Style::Tags));
    }
}
