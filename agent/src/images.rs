//! Images: pulls that happen once.
//!
//! A local image is used without asking any registry unless the policy is
//! `Always`. Pods that want the same image share one look-up and one pull.
//! What no registry gives comes from another node ([`peers`]); what came is
//! noted ([`ledger`]), is for those whom its registry gave it ([`access`]), and
//! goes when the disk is full ([`collect`]).

pub mod access;
pub mod collect;
mod credentials;
pub mod ledger;
mod name;
pub mod peers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;

use access::{Access, PullSecret};
use collect::Marks;
use ledger::Ledger;
use peers::{Alone, Peers};

pub use credentials::pull_secrets;
pub use name::{normalized, reference};

use crate::runtime::{Image, Progress, Runtime, RuntimeError, Tar};

/// How long a look-up is believed. Short, because an image may be built anew
/// under the same name at any time; long enough for pods that start together.
const LOOK_UP_LIFE: Duration = Duration::from_secs(1);
/// How long another node may be silent while it sends an image. Docker writes
/// all of an image to its disk before the first byte is sent.
const SILENCE: Duration = Duration::from_secs(300);

/// Why there is no image for a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The name is not one.
    #[error(
        "Failed to apply default image tag \"{0}\": couldn't parse image name \"{0}\": invalid reference format"
    )]
    InvalidName(String),
    /// It is not here, and the policy forbids to pull it.
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    Never(String),
    /// It is here, but for others, and the policy forbids to ask the registry.
    #[error(
        "Container image \"{0}\" is present with pull policy of Never, but came with an image pull secret that this pod does not bring"
    )]
    Withheld(String),
    /// The registry or the runtime refused.
    #[error("{message}")]
    Pull {
        /// In the runtime's words.
        message: String,
    },
}

impl ImageError {
    /// The reason that the container's status shows.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "InvalidImageName",
            Self::Never(_) | Self::Withheld(_) => "ErrImageNeverPull",
            Self::Pull { .. } => "ErrImagePull",
        }
    }
}

/// Finds and pulls images.
#[derive(Clone)]
pub struct Images {
    runtime: Arc<dyn Runtime>,
    slots: Arc<Mutex<HashMap<String, Arc<Slot>>>>,
    peers: Arc<dyn Peers>,
    ledger: Arc<Ledger>,
    marks: Marks,
    /// Wakes whoever keeps room on the disk.
    came: Arc<Notify>,
}

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The node that gave it; `None` when its registry did.
    pub node: Option<String>,
}

/// One image name. The lock is held during a look-up or pull, so others wait
/// for the result instead of asking again.
type Slot = AsyncMutex<Option<Known>>;

/// What the last look-up or pull of an image gave.
struct Known {
    image: Image,
    at: Instant,
    pull: Option<Pull>,
}

/// How an image was pulled.
struct Pull {
    /// Whoever brings the same shares the result; others have to ask themselves
    /// whether they may have it.
    secrets: Vec<PullSecret>,
    node: Option<String>,
}

/// What a container's image policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Pull it in any case.
    Always,
    /// Pull it when it is not here.
    IfNotPresent,
    /// Never pull it.
    Never,
}

impl Policy {
    /// The container's policy.
    pub fn of(container: &Container) -> Self {
        let image = container.image.as_deref().unwrap_or_default();
        Self::new(container.image_pull_policy.as_deref(), image)
    }

    /// A policy of this name; without one, an image `latest` is always pulled.
    pub fn new(name: Option<&str>, image: &str) -> Self {
        match name {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None => match normalized(image) {
                Some(name) if name.ends_with(":latest") => Self::Always,
                _ => Self::IfNotPresent,
            },
        }
    }
}

