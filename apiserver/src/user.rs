//! Who makes a request.

use std::collections::BTreeMap;

/// The authenticated user behind a request, as Kubernetes' `user.Info`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct UserInfo {
    /// Name, such as `system:node:node-1`.
    pub name: String,
    /// Identity that outlives the name; empty when there is none.
    pub uid: String,
    /// Groups, such as `system:masters`.
    pub groups: Vec<String>,
    /// Further attributes that an authenticator attached.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with a name and groups and nothing else.
    pub fn new<'a>(name: &str, groups: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.into_iter().map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// The user of the API server itself: bootstrap and loopback work.
    pub fn loopback() -> Self {
        Self::new("system:apiserver", ["system:masters", "system:authenticated"])
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
