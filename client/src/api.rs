//! The calls on the objects of one kind.

use std::marker::PhantomData;

use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, Request, request};
use kube::{Client, Error, Resource, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The objects of one kind, in one namespace or in all.
pub struct Api<K> {
    untyped: kube::Api<DynamicObject>,
    of: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { untyped: self.untyped.clone(), of: PhantomData }
    }
}

impl<K: Resource<DynamicType = ()>> Api<K> {
    /// The objects of all namespaces, or of a kind that has none.
    pub fn all(client: Client) -> Self {
        let untyped = kube::Api::all_with(client, &ApiResource::erase::<K>(&()));
        Self { untyped, of: PhantomData }
    }

    /// The objects of one namespace.
    pub fn namespaced(client: Client, namespace: &str) -> Self {
        let resource = ApiResource::erase::<K>(&());
        let untyped = kube::Api::namespaced_with(client, namespace, &resource);
        Self { untyped, of: PhantomData }
    }

    /// The objects of one namespace, or of a kind that has none if it is empty.
    pub fn within(client: Client, namespace: &str) -> Self {
        if namespace.is_empty() { Self::all(client) } else { Self::namespaced(client, namespace) }
    }
}

impl<K> Api<K> {
    /// The same objects as values.
    pub fn into_untyped(self) -> kube::Api<DynamicObject> {
        self.untyped
    }

    fn request(&self) -> Request {
        Request::new(self.untyped.resource_url())
    }

    async fn send(&self, request: Result<http::Request<Vec<u8>>, request::Error>) -> Result<Value> {
        send(self.untyped.clone().into_client(), request).await
    }

    /// Deletes an object, or asks that it ends.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        self.send(self.request().delete(name, params)).await.map(drop)
    }
}

impl<K: DeserializeOwned> Api<K> {
    /// The object of this name.
    pub async fn get(&self, name: &str) -> Result<K> {
        read(self.send(self.request().get(name, &GetParams::default())).await?)
    }

    /// The object of this name, if there is one.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects that `params` select.
    pub async fn list(&self, params: &ListParams) -> Result<Vec<K>> {
        let mut list = self.send(self.request().list(params)).await?;
        let items = list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
        items.into_iter().flatten().map(read).collect()
    }

    /// Makes an object.
    pub async fn create(&self, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        read(self.send(self.request().create(params, body(object)?)).await?)
    }

    /// Puts `object` in the place of what there is.
    pub async fn replace(&self, name: &str, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        read(self.send(self.request().replace(name, params, body(object)?)).await?)
    }

    /// Replaces the status alone.
    pub async fn replace_status(&self, name: &str, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.replace_subresource("status", name, params, object).await
    }

    /// Replaces what the subresource is about.
    pub async fn replace_subresource(
        &self,
        subresource: &str,
        name: &str,
        params: &PostParams,
        object: &K,
    ) -> Result<K>
    where
        K: Serialize,
    {
        let object = body(object)?;
        read(
            self.send(self.request().replace_subresource(subresource, name, params, object))
                .await?,
        )
    }

    /// Changes what the patch names.
    pub async fn patch(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<impl Serialize>,
    ) -> Result<K> {
        read(self.send(self.request().patch(name, params, patch)).await?)
    }

    /// Changes what the patch names in the status.
    pub async fn patch_status(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<impl Serialize>,
    ) -> Result<K> {
        read(self.send(self.request().patch_subresource("status", name, params, patch)).await?)
    }

    /// Posts to a subresource that answers with an object of its own kind.
    pub async fn create_subresource<T: DeserializeOwned>(
        &self,
        subresource: &str,
        name: &str,
        params: &PostParams,
        object: &impl Serialize,
    ) -> Result<T> {
        let object = body(object)?;
        let request = self.request().create_subresource(subresource, name, params, object);
        read(self.send(request).await?)
    }
}

/// Sends a request and reads the answer: one copy for all kinds.
async fn send(
    client: Client,
    request: Result<http::Request<Vec<u8>>, request::Error>,
) -> Result<Value> {
    client.request(request.map_err(Error::BuildRequest)?).await
}

fn read<T: DeserializeOwned>(mut value: Value) -> Result<T> {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    T::deserialize(value).map_err(Error::SerdeError)
}

fn body(object: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(object).map_err(Error::SerdeError)?;
    serde_json::to_vec(&value).map_err(Error::SerdeError)
}
