//! Links of what is shown through a proxy: `/page` of a pod's own server is
//! `/api/v1/…/proxy/page` to whoever comes through here.
//!
//! HTML is rewritten as it passes; no more of it is held than one tag. Only
//! links from the root of the same server are changed.
//!
//! Left out: pages that come compressed, and links that scripts put together.

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Uri, header};

/// Attributes whose value is one URL.
const URLS: [&str; 14] = [
    "action",
    "background",
    "cite",
    "codebase",
    "data",
    "formaction",
    "href",
    "icon",
    "longdesc",
    "manifest",
    "poster",
    "profile",
    "src",
    "usemap",
];

/// A tag beyond this is passed on as it is.
const MAX_TAG: usize = 64 << 10;

/// Makes an answer's headers fit: where it sends the client, and no length or
/// checksum of a page that is rewritten.
pub(super) fn fit_headers(headers: &mut HeaderMap, prefix: &str, hosts: &[&str]) {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let rewritten = location.and_then(|location| redirected(location, prefix, hosts));
    if let Some(value) = rewritten.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(header::LOCATION, value);
    }
    if is_page(headers) {
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::ETAG);
    }
}

/// Whether the answer is HTML that can be read.
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/html") && !headers.contains_key(header::CONTENT_ENCODING)
}

/// A page with its links rewritten.
pub(super) fn rewritten(body: Body, prefix: String) -> Body {
    let pieces = body.into_data_stream().map(Some).chain(futures::stream::iter([None]));
    let mut links = Links { prefix, state: State::Text, pending: Vec::new() };
    Body::from_stream(pieces.map(move |piece| match piece {
        Some(piece) => piece.map(|piece| Bytes::from(links.feed(&piece))),
        None => Ok(Bytes::from(std::mem::take(&mut links.pending))),
    }))
}

/// Where a redirect leads, as the client has to ask for it; `None` if it leads
/// elsewhere.
fn redirected(location: &str, prefix: &str, hosts: &[&str]) -> Option<String> {
    if let Some(path) = from_root(location.as_bytes()) {
        return (!path.starts_with(prefix.as_bytes())).then(|| format!("{prefix}{location}"));
    }
    let uri: Uri = location.parse().ok()?;
    let host = uri.authority()?.as_str();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    hosts.contains(&host).then(|| format!("{prefix}{path}"))
}

/// The value itself if it is a path from the root of the same server.
fn from_root(value: &[u8]) -> Option<&[u8]> {
    (value.starts_with(b"/") && !value.starts_with(b"//")).then_some(value)
}

/// What surrounds the next byte.
enum State {
    Text,
    Comment,
    /// In an element whose text is no HTML, until its end tag.
    Raw(&'static str),
}

struct Links {
    prefix: String,
    state: State,
    /// The beginning of a tag whose end has not come yet.
    pending: Vec<u8>,
}

impl Links {
    /// Takes a piece of the page, gives what can be passed on.
    fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.pending);
        input.extend_from_slice(piece);
        let (mut out, mut rest) = (Vec::with_capacity(input.len()), &input[..]);
        loop {
            let taken = match self.state {
                State::Text => self.text(rest, &mut out),
                State::Comment => self.skip_to(b"-->", rest, &mut out),
                State::Raw(end) => self.skip_to(end.as_bytes(), rest, &mut out),
            };
            rest = &rest[taken.unwrap_or_default()..];
            if taken.is_none() {
                break;
            }
        }
        self.pending = rest.to_vec();
        out
    }

    /// Passes on text and the tag after it. `None` when more has to come first.
    fn text(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if input.is_empty() {
            return None;
        }
        let at = input.iter().position(|byte| *byte == b'<').unwrap_or(input.len());
        if at > 0 {
            out.extend_from_slice(&input[..at]);
            return Some(at);
        }
        if input.len() < 4 && b"<!--".starts_with(input) {
            return None;
        }
        if input.starts_with(b"<!--") {
            self.state = State::Comment;
            out.extend_from_slice(&input[..4]);
            return Some(4);
        }
        let is_tag = input[1].is_ascii_alphabetic();
        match end_of_tag(input).filter(|_| is_tag) {
            Some(end) => {
                let tag = &input[..end];
                out.extend(self.tag(tag));
                self.state = match name_of(tag).as_str() {
                    "script" => State::Raw("</script"),
                    "style" => State::Raw("</style"),
                    _ => State::Text,
                };
                Some(end)
            }
            None if is_tag && input.len() < MAX_TAG => None,
            None => {
                out.push(b'<');
                Some(1)
            }
        }
    }

    /// Passes on all up to `end`, and looks at tags again from there.
    fn skip_to(&mut self, end: &[u8], input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let found = input.windows(end.len()).position(|window| window.eq_ignore_ascii_case(end));
        let Some(at) = found else {
            // The end may be cut in two.
            let safe = input.len().saturating_sub(end.len() - 1);
            out.extend_from_slice(&input[..safe]);
            return (safe > 0).then_some(safe);
        };
        out.extend_from_slice(&input[..at]);
        self.state = State::Text;
        Some(at)
    }

    /// A whole tag with its links rewritten.
    fn tag(&self, tag: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(tag.len() + self.prefix.len());
        let mut at = 1 + name_of(tag).len();
        out.extend_from_slice(&tag[..at]);
        while at < tag.len() {
            let start = at;
            while at < tag.len() && !is_name(tag[at]) {
                at += 1;
            }
            let name = at;
            while at < tag.len() && is_name(tag[at]) {
                at += 1;
            }
            let attribute = String::from_utf8_lossy(&tag[name..at]).to_ascii_lowercase();
            let value = value_of(tag, at);
            let begin = value.start;
            out.extend_from_slice(&tag[start..begin]);
            at = value.end;
            let value = &tag[value];
            let mine = from_root(value).filter(|path| !path.starts_with(self.prefix.as_bytes()));
            if mine.is_some() && URLS.contains(&attribute.as_str()) {
                out.extend_from_slice(self.prefix.as_bytes());
            }
            out.extend_from_slice(value);
            if at == start {
                out.push(tag[at]);
                at += 1;
            }
        }
        out
    }
}

