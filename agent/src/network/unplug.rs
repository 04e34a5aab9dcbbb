//! Cables are removed together.
//!
//! Deleting an interface makes the kernel wait until nobody reads its lists any
//! more, some 20 ms in which no other change to any interface can be made. For
//! the interfaces of a group (`ip link set … group N`) it waits once. So those
//! that have to go while others are being deleted go together, after them.

use std::sync::{Mutex, PoisonError};

use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

use super::NetworkError;
use super::netlink::{Link, delete_group, delete_link, failed, is_gone, link_named};

/// The group of cables that are about to be deleted: "skif". Groups are numbers
/// that people choose; small ones, if any.
const GROUP: u32 = 0x736b_6966;

/// The cables of one network namespace that have to go.
#[derive(Debug, Default)]
pub(super) struct Unplugging {
    waiting: Mutex<Vec<Link>>,
    turn: tokio::sync::Mutex<()>,
}

impl Unplugging {
    /// Deletes the cable `link`; one that is gone already is fine.
    pub(super) async fn delete(&self, node: &Handle, link: Link) -> Result<(), NetworkError> {
        let name = link.name.clone();
        self.waiting().push(link);
        let _turn = self.turn.lock().await;
        let batch = std::mem::take(&mut *self.waiting());
        match &batch[..] {
            [] => {}
            [link] => delete_link(node, link).await?,
            _ => delete_together(node, &batch).await?,
        }
        if batch.iter().any(|link| link.name == name) {
            return Ok(());
        }
        // It was in another's batch. Should that have failed, its own try tells why.
        match link_named(node, &name).await? {
            Some(left) => delete_link(node, &left).await,
            None => Ok(()),
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn delete_together(node: &Handle, links: &[Link]) -> Result<(), NetworkError> {
    for link in links {
        let marked =
            LinkMessageBuilder::<LinkUnspec>::new().index(link.index).link_group(GROUP).build();
        match node.link().set(marked).execute().await {
            // Its sandbox ended, and took it along.
            Err(error) if is_gone(&error) => {}
            other => other.map_err(failed(&format!("mark interface {}", link.name)))?,
        }
    }
    delete_group(node, GROUP).await
}
