//! The ledger of images that Skiff brought to this machine, so that Skiff
//! removes these and no others, and who may use them.
//!
//! One JSON file, `DATA/agent/images.json`, for root alone: name of the image to
//! the id it had when it came, and to marks of the secrets that it came with. A
//! name that stands for another image by now was brought anew by somebody else,
//! and is no longer ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::access::Access;
use crate::runtime::Image;

/// One image of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Brought {
    /// Its id.
    pub id: String,
    /// When a container last asked for it.
    pub used: Timestamp,
    /// Who may use it; everybody where an earlier Skiff did not say.
    #[serde(default)]
    pub access: Access,
}

/// What Skiff brought, by name.
#[derive(Debug, Default)]
pub struct Ledger {
    file: Option<PathBuf>,
    images: Mutex<BTreeMap<String, Brought>>,
}

impl Ledger {
    /// The ledger of an agent with this data directory. One that cannot be read
    /// is begun anew: then all images are taken for somebody else's, stay, and are
    /// everybody's.
    pub fn open(data_dir: &Path) -> Self {
        let file = data_dir.join("agent").join("images.json");
        let images = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, file = %file.display(), "the ledger of images is damaged, begun anew");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { file: Some(file), images: Mutex::new(images) }
    }

    /// Notes that Skiff brought the image, and for whom.
    pub fn brought(&self, name: &str, id: &str, access: Access, now: Timestamp) {
        self.change(|images| {
            images.insert(name.to_owned(), Brought { id: id.to_owned(), used: now, access });
            true
        });
    }

    /// Notes that these may use the image, too, if Skiff brought it.
    pub fn opened(&self, id: &str, access: &Access) {
        self.change(|images| {
            let mut changed = false;
            for image in images.values_mut().filter(|image| image.id == id) {
                changed |= image.access.extend(access.clone());
            }
            changed
        });
    }

    /// Who may use an image of this machine. One that somebody else has given a
    /// name is everybody's, whatever Skiff calls it.
    pub fn access(&self, image: &Image) -> Access {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours =
            |name: &String| images.get(name).is_some_and(|brought| brought.id == image.id);
        let ours = images.values().filter(|brought| brought.id == image.id);
        let access = ours.map(|brought| brought.access.clone()).reduce(|mut all, one| {
            all.extend(one);
            all
        });
        access.filter(|_| image.tags.iter().all(is_ours)).unwrap_or_default()
    }

    /// Notes that a container asked for the image. Kept in memory only: an
    /// older time after a restart lets nothing go that is in use.
    pub fn used(&self, name: &str, now: Timestamp) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images.get_mut(name) {
            image.used = now;
        }
    }

    /// Notes which images have containers now, in memory only as well.
    pub fn in_use(&self, ids: &BTreeSet<String>, now: Timestamp) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        for image in images.values_mut().filter(|image| ids.contains(&image.id)) {
            image.used = now;
        }
    }

    /// Strikes an image out.
    pub fn gone(&self, name: &str) {
        self.change(|images| images.remove(name).is_some());
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, Brought> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes what `edit` has changed, if it says that it has.
    fn change(&self, edit: impl FnOnce(&mut BTreeMap<String, Brought>) -> bool) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if edit(&mut images)
            && let Some(file) = &self.file
            && let Err(error) = write(file, &images)
        {
            tracing::warn!(%error, file = %file.display(), "the ledger of images is not written");
        }
    }
}

fn write(file: &Path, images: &BTreeMap<String, Brought>) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let next = file.with_extension("json.next");
    let mut options = OpenOptions::new();
    let mut written = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    written.write_all(&serde_json::to_vec(images)?)?;
    // A ledger that is lost in a power cut would open what is not everybody's.
    written.sync_all()?;
    std::fs::rename(next, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn bearers(mark: &str) -> Access {
        mark.parse().unwrap()
    }

    #[test]
    fn the_ledger_outlives_the_agent_and_damage_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let at = Timestamp::from_second(10).unwrap();
        let ledger = Ledger::open(dir.path());
        ledger.brought("a:1", "sha256:a", bearers("x"), at);
        ledger.brought("b:1", "sha256:b", Access::Everybody, at);
        ledger.gone("b:1");
        let again = Ledger::open(dir.path()).all();
        let brought = Brought { id: "sha256:a".into(), used: at, access: bearers("x") };
        assert_eq!(again, BTreeMap::from([("a:1".into(), brought)]));
        let file = dir.path().join("agent/images.json");
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        let old = r#"{"a:1": {"id": "sha256:a", "used": "2026-01-01T00:00:00Z"}}"#;
        std::fs::write(&file, old).unwrap();
        assert_eq!(Ledger::open(dir.path()).all()["a:1"].access, Access::Everybody);
        std::fs::write(&file, "{").unwrap();
        assert!(Ledger::open(dir.path()).all().is_empty());
    }

    #[test]
    fn who_may_use_an_image_goes_by_what_it_is_and_not_by_its_name() {
        let at = Timestamp::from_second(10).unwrap();
        let ledger = Ledger::default();
        ledger.brought("a:1", "sha256:a", bearers("x"), at);
        ledger.brought("b:1", "sha256:a", bearers("y"), at);
        ledger.brought("c:1", "sha256:c", Access::Everybody, at);
        let image = |id: &str, tags: &[&str]| Image {
            id: id.into(),
            tags: tags.iter().map(|&tag| tag.into()).collect(),
            ..Image::default()
        };
        let both: Access = "x,y".parse().unwrap();
        let cases = [
            ("by both names", image("sha256:a", &["a:1", "b:1"]), &both),
            ("by none, as with a digest", image("sha256:a", &[]), &both),
            (
                "somebody else calls it so",
                image("sha256:a", &["a:1", "mine:1"]),
                &Access::Everybody,
            ),
            ("the name is another's now", image("sha256:a", &["c:1"]), &Access::Everybody),
            ("it came without a secret", image("sha256:c", &["c:1"]), &Access::Everybody),
            ("it is not ours", image("sha256:z", &["a:1"]), &Access::Everybody),
        ];
        for (name, image, expected) in cases {
            assert_eq!(ledger.access(&image), *expected, "{name}");
        }
        ledger.opened("sha256:a", &bearers("z"));
        ledger.opened("sha256:z", &bearers("z"));
        assert_eq!(ledger.access(&image("sha256:a", &["a:1"])), "x,y,z".parse().unwrap());
        assert_eq!(ledger.all().len(), 3);
    }
}
