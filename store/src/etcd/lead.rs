//! Which of the masters on one etcd leads: one key, kept by a lease.
//!
//! Who finds the key absent makes it under a lease of a few seconds; who made
//! it leads, in the term of the revision that made it, and renews the lease.
//! Everybody else sleeps until the key is gone. A leader that could not renew
//! stops leading *before* its lease is over, counted from when it asked, so two
//! never lead at once; one that closes takes the key away at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::{Client, revision};
use super::grpc::CallError;
use super::proto::{
    CREATED, Compare, EQUAL, KeyValue, LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest, Nothing, Op,
    Operand, PutRequest, TxnRequest,
};
use crate::types::Leadership;
use crate::view::Shared;

/// How long a leader that vanished keeps others from leading.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(3);

/// When a lease is renewed, and when its holder gives up.
const RENEW_AFTER: Duration = Duration::from_secs(1);
const GIVE_UP_AFTER: Duration = Duration::from_millis(2500);

/// How long to wait before etcd is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Who made the leader's key, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    member: u64,
    term: u64,
}

impl Leader {
    /// Reads the leader's key.
    pub(super) fn of(kv: &KeyValue) -> Option<Self> {
        let member = std::str::from_utf8(&kv.value).ok()?.parse().ok()?;
        Some(Self { member, term: kv.create_revision as u64 })
    }
}

/// What the mirror sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) connected: bool,
    pub(super) leader: Option<Leader>,
}

/// Leads when nobody else does.
pub(super) struct Candidate {
    client: Client,
    shared: Arc<Shared>,
    seen_rx: watch::Receiver<Seen>,
    resign_rx: watch::Receiver<bool>,
    /// Drawn at each start: a master that was restarted is another one.
    member: u64,
}

impl Candidate {
    pub(super) fn new(
        client: Client,
        shared: Arc<Shared>,
        seen_rx: watch::Receiver<Seen>,
        resign_rx: watch::Receiver<bool>,
    ) -> Self {
        let member = rand::random();
        shared.counters.member.store(member, std::sync::atomic::Ordering::Relaxed);
        Self { client, shared, seen_rx, resign_rx, member }
    }

    /// Runs until asked to resign.
    pub(super) async fn run(mut self) {
        loop {
            let seen = *self.seen_rx.borrow_and_update();
            self.announce(seen, false);
            if *self.resign_rx.borrow() {
                return;
            }
            if seen.connected && seen.leader.is_none() {
                if let Err(error) = self.lead().await {
                    tracing::warn!(%error, "cannot ask etcd for leadership, will try again");
                    sleep(RETRY).await;
                }
                continue;
            }
            tokio::select! {
                _ = self.resign_rx.changed() => {}
                changed = self.seen_rx.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Tries to become the leader, and is it for as long as it lasts.
    async fn lead(&mut self) -> Result<(), CallError> {
        let asked = Instant::now();
        let lease = self.in_time(self.grant()).await?;
        let result = self.campaign(lease, asked).await;
        self.announce(*self.seen_rx.borrow(), false);
        // Whoever waits for the key need not wait for the lease's end.
        let request = LeaseRequest { id: lease };
        let revoke = self.client.channel.call::<Nothing>(LEASE_REVOKE, &request);
        if let Err(error) = self.in_time(revoke).await {
            tracing::debug!(%error, "the lease ends by itself");
        }
        result
    }

    async fn campaign(&mut self, lease: i64, asked: Instant) -> Result<(), CallError> {
        let absent = Compare {
            result: EQUAL,
            target: CREATED,
            key: self.client.aside("leader"),
            operand: Some(Operand::Created(0)),
        };
        let put = PutRequest {
            key: self.client.aside("leader"),
            value: self.member.to_string().into_bytes(),
            lease,
            prev_kv: false,
        };
        let request = TxnRequest {
            compare: vec![absent],
            success: vec![Op::Put(put).into()],
            failure: Vec::new(),
        };
        let answer = self.in_time(self.client.txn(&request)).await?;
        let at = revision(answer.header)?;
        let me = Leader { member: self.member, term: at.0 };
        // Nobody leads before having seen everything that the last leader did.
        let until = if answer.succeeded { Some(me) } else { None };
        let mut seen_rx = self.seen_rx.clone();
        let seen = seen_rx.wait_for(|seen| match until {
            Some(me) => seen.leader == Some(me),
            None => seen.leader.is_some() || !seen.connected,
        });
        let seen = timeout(LEASE_TTL, seen).await.ok().and_then(Result::ok).map(|seen| *seen);
        match seen {
            Some(seen) if answer.succeeded => {
                self.announce(seen, true);
                self.hold(me, lease, asked + GIVE_UP_AFTER).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Renews the lease until it cannot be, or somebody else leads.
    async fn hold(&mut self, me: Leader, lease: i64, mut deadline: Instant) {
        let mut renew_at = deadline - GIVE_UP_AFTER + RENEW_AFTER;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(deadline) => {
                    tracing::warn!("cannot renew the lease of leadership, leading no more");
                    return;
                }
                _ = self.resign_rx.wait_for(|resign| *resign) => return,
                lost = self.seen_rx.wait_for(|seen| seen.leader != Some(me)) => {
                    drop(lost);
                    return;
                }
                () = sleep_until(renew_at) => {}
            }
            let asked = Instant::now();
            let request = LeaseRequest { id: lease };
            let renewal =
                (self.client.channel).call::<LeaseKeepAliveResponse>(LEASE_KEEP_ALIVE, &request);
            match tokio::time::timeout_at(deadline, renewal).await {
                Ok(Ok(answer)) if answer.ttl > 0 => {
                    deadline = asked + GIVE_UP_AFTER;
                    renew_at = asked + RENEW_AFTER;
                }
                Ok(Ok(_)) => return,
                Ok(Err(_)) => renew_at = Instant::now() + RETRY,
                Err(_) => {}
            }
        }
    }

    async fn grant(&self) -> Result<i64, CallError> {
        let request = LeaseGrantRequest { ttl: LEASE_TTL.as_secs() as i64 };
        Ok(self.client.channel.call::<LeaseGrantResponse>(LEASE_GRANT, &request).await?.id)
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        timeout(LEASE_TTL, call)
            .await
            .unwrap_or_else(|_| Err(CallError::Failed("no answer in time".into())))
    }

    fn announce(&self, seen: Seen, is_leader: bool) {
        let leader = seen.leader.filter(|_| seen.connected);
        let leadership = Leadership {
            term: seen.leader.map_or(0, |leader| leader.term),
            leader: leader.map(|leader| leader.member),
            is_leader,
        };
        self.shared
            .leadership_tx
            .send_if_modified(|known| std::mem::replace(known, leadership) != leadership);
    }
}