fn is_name(byte: u8) -> bool {
    !byte.is_ascii_whitespace() && !matches!(byte, b'"' | b'\'' | b'>' | b'/' | b'=')
}

/// The tag's name in small letters.
fn name_of(tag: &[u8]) -> String {
    let name = tag[1..].iter().take_while(|byte| is_name(**byte));
    name.map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

/// Where the value of the attribute that ends at `at` is, without its quotes.
fn value_of(tag: &[u8], mut at: usize) -> std::ops::Range<usize> {
    let blank = |at: usize| tag.get(at).is_some_and(u8::is_ascii_whitespace);
    let end = at;
    while blank(at) {
        at += 1;
    }
    if tag.get(at) != Some(&b'=') {
        return end..end;
    }
    at += 1;
    while blank(at) {
        at += 1;
    }
    let quote = tag.get(at).copied().filter(|byte| matches!(byte, b'"' | b'\''));
    let start = if quote.is_some() { at + 1 } else { at };
    let ends = |byte: &u8| match quote {
        Some(quote) => *byte == quote,
        None => byte.is_ascii_whitespace() || *byte == b'>',
    };
    let rest = tag.get(start..).unwrap_or_default();
    start..start + rest.iter().position(ends).unwrap_or(rest.len())
}

/// Where the tag ends that `input` begins with; a `>` in quotes is none.
fn end_of_tag(input: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in input.iter().enumerate() {
        match quote {
            Some(open) if *byte == open => quote = None,
            Some(_) => {}
            None if matches!(byte, b'"' | b'\'') => quote = Some(*byte),
            None if *byte == b'>' => return Some(at + 1),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page rewritten, coming in pieces of `size`.
    fn page(text: &str, size: usize) -> String {
        let mut links = Links { prefix: "/p".into(), state: State::Text, pending: Vec::new() };
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            out.extend(links.feed(piece));
        }
        out.extend(links.pending);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_from_the_root_lead_through_the_proxy() {
        let cases = [
            (r#"<a href="/x">y</a>"#, r#"<a href="/p/x">y</a>"#),
            ("<A HREF = '/x' class=b>", "<A HREF = '/p/x' class=b>"),
            ("<img src=/x.png alt=/y>", "<img src=/p/x.png alt=/y>"),
            (
                r#"<form method="post" action="/go?a=b">"#,
                r#"<form method="post" action="/p/go?a=b">"#,
            ),
            ("<link href=/a/><br/>", "<link href=/p/a/><br/>"),
            (r#"<a href="/">"#, r#"<a href="/p/">"#),
            (r#"<a title="a > b" href="/x">"#, r#"<a title="a > b" href="/p/x">"#),
            (
                "<script src='/s'>if (a<b) '<a href=\"/x\">'</script><a href=/y>",
                "<script src='/p/s'>if (a<b) '<a href=\"/x\">'</script><a href=/p/y>",
            ),
        ];
        let kept = [
            r#"<a href="x"><a href="//other/x"><a href="http://other/x"><a href="/p/x">"#,
            "<!-- <a href=\"/x\"> -->",
            "1 < 2 && 3 > 2 <",
            "<a href",
            "<a =\"/x\" / \" >",
            "<!doctype html><!-",
        ];
        let kept = kept.iter().map(|text| (*text, *text));
        for (text, expected) in cases.into_iter().chain(kept) {
            for size in [1, 3, 1000] {
                assert_eq!(page(text, size), expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn redirects_stay_in_the_proxy() {
        let hosts = ["10.0.0.1:80", "api:6443"];
        let cases = [
            ("/x?y=1", Some("/p/x?y=1")),
            ("http://10.0.0.1:80/x", Some("/p/x")),
            ("https://api:6443/x?y", Some("/p/x?y")),
            ("http://10.0.0.1:80", Some("/p/")),
            ("/p/x", None),
            ("x/y", None),
            ("//other/x", None),
            ("http://other/x", None),
        ];
        for (location, expected) in cases {
            assert_eq!(redirected(location, "/p", &hosts).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn only_plain_html_is_a_page() {
        let headers = |kind: &'static str, encoding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
            if let Some(encoding) = encoding {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            headers
        };
        for (kind, encoding, expected) in [
            ("text/html; charset=utf-8", None, true),
            ("Text/HTML", None, true),
            ("text/html", Some("gzip"), false),
            ("text/plain", None, false),
        ] {
            let mut headers = headers(kind, encoding);
            fit_headers(&mut headers, "/p", &[]);
            assert_eq!(is_page(&headers), expected, "{kind}");
            assert_eq!(headers.contains_key(header::CONTENT_LENGTH), !expected, "{kind}");
        }
    }
}
