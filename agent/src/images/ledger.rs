//! The ledger of images that Skiff brought to this machine, so that Skiff
//! removes these and no others.
//!
//! One JSON file, `DATA/agent/images.json`: name of the image to the id it had
//! when it came. A name that stands for another image by now was brought anew
//! by somebody else, and is no longer ours.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One image of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Brought {
    /// Its id.
    pub id: String,
    /// When a container last asked for it.
    pub used: Timestamp,
}

/// What Skiff brought, by name.
#[derive(Debug, Default)]
pub struct Ledger {
    file: Option<PathBuf>,
    images: Mutex<BTreeMap<String, Brought>>,
}

impl Ledger {
    /// The ledger of an agent with this data directory. One that cannot be read
    /// is begun anew: then some images are taken for somebody else's and stay.
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

    /// Notes that Skiff brought the image.
    pub fn brought(&self, name: &str, id: &str, now: Timestamp) {
        self.change(|images| {
            images.insert(name.to_owned(), Brought { id: id.to_owned(), used: now });
        });
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
        self.change(|images| {
            images.remove(name);
        });
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, Brought> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<String, Brought>)) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut images);
        if let Some(file) = &self.file
            && let Err(error) = write(file, &images)
        {
            // Then the image stays for ever, which harms nobody.
            tracing::warn!(%error, file = %file.display(), "the ledger of images is not written");
        }
    }
}

fn write(file: &Path, images: &BTreeMap<String, Brought>) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let next = file.with_extension("json.next");
    std::fs::write(&next, serde_json::to_vec(images)?)?;
    std::fs::rename(next, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_outlives_the_agent_and_damage_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let at = Timestamp::from_second(10).unwrap();
        let ledger = Ledger::open(dir.path());
        ledger.brought("a:1", "sha256:a", at);
        ledger.brought("b:1", "sha256:b", at);
        ledger.gone("b:1");
        let again = Ledger::open(dir.path()).all();
        assert_eq!(
            again,
            BTreeMap::from([("a:1".into(), Brought { id: "sha256:a".into(), used: at })])
        );
        std::fs::write(dir.path().join("agent/images.json"), "{").unwrap();
        assert!(Ledger::open(dir.path()).all().is_empty());
    }
}
