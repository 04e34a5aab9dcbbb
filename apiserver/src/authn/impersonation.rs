//! Impersonation: `kubectl --as`. Whoever may impersonate a user, group, uid or
//! extra value may act as them; each value is authorized on its own.

use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::{
    authz::{Attributes, Authorizer},
    status::ApiError,
    user::UserInfo,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// One thing that has to be allowed.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    group: &'static str,
    resource: &'static str,
    subresource: String,
    namespace: String,
    name: String,
}

/// The user to act as: `user` itself unless the headers ask for another.
pub async fn impersonate(
    authorizer: &Authorizer,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, ApiError> {
    let Some((wanted, asked)) = plan(headers)? else { return Ok(user) };
    for asked in asked {
        let attributes = Attributes {
            user: &user,
            verb: "impersonate",
            group: asked.group,
            version: "v1",
            resource: asked.resource,
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            path: "",
            resource_request: true,
        };
        authorizer.require(&attributes).await?;
    }
    Ok(wanted)
}

/// Reads the headers: whom to become and what that takes. `None` without any.
fn plan(headers: &HeaderMap) -> Result<Option<(UserInfo, Vec<Asked>)>, ApiError> {
    let text = |value: &http::HeaderValue| {
        value
            .to_str()
            .map(str::to_owned)
            .map_err(|_| ApiError::bad_request("impersonation headers must be text"))
    };
    let mut user = UserInfo::default();
    let mut asked = Vec::new();
    let mut ask = |group, resource, subresource: &str, namespace: &str, name: &str| {
        asked.push(Asked {
            group,
            resource,
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    };

    if let Some(name) = headers.get(USER) {
        user.name = text(name)?;
        match service_account(&user.name) {
            Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name),
            None => ask("", "users", "", "", &user.name),
        }
    }
    for group in headers.get_all(GROUP) {
        let group = text(group)?;
        ask("", "groups", "", "", &group);
        user.groups.push(group);
    }
    if let Some(uid) = headers.get(UID) {
        user.uid = text(uid)?;
        ask("authentication.k8s.io", "uids", "", "", &user.uid);
    }
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix(EXTRA) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
            let value = text(value)?;
            ask("authentication.k8s.io", "userextras", &key, "", &value);
            user.extra.entry(key).or_default().push(value);
        }
    }

    if asked.is_empty() {
        return Ok(None);
    }
    if user.name.is_empty() {
        return Err(ApiError::bad_request(
            "groups, uid and extra can only be impersonated together with a user",
        ));
    }
    if user.groups.is_empty()
        && let Some((namespace, _)) = service_account(&user.name)
    {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let everybody = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.in_group(everybody) {
        user.groups.push(everybody.to_owned());
    }
    Ok(Some((user, asked)))
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (key, value) in pairs {
            map.append(*key, http::HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn every_value_is_asked_for() {
        assert_eq!(plan(&headers(&[])).unwrap(), None);
        let all = headers(&[
            (USER, "jane"),
            (GROUP, "dev"),
            (GROUP, "ops"),
            (UID, "7"),
            ("impersonate-extra-scopes", "view"),
        ]);
        let (user, asked) = plan(&all).unwrap().unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["dev", "ops", AUTHENTICATED]);
        let resources: Vec<_> = asked.iter().map(|asked| asked.resource).collect();
        assert_eq!(resources, ["users", "groups", "groups", "uids", "userextras"]);
        assert_eq!(asked[4].subresource, "scopes");
    }

    #[test]
    fn accounts_bring_their_groups() {
        let (user, asked) =
            plan(&headers(&[(USER, "system:serviceaccount:a:b")])).unwrap().unwrap();
        assert_eq!(user.groups[1], "system:serviceaccounts:a");
        assert_eq!((asked[0].resource, asked[0].namespace.as_str()), ("serviceaccounts", "a"));
        let (user, _) = plan(&headers(&[(USER, ANONYMOUS)])).unwrap().unwrap();
        assert_eq!(user.groups, [UNAUTHENTICATED]);
    }

    #[test]
    fn a_group_without_a_user_is_refused() {
        assert!(plan(&headers(&[(GROUP, "system:masters")])).is_err());
    }
}
