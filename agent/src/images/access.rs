//! Who may use an image that came with a secret.
//!
//! A registry that wants credentials has judged only those that it was shown.
//! The ledger keeps marks of the Secrets with which it gave an image, and a pod
//! that brings none of them has to ask the registry itself before it may use what
//! lies on the node ("Ensure image pull credential verification" in Kubernetes'
//! page on images, with its default, `NeverVerifyPreloadedImages`). What came
//! without credentials, or not by Skiff, is everybody's.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::runtime::Credentials;

/// The entry of a Secret that is for the registry of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// The UID of the Secret.
    pub uid: String,
    /// What it says.
    pub credentials: Credentials,
}

impl PullSecret {
    /// What is kept of it. The Secret counts as the same after its password has
    /// changed, and another Secret that says the same counts as well.
    fn marks(&self) -> [String; 2] {
        let Credentials { username, password, registry } = &self.credentials;
        let mut said = Sha256::new();
        for part in [registry, username, password] {
            said.update((part.len() as u64).to_le_bytes());
            said.update(part);
        }
        [self.uid.clone(), format!("sha256:{}", URL_SAFE_NO_PAD.encode(said.finalize()))]
    }
}

/// Who may use an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Every pod.
    #[default]
    Everybody,
    /// Pods that bring a Secret with one of these marks.
    Bearers(BTreeSet<String>),
}

impl Access {
    /// The access of pods that bring one of these.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a PullSecret>) -> Self {
        Self::Bearers(secrets.into_iter().flat_map(PullSecret::marks).collect())
    }

    /// The access that a registry gives by taking `secret`, or by asking for
    /// none.
    pub fn given_to(secret: Option<&PullSecret>) -> Self {
        secret.map_or(Self::Everybody, |secret| Self::of([secret]))
    }

    /// Whether those whom `pod` stands for may use what has this access.
    pub fn permits(&self, pod: &Self) -> bool {
        match (self, pod) {
            (Self::Everybody, _) => true,
            (Self::Bearers(_), Self::Everybody) => false,
            (Self::Bearers(wanted), Self::Bearers(brought)) => !wanted.is_disjoint(brought),
        }
    }

    /// Lets those of `other` in as well; whether that changes anything.
    pub fn extend(&mut self, other: Self) -> bool {
        match (&mut *self, other) {
            (Self::Everybody, _) => false,
            (Self::Bearers(_), Self::Everybody) => {
                *self = Self::Everybody;
                true
            }
            (Self::Bearers(mine), Self::Bearers(others)) => {
                let before = mine.len();
                mine.extend(others);
                mine.len() > before
            }
        }
    }
}

const EVERYBODY: &str = "everybody";

/// As nodes tell it to each other: `everybody`, or marks with commas in between.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str(EVERYBODY),
            Self::Bearers(marks) => {
                let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
                f.write_str(&marks.join(","))
            }
        }
    }
}

impl FromStr for Access {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text == EVERYBODY {
            return Ok(Self::Everybody);
        }
        let marks = text.split(',').map(str::trim).filter(|mark| !mark.is_empty());
        Ok(Self::Bearers(marks.map(str::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: &str, password: &str) -> PullSecret {
        let (username, registry) = ("u".into(), "reg.example".into());
        let credentials = Credentials { username, password: password.into(), registry };
        PullSecret { uid: uid.into(), credentials }
    }

    #[test]
    fn a_secret_counts_by_what_it_is_and_by_what_it_says() {
        let given = Access::given_to(Some(&secret("a", "old")));
        let cases = [
            ("the same", vec![secret("a", "old")], true),
            ("its password has changed", vec![secret("a", "new")], true),
            ("another that says the same", vec![secret("b", "old")], true),
            ("one of several", vec![secret("b", "x"), secret("c", "old")], true),
            ("another", vec![secret("b", "x")], false),
            ("none", vec![], false),
        ];
        for (name, secrets, expected) in cases {
            assert_eq!(given.permits(&Access::of(&secrets)), expected, "{name}");
            assert!(Access::given_to(None).permits(&Access::of(&secrets)), "{name}");
        }
        assert!(!given.to_string().contains("old"), "no password is kept");
    }

    #[test]
    fn access_grows_and_is_told_to_others() {
        let mut access = Access::given_to(Some(&secret("a", "1")));
        assert!(!access.extend(Access::given_to(Some(&secret("a", "1")))));
        assert!(access.extend(Access::given_to(Some(&secret("b", "2")))));
        for uid in ["a", "b"] {
            assert!(access.permits(&Access::of(&[secret(uid, "3")])), "{uid}");
        }
        assert_eq!(access.to_string().parse(), Ok(access.clone()));
        assert_eq!("".parse(), Ok(Access::of(&[])), "nobody stays nobody");
        assert!(access.extend(Access::Everybody));
        assert!(!access.extend(Access::of(&[secret("a", "1")])));
        assert_eq!(access.to_string().parse(), Ok(Access::Everybody));
    }
}
