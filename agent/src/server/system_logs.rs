//! `/logs/`: the logs of the machine, as files and lists of them.
//!
//! No link leads out of the folder: pods that may write there would else read
//! every file of the machine through it.

use std::{fs, io, os::fd::AsRawFd, path::Path as FilePath, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use tokio_util::io::ReaderStream;

use super::backend::Backend;
use crate::volume;

/// `GET /logs/`.
pub(super) async fn list(State(node): State<Arc<dyn Backend>>) -> Response {
    answer(node.log_dir(), "").await
}

/// `GET /logs/PATH`.
pub(super) async fn serve(
    State(node): State<Arc<dyn Backend>>,
    Path(path): Path<String>,
) -> Response {
    answer(node.log_dir(), &path).await
}

async fn answer(dir: &FilePath, path: &str) -> Response {
    match open(dir, path).await {
        Ok(response) => response,
        Err(error) => {
            let status = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
                _ => StatusCode::FORBIDDEN,
            };
            tracing::debug!(%error, path, "log not served");
            (status, format!("{path:?} is no file or folder below {}", dir.display()))
                .into_response()
        }
    }
}

async fn open(dir: &FilePath, path: &str) -> io::Result<Response> {
    let file = volume::open_beneath(dir, path).await?;
    if !file.metadata()?.is_dir() {
        let file = tokio::fs::File::from_std(file);
        let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return Ok((text, Body::from_stream(ReaderStream::new(file))).into_response());
    }
    // Links in the list are relative: they need the slash at the end.
    if !path.is_empty() && !path.ends_with('/') {
        let name = path.rsplit('/').next().unwrap_or_default();
        let location = [(header::LOCATION, format!("{}/", in_url(name)))];
        return Ok((StatusCode::MOVED_PERMANENTLY, location).into_response());
    }
    let names = volume::blocking(move || {
        let mut names = Vec::new();
        for entry in fs::read_dir(format!("/proc/self/fd/{}", file.as_raw_fd()))? {
            let entry = entry?;
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(names)
    });
    let mut page = "<pre>\n".to_owned();
    for name in names.await? {
        page.push_str(&format!("<a href=\"{}\">{}</a>\n", in_url(&name), in_html(&name)));
    }
    page.push_str("</pre>\n");
    Ok(Html(page).into_response())
}

/// A name as a part of an URL.
fn in_url(name: &str) -> String {
    let mut url = String::new();
    for byte in name.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => url.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

fn in_html(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}
