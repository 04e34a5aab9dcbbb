//! Kinds that are answered and forgotten: reviews, bindings by name, and the
//! component statuses that nothing has any more.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::Value;

use super::view::{ListMeta, View};
use super::{Call, Registry, body, view};
use crate::authn::token_review;
use crate::negotiate::{Form, OFFERED};
use crate::status::ApiError;

impl Registry {
    /// A request on a kind that is not stored.
    pub(super) async fn review(&self, call: &Call, body: Body) -> Result<Response<Body>, ApiError> {
        match (call.info.resource.as_str(), call.info.verb) {
            // What is answered and forgotten has no columns; metadata that
            // nothing keeps is all the same shown when asked for.
            (_, "create") if matches!(call.output.form, Form::Table(_)) => {
                return Err(ApiError::not_acceptable(OFFERED));
            }
            ("bindings", "create") => return self.bind_named(call, body).await,
            (_, "create") => {}
            (_, "list") => {
                let meta = ListMeta { revision: self.store.revision().0, ..ListMeta::default() };
                return View::of(call).list(Vec::new(), &meta);
            }
            (_, "get") => return Err(call.not_found(&call.info.name)),
            _ => return Err(ApiError::method_not_allowed()),
        }
        let bytes = body::read(body).await?;
        let mut warnings = Vec::new();
        let review = self.decode_body(call, &bytes, &mut warnings)?;
        let answer: Value = match call.info.resource.as_str() {
            "tokenreviews" => self.authenticator.review_token(review),
            "selfsubjectreviews" => token_review::review_self(&call.user, review),
            "selfsubjectaccessreviews" => self.authorizer.review_self(&call.user, review).await?,
            "selfsubjectrulesreviews" => self.authorizer.review_rules(&call.user, review).await?,
            "subjectaccessreviews" => self.authorizer.review_subject(review).await?,
            "localsubjectaccessreviews" => {
                self.authorizer.review_local(&call.info.namespace, review).await?
            }
            _ => return Err(ApiError::method_not_allowed()),
        };
        view::value(call, StatusCode::CREATED, &answer)
    }
}
