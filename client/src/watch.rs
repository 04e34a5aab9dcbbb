//! Lists and changes of one kind, as events.

use futures::future::ready;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::Api as Untyped;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, DefaultBackoff, Event, Result, watcher};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::error;

use crate::Api;

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
    events(api.into_untyped(), config, Box::new(backoff))
        .try_filter_map(|event| ready(Ok(typed(event))))
        .boxed()
}

/// The machinery of a watch: one copy for all kinds.
fn events(
    api: Untyped<DynamicObject>,
    config: Config,
    backoff: Box<dyn Backoff>,
) -> BoxStream<'static, Result<Event<DynamicObject>>> {
    watcher(api, config).backoff(backoff).boxed()
}

/// The event with its object as its type; none when the object cannot be read.
fn typed<K: DeserializeOwned>(event: Event<DynamicObject>) -> Option<Event<K>> {
    Some(match event {
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

fn read<K: DeserializeOwned>(object: DynamicObject) -> Option<K> {
    let name = object.metadata.name.clone();
    let read = value_of(object).and_then(K::deserialize);
    read.inspect_err(|error| error!(?name, %error, "an object is not of its type")).ok()
}

fn value_of(mut object: DynamicObject) -> serde_json::Result<Value> {
    // Often half of what an object is made of.
    object.metadata.managed_fields = None;
    let mut value = object.data;
    value["metadata"] = serde_json::to_value(object.metadata)?;
    Ok(value)
}
