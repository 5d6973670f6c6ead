//! The routes, as one table: what answers, and what the document at `/openapi.json` says of it. Handlers translate, and nothing
//! more.

mod batches;
mod files;
mod questions;
mod state;
mod takes;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{MethodRouter, get, post};

use super::app::App;
use super::setup::Setup;
use super::wire::{Code, Fault};

/// A path.
pub(crate) struct Route {
    pub path: &'static str,
    pub methods: fn() -> MethodRouter<App>,
    /// Whether a server that is set up so has it.
    pub is_there: fn(&Setup) -> bool,
    /// What is said of it, by method; none: a second name of another path.
    pub told: &'static [Operation],
}

/// A method of a path, as programs are told of it.
pub(crate) struct Operation {
    pub method: &'static str,
    /// Its name in clients that are made from the document.
    pub id: &'static str,
    pub summary: &'static str,
    /// Parameters of the query, with their schemas.
    pub query: &'static [(&'static str, &'static str)],
    pub body: Body,
    /// Status, type of content and schema of what comes back.
    pub replies: &'static [(u16, Content, &'static str)],
    /// Statuses of refusals, beside those that every route has.
    pub refusals: &'static [u16],
}

/// What a request carries.
pub(crate) enum Body {
    None,
    /// JSON of a schema.
    Json(&'static str),
    /// A form with a file.
    Form(&'static str),
    /// Bytes.
    Raw,
}

/// What a reply is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Json,
    /// Server-sent events, each with data of the schema.
    Events,
    Text,
    /// JSON, one object a line.
    Lines,
}

impl Content {
    /// Its type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Content::Json => "application/json",
            Content::Events => "text/event-stream",
            Content::Text => "text/plain",
            Content::Lines => "application/jsonl",
        }
    }
}

/// Refusals of whatever reads a JSON body.
const OF_BODIES: &[u16] = &[400, 404, 411, 413, 415, 429, 500, 503];
/// Those of an upload.
const OF_UPLOADS: &[u16] = &[400, 404, 411, 413, 415, 500, 503, 507];
const OF_TAKES: &[u16] = &[400, 404, 411, 413, 415, 429, 500, 503, 507];
/// Those of whatever names something by its id.
const OF_IDS: &[u16] = &[400, 404, 500, 503];
/// Those of what only tells.
const OF_LISTS: &[u16] = &[404, 500, 503];

const ALWAYS: fn(&Setup) -> bool = |_| true;

/// An operation without query and body.
const fn told(
    (method, id): (&'static str, &'static str),
    summary: &'static str,
    replies: &'static [(u16, Content, &'static str)],
    refusals: &'static [u16],
) -> Operation {
    Operation { method, id, summary, query: &[], body: Body::None, replies, refusals }
}

use Content::{Events, Json, Lines, Text};

