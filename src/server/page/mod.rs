//! The page: three static files in the binary. Nothing of it comes from elsewhere, and the browser is told to load nothing else.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use sha2::{Digest, Sha256};

use super::app::App;

/// The only things that the page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; \
                      media-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Adds the page to the routes.
pub(super) fn routes(router: Router<App>) -> Router<App> {
    let files: [(&str, &'static str, &'static str); 3] = [
        ("/", "text/html; charset=utf-8", include_str!("index.html")),
        ("/page.js", "text/javascript; charset=utf-8", include_str!("page.js")),
        ("/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ];
    files.into_iter().fold(router, |router, (path, kind, text)| {
        let tag =
            format!("\"{:.16}\"", Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        router.route(path, get(move |headers: HeaderMap| async move { file(&headers, kind, text, &tag) }))
    })
}

/// A file, unless the browser has it.
fn file(headers: &HeaderMap, kind: &'static str, text: &'static str, tag: &str) -> Response<Body> {
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag);
    let mut response = Response::new(if is_known { Body::empty() } else { Body::from(text) });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
