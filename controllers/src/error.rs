//! What can go wrong in a pass. Every error is retried with back-off; the
//! variants differ in how loudly that is said.

pub(crate) use skiff_client::chain;

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or could not be reached.
    #[error("{what}")]
    Api {
        /// What was being done, such as `create pod shop/web-`.
        what: String,
        /// The refusal.
        source: kube::Error,
    },
    /// The object says something that cannot be acted on.
    #[error("{0}")]
    Invalid(String),
    /// Work is left that another pass has to finish.
    #[error("{0}")]
    Unfinished(String),
}

impl Error {
    /// Whether the failure is part of ordinary life and not worth a warning.
    pub(crate) fn is_expected(&self) -> bool {
        match self {
            Self::Api { source, .. } => is_conflict(source) || is_not_found(source),
            Self::Unfinished(_) => true,
            Self::Invalid(_) => false,
        }
    }
}

/// Adds to a client's result what was being done.
pub(crate) trait Doing<T> {
    /// Names the action, lazily: the text is only built for a failure.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Api { what: what(), source })
    }
}

/// The object, or `None` when it is gone.
pub(crate) fn ignore_not_found<T>(
    result: Result<T, kube::Error>,
) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(err) if is_not_found(&err) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The object is not there.
pub(crate) fn is_not_found(err: &kube::Error) -> bool {
    matches!(err, kube::Error::Api(status) if status.code == 404)
}

/// The object exists already.
pub(crate) fn is_already_exists(err: &kube::Error) -> bool {
    matches!(err, kube::Error::Api(status) if status.is_already_exists())
}

/// A precondition on uid or resourceVersion failed.
pub(crate) fn is_conflict(err: &kube::Error) -> bool {
    matches!(err, kube::Error::Api(status) if status.is_conflict())
}

/// The object's namespace is being deleted, so nothing new may enter it.
pub(crate) fn is_namespace_terminating(err: &kube::Error) -> bool {
    match err {
        kube::Error::Api(status) => {
            status.code == 403
                && (status.message.contains("being terminated")
                    || status
                        .details
                        .iter()
                        .flat_map(|details| &details.causes)
                        .any(|cause| cause.reason == "NamespaceTerminating"))
        }
        _ => false,
    }
}
