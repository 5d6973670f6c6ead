//! Questions, what they would cost, and the model that answers.

use axum::extract::Request;
use serde_json::{Value, json};

use super::Id;
use crate::server::answer::answer;
use crate::server::app::{App, Reply, blocking, ok, with_json};
use crate::server::dialect::Endpoint;
use crate::server::limits::MAX_TEXT_BYTES;
use crate::server::wire::{ChatRequest, Fault, Json, fields};

/// The one model.
pub(crate) async fn models(app: App) -> Reply {
    ok(&json!({ "object": "list", "data": [app.looking()?.model_json()] }))
}

/// The same by its name.
pub(crate) async fn model(app: App, Id(id): Id) -> Reply {
    let desk = app.looking()?;
    desk.check_model(Some(&id))?;
    ok(&desk.model_json())
}

/// An answer, streamed or whole.
pub(crate) async fn chat(app: App, request: Request) -> Reply {
    asked(&app, request, Endpoint::Chat).await
}

/// The text after a prompt.
pub(crate) async fn completion(app: App, request: Request) -> Reply {
    asked(&app, request, Endpoint::Completion).await
}

/// An answer in the words of the Responses API.
pub(crate) async fn response(app: App, request: Request) -> Reply {
    asked(&app, request, Endpoint::Response).await
}

async fn asked(app: &App, request: Request, endpoint: Endpoint) -> Reply {
    let desk = app.working()?.clone();
    let ((request, dialect), kept) = with_json(app, request, |body| endpoint.read(&desk, body)).await?;
    if desk.setup.log_prompts {
        eprintln!("prompt: {:?}", request.turns);
    }
    answer(desk, request, kept, dialect).await
}

/// How many tokens a prompt has.
pub(crate) async fn input_tokens(app: App, request: Request) -> Reply {
    let desk = app.working()?.clone();
    let (mut request, _kept) = with_json(&app, request, ChatRequest::parse).await?;
    let planned = blocking(move || desk.plan(&mut request)).await?;
    ok(&json!({ "object": "response.input_tokens", "input_tokens": planned.n_prompt }))
}

/// The plan of a question, or of a take: a body with messages is the one, with a file the other.
pub(crate) async fn plan(app: App, request: Request) -> Reply {
    let desk = app.working()?.clone();
    enum Asked {
        Chat(Box<ChatRequest>),
        Take(Value),
    }
    let (asked, _kept) = with_json(&app, request, |body| match body.get("messages") {
        Some(_) => ChatRequest::parse(body).map(|request| Asked::Chat(Box::new(request))),
        None => Ok(Asked::Take(body.to_value())),
    })
    .await?;
    let plan = blocking(move || match asked {
        Asked::Chat(mut request) => desk.plan(&mut request).map(|planned| planned.to_json()),
        Asked::Take(body) => desk.plan_of_take(&Json::parse(body.to_string().as_bytes())?),
    });
    ok(&plan.await?)
}

/// Tokens of a text.
pub(crate) async fn tokenize(app: App, request: Request) -> Reply {
    let desk = app.working()?.clone();
    let ((text, with_pieces), _kept) = with_json(&app, request, |body| {
        let text = body.get("content").or_else(|| body.get("prompt")).or_else(|| body.get("text"));
        let text = text.ok_or_else(|| Fault::value("content", "`content` is missing"))?;
        let text = fields::text(text, "content", MAX_TEXT_BYTES)?.to_string();
        Ok((text, matches!(body.get("with_pieces"), Some(Json::Bool(true)))))
    })
    .await?;
    let tokens = blocking(move || {
        let ids = desk.engine.tokenizer.encode(&text, false).map_err(|err| Fault::from_error(&err))?;
        let piece =
            |id: &u32| json!({ "id": id, "piece": String::from_utf8_lossy(desk.engine.tokenizer.token_bytes(*id)) });
        let tokens: Value = if with_pieces { ids.iter().map(piece).collect() } else { json!(ids) };
        Ok(json!({ "tokens": tokens, "count": ids.len(), "max_model_len": desk.setup.session.n_ctx }))
    });
    ok(&tokens.await?)
}
