//! Errors in words for people.

use std::error::Error;

/// An error with its causes, on one line. Of what the API server refused, the
/// server's own message is all that is said.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            text.push_str(&status.message);
            break;
        }
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot make a pod")]
    struct Failed(#[source] kube::Error);

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let status = Status::failure("pods \"a\" is forbidden: exceeded quota", "Forbidden");
        let refused = Failed(kube::Error::Api(Box::new(status)));
        assert_eq!(chain(&refused), "cannot make a pod: pods \"a\" is forbidden: exceeded quota");
        let broken = std::io::Error::other("no route");
        assert_eq!(chain(&broken), "no route");
    }
}
