//! Lists and changes of one kind, as events.

use futures::future::ready;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, DefaultBackoff, Event, Result, watcher};
use serde::de::DeserializeOwned;
use tracing::error;

use crate::Api;
use crate::object::Object;

type Untyped = kube::Api<Object>;

/// Lists the objects and follows their changes for ever. A watch that breaks
/// yields its error and, after a delay, starts again.
///
/// The API server has checked every object, so one that is not of its type is
/// a mistake of ours: it is reported and left out.
pub fn watch<K>(api: Api<K>, config: Config) -> BoxStream<'static, Result<Event<K>>>
where
    K: DeserializeOwned + Send + 'static,
{
    watch_with(api, config, DefaultBackoff::default())
}

/// [`watch()`] with delays of one's own.
pub fn watch_with<K>(
    api: Api<K>,
    config: Config,
    backoff: impl Backoff + 'static,
) -> BoxStream<'static, Result<Event<K>>>
where
    K: DeserializeOwned + Send + 'static,
{
    events(api.of_kube(), config, Box::new(backoff))
        .try_filter_map(|event| ready(Ok(typed(event))))
        .boxed()
}

/// The machinery of a watch: one copy for all kinds.
fn events(
    api: Untyped,
    config: Config,
    backoff: Box<dyn Backoff>,
) -> BoxStream<'static, Result<Event<Object>>> {
    watcher(api, config).backoff(backoff).boxed()
}

/// The event with its object as its type; none when the object cannot be read.
fn typed<K: DeserializeOwned>(event: Event<Object>) -> Option<Event<K>> {
    Some(match event {
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

fn read<K: DeserializeOwned>(object: Object) -> Option<K> {
    let name = object.name();
    let read = K::deserialize(object.into_value());
    read.inspect_err(|error| error!(?name, %error, "an object is not of its type")).ok()
}
