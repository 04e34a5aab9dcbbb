//! Who is who in an image: its `/etc/passwd` and `/etc/group`.
//!
//! Docker reads them for a container whose user comes without a group: the
//! user's own group is that of `/etc/passwd`, and all groups of `/etc/group` that
//! name the user come with it. With a group it reads neither. Kubernetes asks for
//! more: further groups from the image also beside a `runAsGroup`, or none of
//! them without one (`supplementalGroupsPolicy`). Then the agent has to read the
//! files itself, once for each image, out of a container that is never started.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tracing::warn;

use crate::config::Config;
use crate::runtime::{ContainerSpec, Image, Runtime, RuntimeError, labels};

/// Images remembered. Beyond that all are forgotten and read again.
const REMEMBERED: usize = 256;

/// Users and groups of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Name, id and own group of each user, in the order of the file.
    users: Vec<(String, i64, i64)>,
    /// Id and members of each group.
    groups: Vec<(i64, Vec<String>)>,
}

impl Accounts {
    /// Reads the two files. Lines that make no sense are passed over.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let user = |line: &str| {
            let fields: Vec<&str> = line.trim().split(':').collect();
            let (name, uid, gid) = (fields.first()?, fields.get(2)?, fields.get(3)?);
            Some(((*name).to_owned(), uid.parse().ok()?, gid.parse().ok()?))
        };
        let group_of = |line: &str| {
            let fields: Vec<&str> = line.trim().split(':').collect();
            let members = fields.get(3)?.split(',').map(|name| name.trim().to_owned());
            Some((fields.get(2)?.parse().ok()?, members.collect()))
        };
        Self {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    /// The group of a user, given by name or id: 0 for an id that is not there,
    /// `None` for a name that is not.
    pub fn own_group(&self, user: &str) -> Option<i64> {
        match self.find(user) {
            Some((_, _, gid)) => Some(*gid),
            None => user.parse::<i64>().ok().map(|_| 0),
        }
    }

    /// The groups that name the user as a member.
    pub fn further_groups(&self, user: &str) -> Vec<i64> {
        let Some((name, _, _)) = self.find(user) else { return Vec::new() };
        let is_in = |(_, members): &&(i64, Vec<String>)| members.contains(name);
        self.groups.iter().filter(is_in).map(|(gid, _)| *gid).collect()
    }

    fn find(&self, user: &str) -> Option<&(String, i64, i64)> {
        let id = user.parse::<i64>().ok();
        self.users.iter().find(|(name, uid, _)| name == user || Some(*uid) == id)
    }
}

/// The accounts of the images that containers were made from.
#[derive(Default)]
pub struct ImageAccounts {
    known: Mutex<BTreeMap<String, Arc<OnceCell<Arc<Accounts>>>>>,
}

impl ImageAccounts {
    /// The accounts of an image, read when nobody has yet.
    pub async fn of(
        &self,
        image: &Image,
        runtime: &dyn Runtime,
        config: &Config,
    ) -> Result<Arc<Accounts>, RuntimeError> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED && !known.contains_key(&image.id) {
                known.clear();
            }
            known.entry(image.id.clone()).or_default().clone()
        };
        cell.get_or_try_init(|| async { read(image, runtime, config).await.map(Arc::new) })
            .await
            .cloned()
    }
}

async fn read(
    image: &Image,
    runtime: &dyn Runtime,
    config: &Config,
) -> Result<Accounts, RuntimeError> {
    let mut labels = labels::of_node(&config.instance, &config.node_name);
    // No part of any pod, and nothing to be measured.
    labels.insert(labels::CONTAINER.into(), labels::SANDBOX.into());
    let digest = image.id.trim_start_matches("sha256:");
    let spec = ContainerSpec {
        name: format!("skiff_{}_accounts_{}_{digest}", config.instance, config.node_name),
        labels,
        image: image.id.clone(),
        entrypoint: vec!["/".into()],
        network: "none".into(),
        ..ContainerSpec::default()
    };
    // One that an agent left behind when it was killed.
    runtime.remove(&spec.name).await?;
    let id = runtime.create(&spec).await?;
    let files =
        tokio::try_join!(runtime.file(&id, "/etc/passwd"), runtime.file(&id, "/etc/group"),);
    if let Err(error) = runtime.remove(&id).await {
        warn!(%error, id, "container whose accounts were read not removed");
    }
    let (passwd, group) = files?;
    let text = |bytes: Option<Vec<u8>>| bytes.unwrap_or_default();
    Ok(Accounts::parse(
        &String::from_utf8_lossy(&text(passwd)),
        &String::from_utf8_lossy(&text(group)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::memory::Memory;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:\n# none\nbad:x:a:b\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root, app\nimage:x:50000:app\nnobody:x:65534\n";

    #[test]
    fn users_have_their_own_group_and_further_ones() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        let cases = [
            ("1000", Some(1001), vec![10, 50000]),
            ("app", Some(1001), vec![10, 50000]),
            ("0", Some(0), vec![10]),
            ("4711", Some(0), vec![]),
            ("nobody", None, vec![]),
        ];
        for (user, own, further) in cases {
            assert_eq!(accounts.own_group(user), own, "{user}");
            assert_eq!(accounts.further_groups(user), further, "{user}");
        }
        assert_eq!(Accounts::default().own_group("1000"), Some(0));
    }

    #[tokio::test]
    async fn an_image_is_read_once_and_nothing_is_left_of_it() {
        let memory = Memory::new();
        memory.add_image("img:1");
        memory.set_file("img:1", "/etc/passwd", PASSWD);
        let image = memory.image("img:1").await.unwrap().unwrap();
        let config = Config::new("n1", "/data");
        let all = ImageAccounts::default();
        let (one, other) =
            tokio::join!(all.of(&image, &memory, &config), all.of(&image, &memory, &config));
        assert_eq!(one.unwrap(), other.unwrap());
        assert_eq!(all.of(&image, &memory, &config).await.unwrap().own_group("app"), Some(1001));
        let created = memory.calls().iter().filter(|call| call.starts_with("create ")).count();
        assert_eq!(created, 1);
        assert!(memory.list(&BTreeMap::new()).await.unwrap().is_empty());
    }
}
