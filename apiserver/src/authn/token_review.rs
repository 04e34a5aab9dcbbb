//! TokenReview and SelfSubjectReview: others ask whom we take somebody for.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Authenticator, authenticated};
use crate::user::UserInfo;

impl Authenticator {
    /// Fills in the status of a TokenReview. A bad token is an answer, not an
    /// error.
    pub fn review_token(&self, mut review: Value) -> Value {
        let asked: Vec<String> = review["spec"]["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect();
        let mut audiences: Vec<&str> = asked.iter().map(String::as_str).collect();
        if audiences.is_empty() {
            audiences.push(self.issuer());
        }
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        review["status"] = match self.token(token, &audiences, Timestamp::now()) {
            Some((user, meant)) => json!({
                "authenticated": true,
                "user": user_value(&authenticated(user)),
                "audiences": meant,
            }),
            None => json!({ "user": {}, "error": "the token is not valid for this audience" }),
        };
        review
    }
}

/// Fills in the status of a SelfSubjectReview.
pub fn review_self(user: &UserInfo, mut review: Value) -> Value {
    review["status"] = json!({ "userInfo": user_value(user) });
    review
}

/// A user as `authentication.k8s.io/v1` UserInfo.
pub fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({ "username": user.name, "groups": user.groups });
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}