/// All routes but the page's.
pub(crate) static TABLE: &[Route] = &[
    Route {
        path: "/health",
        methods: || get(state::health),
        is_there: ALWAYS,
        told: &[told(("get", "health"), "It lives", &[(200, Json, "Status")], &[])],
    },
    Route { path: "/v1/health", methods: || get(state::health), is_there: ALWAYS, told: &[] },
    Route {
        path: "/ready",
        methods: || get(state::ready),
        is_there: ALWAYS,
        told: &[told(("get", "ready"), "It takes work", &[(200, Json, "Status"), (503, Json, "Status")], &[])],
    },
    Route {
        path: "/v1/models",
        methods: || get(questions::models),
        is_there: ALWAYS,
        told: &[told(("get", "listModels"), "The model", &[(200, Json, "ModelList")], &[503])],
    },
    Route { path: "/models", methods: || get(questions::models), is_there: ALWAYS, told: &[] },
    Route {
        path: "/v1/models/{id}",
        methods: || get(questions::model),
        is_there: ALWAYS,
        told: &[told(("get", "retrieveModel"), "The model by its name", &[(200, Json, "Model")], OF_IDS)],
    },
    Route {
        path: "/v1/chat/completions",
        methods: || post(questions::chat),
        is_there: ALWAYS,
        told: &[Operation {
            body: Body::Json("ChatRequest"),
            ..told(
                ("post", "createChatCompletion"),
                "An answer, streamed or whole",
                &[(200, Json, "ChatAnswer"), (200, Events, "ChatChunk")],
                OF_BODIES,
            )
        }],
    },
    Route {
        path: "/v1/completions",
        methods: || post(questions::completion),
        is_there: ALWAYS,
        told: &[Operation {
            body: Body::Json("CompletionRequest"),
            ..told(
                ("post", "createCompletion"),
                "The text after a prompt that stands as it is",
                &[(200, Json, "CompletionAnswer"), (200, Events, "CompletionAnswer")],
                OF_BODIES,
            )
        }],
    },
    Route {
        path: "/v1/responses",
        methods: || post(questions::response),
        is_there: ALWAYS,
        told: &[Operation {
            body: Body::Json("ResponseRequest"),
            ..told(
                ("post", "createResponse"),
                "An answer in the words of the Responses API; nothing of it is kept",
                &[(200, Json, "ResponseAnswer"), (200, Events, "ResponseEvent")],
                OF_BODIES,
            )
        }],
    },
    Route {
        path: "/v1/chat/completions/input_tokens",
        methods: || post(questions::input_tokens),
        is_there: ALWAYS,
        told: &[Operation {
            body: Body::Json("ChatRequest"),
            ..told(
                ("post", "countInputTokens"),
                "How many tokens a chat request's prompt has",
                &[(200, Json, "InputTokens")],
                OF_BODIES,
            )
        }],
    },
    Route {
        path: "/v1/tokenize",
        methods: || post(questions::tokenize),
        is_there: ALWAYS,
        told: &[Operation {
            body: Body::Json("TokenizeRequest"),
            ..told(("post", "tokenize"), "Tokens of a text", &[(200, Json, "Tokens")], OF_BODIES)
        }],
    },
    Route {
        path: "/v1/plan",
        methods: || post(questions::plan),
        is_there: ALWAYS,
        told: &[Operation {
            body: Body::Json("PlanRequest"),
            ..told(
                ("post", "plan"),
                "What a chat request, or a request for a take, would cost; nothing happens",
                &[(200, Json, "Plan")],
                OF_BODIES,
            )
        }],
    },
    Route {
        path: "/v1/files",
        methods: || get(files::files).post(files::upload_form).put(files::upload_raw),
        is_there: ALWAYS,
        told: &[
            told(("get", "listFiles"), "Uploads", &[(200, Json, "FileList")], OF_LISTS),
            Operation {
                body: Body::Form("UploadForm"),
                ..told(("post", "createFile"), "Upload a file as a form", &[(200, Json, "File")], OF_UPLOADS)
            },
            Operation {
                query: &[("filename", "FileName"), ("purpose", "Purpose"), ("expires_after", "ExpiresAfter")],
                body: Body::Raw,
                ..told(("put", "putFile"), "Upload a body as it is (`curl -T`)", &[(200, Json, "File")], OF_UPLOADS)
            },
        ],
    },
    Route {
        path: "/v1/files/{id}",
        methods: || get(files::file).delete(files::delete_file),
        is_there: ALWAYS,
        told: &[
            told(("get", "retrieveFile"), "What is known of an upload", &[(200, Json, "File")], OF_IDS),
            told(("delete", "deleteFile"), "Forget an upload", &[(200, Json, "Deleted")], OF_IDS),
        ],
    },
    Route {
        path: "/v1/files/{id}/content",
        methods: || get(files::content),
        is_there: ALWAYS,
        told: &[told(("get", "fileContent"), "The lines of a batch's file", &[(200, Lines, "Lines")], OF_IDS)],
    },
    Route {
        path: "/v1/batches",
        methods: || get(batches::batches).post(batches::ask_batch),
        is_there: ALWAYS,
        told: &[
            told(("get", "listBatches"), "Batches", &[(200, Json, "BatchList")], OF_LISTS),
            Operation {
                body: Body::Json("BatchRequest"),
                ..told(("post", "createBatch"), "Answer the requests of a file", &[(200, Json, "Batch")], OF_TAKES)
            },
        ],
    },
    Route {
        path: "/v1/batches/{id}",
        methods: || get(batches::batch),
        is_there: ALWAYS,
        told: &[told(("get", "retrieveBatch"), "How a batch stands", &[(200, Json, "Batch")], OF_IDS)],
    },
    Route {
        path: "/v1/batches/{id}/cancel",
        methods: || post(batches::cancel_batch),
        is_there: ALWAYS,
        told: &[told(("post", "cancelBatch"), "Stop a batch", &[(200, Json, "Batch")], OF_IDS)],
    },
    Route {
        path: "/v1/takes",
        methods: || get(takes::takes).post(takes::ask_take),
        is_there: ALWAYS,
        told: &[
            told(("get", "listTakes"), "Takes", &[(200, Json, "TakeList")], OF_LISTS),
            Operation {
                body: Body::Json("TakeRequest"),
                ..told(
                    ("post", "createTake"),
                    "Read a video into a take, or go on with the one that there is",
                    &[(200, Json, "Take"), (202, Json, "Take")],
                    OF_TAKES,
                )
            },
        ],
    },
    Route {
        path: "/v1/takes/{id}",
        methods: || get(takes::take).delete(takes::delete_take),
        is_there: ALWAYS,
        told: &[
            told(("get", "retrieveTake"), "How a take stands", &[(200, Json, "Take")], OF_IDS),
            told(("delete", "deleteTake"), "Remove a take", &[(200, Json, "Deleted")], OF_IDS),
        ],
    },
    Route {
        path: "/v1/takes/{id}/cancel",
        methods: || post(takes::cancel_take),
        is_there: ALWAYS,
        told: &[told(("post", "cancelTake"), "Pause reading", &[(200, Json, "Take")], OF_IDS)],
    },
    Route {
        path: "/v1/takes/{id}/resume",
        methods: || post(takes::resume_take),
        is_there: ALWAYS,
        told: &[told(("post", "resumeTake"), "Go on reading", &[(200, Json, "Take")], &[400, 404, 500, 503, 507])],
    },
    Route {
        path: "/v1/takes/{id}/events",
        methods: || get(takes::take_events),
        is_there: ALWAYS,
        told: &[told(
            ("get", "takeEvents"),
            "How a take goes, until it is ready, paused or failed",
            &[(200, Events, "Take")],
            OF_IDS,
        )],
    },
    Route {
        path: "/props",
        methods: || get(state::props),
        is_there: ALWAYS,
        told: &[told(("get", "props"), "Defaults and limits", &[(200, Json, "Props")], &[503])],
    },
    Route {
        path: "/slots",
        methods: || get(state::slots),
        is_there: |setup| setup.slots,
        told: &[told(
            ("get", "slots"),
            "How full conversations are (with --slots)",
            &[(200, Json, "Slots")],
            &[404, 503],
        )],
    },
    Route {
        path: "/metrics",
        methods: || get(state::metrics),
        is_there: ALWAYS,
        told: &[told(("get", "metrics"), "Figures for Prometheus", &[(200, Text, "Figures")], &[])],
    },
    Route {
        path: "/openapi.json",
        methods: || get(state::openapi),
        is_there: ALWAYS,
        told: &[told(("get", "openapi"), "This document", &[(200, Json, "Document")], &[])],
    },
];

/// The id in a path.
pub(crate) struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, Fault> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Id(id)),
            Err(_) => Err(Fault::new(Code::InvalidValue, "the id in the path is not UTF-8").of("id")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::{Method, StatusCode};
    use tower_service::Service;

    use super::*;

    /// What the document says of a path is what the path takes.
    #[test]
    fn methods_are_those_that_are_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut router = App::new(Arc::new(Setup { slots: true, ..Setup::default() }), true).router();
        for route in TABLE {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                let request = axum::http::Request::builder().method(&method).uri(route.path.replace("{id}", "x"));
                let request = request.header("host", "localhost").body(axum::body::Body::empty()).unwrap();
                let status = runtime.block_on(router.call(request)).unwrap().status();
                let is_told = route.told.iter().any(|told| told.method.eq_ignore_ascii_case(method.as_str()));
                let has = status != StatusCode::METHOD_NOT_ALLOWED && status != StatusCode::FORBIDDEN;
                assert!(has == is_told || route.told.is_empty(), "{method} {}: {status}", route.path);
            }
        }
    }
}