impl Images {
    /// Images of one runtime.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            slots: Arc::default(),
            peers: Arc::new(Alone),
            ledger: Arc::default(),
            marks: Marks::default(),
            came: Arc::default(),
        }
    }

    /// The same, with other marks of how full the disk may become.
    pub fn within(self, marks: Marks) -> Self {
        Self { marks, ..self }
    }

    /// The same, with other nodes to ask and a ledger of what came.
    pub fn with(self, peers: Arc<dyn Peers>, ledger: Ledger) -> Self {
        Self { peers, ledger: Arc::new(ledger), ..self }
    }

    /// The image if it is here.
    pub async fn local(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        self.ledger.used(name, Timestamp::now());
        let slot = self.slot(name);
        let mut slot = slot.lock().await;
        if let Some(known) = slot.as_ref()
            && known.at.elapsed() < LOOK_UP_LIFE
        {
            return Ok(Some(known.image.clone()));
        }
        let found = self.runtime.image(name).await?;
        *slot = found.clone().map(|image| Known { image, at: Instant::now(), pull: None });
        Ok(found)
    }

    /// Who may use an image that is here.
    pub fn access(&self, image: &Image) -> Access {
        self.ledger.access(image)
    }

    /// Pulls the image, trying one secret after the other, and then the other
    /// nodes of the cluster. `told` hears how much has come, unless
    /// somebody else pulls it already.
    pub async fn pull(
        &self,
        name: &str,
        secrets: &[PullSecret],
        told: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Pulled, ImageError> {
        let slot = self.slot(name);
        let waiting_since = Instant::now();
        let mut slot = slot.lock().await;
        // Someone else pulled it while we waited for the lock.
        if let Some(Known { image, at, pull: Some(pull) }) = slot.as_ref()
            && *at > waiting_since
            && pull.secrets == secrets
        {
            return Ok(Pulled { image: image.clone(), node: pull.node.clone() });
        }
        let pulled = self.pull_now(name, secrets, told).await?;
        let pull = Pull { secrets: secrets.to_vec(), node: pulled.node.clone() };
        let (image, at) = (pulled.image.clone(), Instant::now());
        *slot = Some(Known { image, at, pull: Some(pull) });
        Ok(pulled)
    }

    async fn pull_now(
        &self,
        name: &str,
        secrets: &[PullSecret],
        told: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Pulled, ImageError> {
        let mut attempts = secrets.iter().map(Some).collect::<Vec<_>>();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let before = self.runtime.image(name).await.ok().flatten().map(|image| image.id);
        let mut message = String::new();
        for attempt in attempts {
            let credentials = attempt.map(|secret| &secret.credentials);
            match self.runtime.pull(name, credentials, told).await {
                Ok(image) => {
                    self.note(name, &image, before.as_ref(), Access::given_to(attempt));
                    return Ok(Pulled { image, node: None });
                }
                Err(error) => message = error.to_string(),
            }
        }
        let mut why = vec![message];
        if let Some((pulled, access)) = self.fetch(name, &Access::of(secrets), &mut why).await {
            self.note(name, &pulled.image, before.as_ref(), access);
            return Ok(pulled);
        }
        Err(ImageError::Pull { message: why.join("; ") })
    }

    /// The image from another node, if one has it for `pod`, and who may use it;
    /// `why` hears what went wrong.
    /// Only a name with a tag: what a digest stands for is known to registries
    /// alone. A node that breaks off is followed by the next one.
    async fn fetch(
        &self,
        name: &str,
        pod: &Access,
        why: &mut Vec<String>,
    ) -> Option<(Pulled, Access)> {
        if name.contains('@') {
            return None;
        }
        let mut offers = self.peers.offers(name, pod).await;
        loop {
            let offer = match offers.next().await? {
                Ok(offer) => offer,
                Err(silent) => {
                    why.push(silent);
                    continue;
                }
            };
            let (tar, broken) = watched(offer.tar);
            let loaded = match self.runtime.load_stream(tar).await {
                Ok(_) => self.runtime.image(name).await,
                Err(error) => Err(error),
            };
            match (loaded, broken.get()) {
                (Ok(Some(image)), _) => {
                    return Some((Pulled { image, node: Some(offer.node) }, offer.access));
                }
                (_, Some(error)) => why.push(format!("from node {}: {error}", offer.node)),
                (Err(error), None) => {
                    // Ours is at fault, as with a full disk: no other node helps.
                    why.push(format!("from node {}: {error}", offer.node));
                    return None;
                }
                (Ok(None), None) => {
                    why.push(format!("node {} sent another image than {name}", offer.node));
                }
            }
        }
    }

    /// Notes an image that was not here before, or that more may use now.
    fn note(&self, name: &str, image: &Image, before: Option<&String>, access: Access) {
        if before == Some(&image.id) {
            self.ledger.opened(&image.id, &access);
        } else {
            self.ledger.brought(name, &image.id, access, Timestamp::now());
            self.came.notify_one();
        }
    }

    /// All images of this machine.
    pub async fn all(&self) -> Result<Vec<Image>, RuntimeError> {
        self.runtime.images().await
    }

    /// Loads a tar of `docker save` and tells which images were in it.
    pub async fn load(&self, tar: Tar) -> Result<Vec<String>, RuntimeError> {
        let before = self.runtime.images().await?;
        let names = self.runtime.load_stream(tar).await?;
        for name in &names {
            self.forget(name);
            let known = before.iter().find(|image| image.tags.contains(name));
            if let Some(image) = self.runtime.image(name).await? {
                self.note(name, &image, known.map(|image| &image.id), Access::Everybody);
            }
        }
        Ok(names)
    }

    /// The image if it is here, by the runtime's word of this moment.
    pub async fn now(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        self.runtime.image(name).await
    }

    /// An image as `docker save` writes it.
    pub async fn save(&self, name: &str) -> Result<Tar, RuntimeError> {
        self.runtime.save(name).await
    }

    /// Removes an image by name; refused while a container uses it.
    pub async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        self.runtime.remove_image(name).await?;
        self.ledger.gone(name);
        self.forget(name);
        Ok(())
    }

    /// Drops what was looked up.
    fn forget(&self, name: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Names that nobody uses any more are dropped now and then.
        if slots.len() > 256 {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        slots.entry(name.to_owned()).or_default().clone()
    }
}

/// An image on its way, and what broke it off: who loads it only says that it
/// came to no end. A node that is silent for too long has broken off, too.
fn watched(tar: Tar) -> (Tar, Arc<OnceLock<RuntimeError>>) {
    let broken = Arc::new(OnceLock::new());
    let seen = broken.clone();
    let pieces = tokio_stream::StreamExt::timeout(tar, SILENCE).map(move |piece| {
        let silent = |_| Err(RuntimeError::Refused("it went silent".into()));
        piece.unwrap_or_else(silent).inspect_err(|error| {
            // Only the first one counts.
            let _ = seen.set(error.clone());
        })
    });
    (Box::pin(pieces), broken)
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, BoxStream};
    use serde_json::json;

    use super::*;
    use crate::runtime::Credentials;
    use crate::runtime::memory::Memory;

    /// What other nodes do when they are asked for `a:1`, one after the other.
    struct Others(Vec<(&'static str, Does)>);

    #[derive(Clone, Copy)]
    enum Does {
        Refuse,
        BreakOff,
        GoSilent,
        SendAnother,
        Send,
    }

    #[async_trait::async_trait]
    impl Peers for Others {
        async fn offers(&self, _: &str, _: &Access) -> BoxStream<'_, Result<peers::Offer, String>> {
            let offers = self.0.iter().map(|(node, does)| {
                let begin = Ok(bytes::Bytes::from_static(b"\0"));
                let broken = Err(RuntimeError::Refused("cable cut".into()));
                let tar: Tar = match does {
                    Does::Refuse => return Err(format!("node {node} is not ready")),
                    Does::BreakOff => Box::pin(stream::iter([begin, broken])),
                    Does::GoSilent => Box::pin(stream::iter([begin]).chain(stream::pending())),
                    Does::SendAnother => archive("b:1"),
                    Does::Send => archive("a:1"),
                };
                let (node, access) = ((*node).to_owned(), Access::of(&[secret("theirs")]));
                Ok(peers::Offer { node, access, tar })
            });
            Box::pin(stream::iter(offers))
        }
    }

    fn secret(uid: &str) -> PullSecret {
        let (username, password, registry) = (uid.into(), "p".into(), "docker.io".into());
        PullSecret { uid: uid.into(), credentials: Credentials { username, password, registry } }
    }

    fn archive(name: &str) -> Tar {
        let manifest = json!([{"RepoTags": [name]}]).to_string();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(manifest.len() as u64);
        tar.append_data(&mut header, "manifest.json", manifest.as_bytes()).unwrap();
        Box::pin(stream::iter([Ok(tar.into_inner().unwrap().into())]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_breaks_off_is_followed_by_the_next() {
        let all = [("x", Does::Refuse), ("y", Does::BreakOff), ("z", Does::GoSilent)];
        let cases = [
            (vec![("n", Does::Send)], Ok("n")),
            ([&all[..], &[("n", Does::Send)]].concat(), Ok("n")),
            (vec![("s", Does::SendAnother), ("n", Does::Send)], Ok("n")),
            (
                [&all[..], &[("s", Does::SendAnother)]].concat(),
                Err("manifest for a:1 not found; node x is not ready; from node y: cable cut; \
                     from node z: it went silent; node s sent another image than a:1"),
            ),
            (vec![], Err("manifest for a:1 not found")),
        ];
        for (others, expected) in cases {
            let images = Images::new(Arc::new(Memory::new()));
            let images = images.with(Arc::new(Others(others)), Ledger::default());
            let pulled = images.pull("a:1", &[], &|_| {}).await;
            let told = pulled.map(|pulled| pulled.node.unwrap()).map_err(|why| why.to_string());
            assert_eq!(told, expected.map(str::to_owned).map_err(str::to_owned));
            let noted = images.ledger.all().remove("a:1").map(|brought| brought.access);
            assert_eq!(noted, expected.ok().map(|_| Access::of(&[secret("theirs")])));
        }
    }

    #[tokio::test]
    async fn a_pull_is_shared_by_those_with_the_same_secrets() {
        let cases = [
            ("none", vec![], vec![], 1),
            ("the same", vec![secret("a")], vec![secret("a")], 1),
            ("others", vec![secret("a")], vec![secret("b")], 2),
            ("none for one", vec![secret("a")], vec![], 2),
        ];
        for (name, one, other, expected) in cases {
            let memory = Arc::new(Memory::new());
            memory.add_remote_image("a:1");
            let images = Images::new(memory.clone());
            // Both wait for somebody who only looks.
            let slot = images.slot("a:1");
            let held = slot.lock().await;
            let told = |_| {};
            let both = async {
                tokio::join!(images.pull("a:1", &one, &told), images.pull("a:1", &other, &told))
            };
            let (both, ()) = tokio::join!(both, async { drop(held) });
            both.0.unwrap();
            both.1.unwrap();
            let pulls = memory.calls().iter().filter(|call| call.starts_with("pull ")).count();
            assert_eq!(pulls, expected, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pods_that_start_together_share_a_look_up() {
        let memory = Arc::new(Memory::new());
        memory.add_image("a:1");
        let images = Images::new(memory.clone());
        for _ in 0..5 {
            assert!(images.local("a:1").await.unwrap().is_some());
        }
        assert_eq!(memory.calls(), ["image a:1"]);
        tokio::time::advance(LOOK_UP_LIFE).await;
        assert!(images.local("a:1").await.unwrap().is_some());
        assert_eq!(memory.calls().len(), 2);
    }
}
