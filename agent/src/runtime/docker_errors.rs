//! Docker's errors in our words. Pure.

use bollard::errors::Error;

use super::{Result, RuntimeError};

/// Sorts Docker's errors by what a caller does about them.
pub(super) fn from_docker(error: Error) -> RuntimeError {
    match error {
        // `stop` and `start` answer 304 when there is nothing to do; bollard
        // treats it as success.
        Error::DockerResponseServerError { status_code: 404, message } => {
            RuntimeError::NotFound(message)
        }
        Error::DockerResponseServerError { status_code: 409, message } => {
            RuntimeError::Conflict(message)
        }
        Error::DockerResponseServerError { message, .. } => RuntimeError::Refused(message),
        Error::DockerStreamError { error } => RuntimeError::Refused(error),
        Error::DockerContainerWaitError { error, .. } => RuntimeError::Refused(error),
        Error::SocketNotFoundError(path) => {
            RuntimeError::Unavailable(format!("{path} does not exist"))
        }
        Error::RequestTimeoutError => RuntimeError::Unavailable("no answer in time".into()),
        other => RuntimeError::Unavailable(root_cause(&other)),
    }
}

/// A container that is not there is stopped, killed and removed already.
pub(super) fn gone_is_fine(result: std::result::Result<(), Error>) -> Result<()> {
    match result.map_err(from_docker) {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    }
}

/// What an error comes from in the end: the layers above only say that there is
/// one.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
