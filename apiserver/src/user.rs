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

/// The attribute of a user whose writes belong to one leader's term.
const TERM: &str = "skiff.io/term";

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

    /// The same user as part of a leader's work in `term`: what it writes is
    /// refused as soon as another master leads. Only ever takes a right away,
    /// so it does not matter who else says it of himself.
    pub fn in_term(mut self, term: u64) -> Self {
        self.extra.insert(TERM.to_owned(), vec![term.to_string()]);
        self
    }

    /// See [`UserInfo::in_term`].
    pub(crate) fn term(&self) -> Option<u64> {
        self.extra.get(TERM)?.first()?.parse().ok()
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
