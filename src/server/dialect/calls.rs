//! Calls of tools in an answer, with the ids that clients answer them by.

use serde_json::{Value, json};

use crate::server::desk::Desk;
use crate::server::random::id;
use crate::server::wire::ChatRequest;
use crate::text::tools::{Reader, Told};

/// An answer with its calls apart.
pub(crate) struct Calls {
    /// None: all of it is text.
    reader: Option<Reader>,
    pub text: String,
    pub list: Vec<Call>,
}

/// One call.
pub(crate) struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

impl Call {
    /// As chat messages have it.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "id": self.id, "type": "function", "function": { "name": self.name, "arguments": self.arguments } })
    }
}

impl Calls {
    /// Of the answer to a request.
    pub(crate) fn new(desk: &Desk, request: &ChatRequest) -> Calls {
        let style = desk.engine.template.tool_style().filter(|_| request.calls_tools());
        let reader = style.map(|style| Reader::new(style, &request.tools.list));
        Calls { reader, text: String::new(), list: Vec::new() }
    }

    /// Takes text in; what is understood.
    pub(crate) fn read(&mut self, text: &str) -> Vec<Told> {
        let told = match &mut self.reader {
            Some(reader) => reader.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Told::Text(text.to_string())],
        };
        self.keep(told)
    }

    /// What was held back at the end.
    pub(crate) fn finish(&mut self) -> Vec<Told> {
        let told = self.reader.as_mut().map(Reader::finish).unwrap_or_default();
        self.keep(told)
    }

    fn keep(&mut self, told: Vec<Told>) -> Vec<Told> {
        for told in &told {
            match told {
                Told::Text(text) => self.text.push_str(text),
                Told::Call(_, name) => {
                    let (name, arguments) = (name.clone(), String::new());
                    self.list.push(Call { id: id("call"), name, arguments });
                }
                Told::Arguments(i, text) => self.list[*i].arguments.push_str(text),
            }
        }
        told
    }
}
