//! Content negotiation: in which shape and encoding a client wants the answer.

use http::{HeaderMap, header};

use crate::status::ApiError;

/// What a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// The shape.
    pub form: Form,
    /// The encoding.
    pub encoding: Encoding,
}

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The object or list itself.
    Object,
    /// `kubectl get`'s columns, in this version of `meta.k8s.io`.
    Table(&'static str),
    /// Metadata alone, in this version of `meta.k8s.io`.
    Partial(&'static str),
    /// Discovery of all groups at once, in this version of
    /// `apidiscovery.k8s.io`.
    Discovery(&'static str),
}

/// The encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

/// Media types that answers come in.
pub const OFFERED: &[&str] = &["application/json", "application/yaml"];

impl Output {
    /// Plain JSON.
    pub const JSON: Self = Self { form: Form::Object, encoding: Encoding::Json };

    /// Reads the `Accept` header: the first entry that can be served wins, as
    /// upstream orders them. Without the header the answer is JSON.
    pub fn negotiate(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Self::JSON) };
        let accept = accept.to_str().unwrap_or_default();
        if accept.trim().is_empty() {
            return Ok(Self::JSON);
        }
        accept.split(',').find_map(entry).ok_or_else(|| ApiError::not_acceptable(OFFERED))
    }
}

fn entry(text: &str) -> Option<Output> {
    let mut parts = text.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "application/*" | "*/*" => Encoding::Json,
        "application/yaml" | "application/x-yaml" | "text/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut r#as, mut group, mut version) = ("", "", "");
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", value)) => r#as = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            // A weight of nothing means "not this".
            Some(("q", "0" | "0.0" | "0.00" | "0.000")) => return None,
            _ => {}
        }
    }
    let meta = match version {
        "v1" => Some("v1"),
        "v1beta1" => Some("v1beta1"),
        _ => None,
    };
    let form = match (r#as, group) {
        ("", _) => Form::Object,
        ("Table", "meta.k8s.io") => Form::Table(meta?),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io") => {
            Form::Partial(meta?)
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io") => Form::Discovery(match version {
            "v2" => "v2",
            "v2beta1" => "v2beta1",
            _ => return None,
        }),
        _ => return None,
    };
    Some(Output { form, encoding })
}

/// Whether the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|coding| {
                let mut parts = coding.split(';').map(str::trim);
                parts.next() == Some("gzip") && !parts.any(|p| p == "q=0" || p == "q=0.0")
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Option<Output> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        Output::negotiate(&headers).ok()
    }

    #[test]
    fn the_first_servable_entry_wins() {
        let json = |form| Some(Output { form, encoding: Encoding::Json });
        #[rustfmt::skip]
        let cases = [
            ("application/json", json(Form::Object)),
            ("*/*", json(Form::Object)),
            ("", json(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", json(Form::Table("v1"))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io", json(Form::Table("v1beta1"))),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", json(Form::Partial("v1"))),
            ("application/vnd.kubernetes.protobuf, application/json", json(Form::Object)),
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", json(Form::Discovery("v2"))),
            ("application/yaml", Some(Output { form: Form::Object, encoding: Encoding::Yaml })),
            ("application/json;stream=watch", json(Form::Object)),
            ("application/json;q=0", None),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ];
        for (text, expected) in cases {
            assert_eq!(accept(text), expected, "{text}");
        }
        assert_eq!(Output::negotiate(&HeaderMap::new()), Ok(Output::JSON));
    }

    #[test]
    fn gzip_is_offered_only_when_asked() {
        for (text, expected) in
            [("gzip", true), ("deflate, gzip;q=0.5", true), ("gzip;q=0", false), ("br", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, text.parse().unwrap());
            assert_eq!(accepts_gzip(&headers), expected, "{text}");
        }
    }
}
