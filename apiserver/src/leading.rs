//! What the API server of the leading master does by itself, and that of no
//! other: two that do the same get in each other's way.

use kube::Client;
use skiff_store::Leadership;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Works whenever this master leads, until cancelled or done. The work of a
/// term is dropped when the term is over; what its client still has under way
/// must be refused from then on.
pub(crate) async fn while_leading<W: Future<Output = ()>>(
    client_of: impl Fn(u64) -> Client,
    work: impl Fn(Client) -> W,
    mut leadership: watch::Receiver<Leadership>,
    cancel: CancellationToken,
) {
    let lead = async {
        // An error is the store's end.
        while let Ok(now) = leadership.wait_for(|now| now.is_leader).await.map(|now| *now) {
            let term = now.term;
            tokio::select! {
                () = work(client_of(term)) => return,
                _ = leadership.wait_for(|now| !now.is_leader || now.term != term) => {}
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = lead => {}
    }
}

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use tokio::sync::mpsc;

    use super::*;

    /// Says so when it is dropped.
    struct OnDrop(u64, mpsc::UnboundedSender<(u64, &'static str)>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.1.send((self.0, "left"));
        }
    }

    #[tokio::test]
    async fn only_the_leader_works_and_only_for_its_term() {
        let (seen_tx, mut seen_rx) = mpsc::unbounded_channel();
        // An API server that never answers and notes who asks and who gives up.
        let client_of = move |term| {
            let seen_tx = seen_tx.clone();
            let service = tower::service_fn(move |_: http::Request<Body>| {
                let _ = seen_tx.send((term, "asked"));
                let waiting = OnDrop(term, seen_tx.clone());
                async move {
                    let _waiting = waiting;
                    std::future::pending::<Result<http::Response<Body>, std::io::Error>>().await
                }
            });
            Client::new(service, "default")
        };
        let work = |client: Client| async move {
            let _ = client.apiserver_version().await;
        };
        let now = |term, is_leader| Leadership { term, leader: Some(1), is_leader };
        let (leadership_tx, leadership_rx) = watch::channel(now(1, false));
        let cancel = CancellationToken::new();
        let working = tokio::spawn(while_leading(client_of, work, leadership_rx, cancel.clone()));
        // Were it to work as a follower, term 1 would be seen before term 2.
        tokio::task::yield_now().await;
        leadership_tx.send_replace(now(2, true));
        assert_eq!(seen_rx.recv().await, Some((2, "asked")));
        leadership_tx.send_replace(now(3, false));
        assert_eq!(seen_rx.recv().await, Some((2, "left")));
        leadership_tx.send_replace(now(4, true));
        assert_eq!(seen_rx.recv().await, Some((4, "asked")));
        // Lost and won again before anybody looked.
        leadership_tx.send_replace(now(6, true));
        assert_eq!(seen_rx.recv().await, Some((4, "left")));
        assert_eq!(seen_rx.recv().await, Some((6, "asked")));
        cancel.cancel();
        working.await.unwrap();
        assert_eq!(seen_rx.recv().await, Some((6, "left")));
    }
}
