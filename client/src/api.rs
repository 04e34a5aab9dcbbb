//! The calls on the objects of one kind.

use std::marker::PhantomData;

use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, DynamicResourceScope, ObjectMeta, Request, request};
use kube::{Client, Error, Resource, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The objects of one kind, in one namespace or in all.
pub struct Api<K> {
    client: Client,
    resource: ApiResource,
    namespace: Option<String>,
    of: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            resource: self.resource.clone(),
            namespace: self.namespace.clone(),
            of: PhantomData,
        }
    }
}

impl<K: Resource<DynamicType = ()>> Api<K> {
    /// The objects of all namespaces, or of a kind that has none.
    pub fn all(client: Client) -> Self {
        let resource = ApiResource::erase::<K>(&());
        Self { client, resource, namespace: None, of: PhantomData }
    }

    /// The objects of one namespace.
    pub fn namespaced(client: Client, namespace: &str) -> Self {
        let resource = ApiResource::erase::<K>(&());
        Self { client, resource, namespace: Some(namespace.to_owned()), of: PhantomData }
    }

    /// The objects of one namespace, or of a kind that has none if it is empty.
    pub fn within(client: Client, namespace: &str) -> Self {
        if namespace.is_empty() { Self::all(client) } else { Self::namespaced(client, namespace) }
    }
}

impl<K> Api<K> {
    /// The same objects as `kube` has them.
    pub fn into_untyped(self) -> kube::Api<DynamicObject> {
        self.of_kube()
    }

    /// `kube`'s own calls, with objects as `T`.
    pub(crate) fn of_kube<T>(self) -> kube::Api<T>
    where
        T: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => kube::Api::namespaced_with(self.client, namespace, &self.resource),
            None => kube::Api::all_with(self.client, &self.resource),
        }
    }

    fn request(&self) -> Request {
        Request::new(DynamicObject::url_path(&self.resource, self.namespace.as_deref()))
    }

    async fn send(&self, request: Result<http::Request<Vec<u8>>, request::Error>) -> Result<Value> {
        send(self.client.clone(), request).await
    }

    /// Changes what the patch names in the status, and gives of the object no more
    /// than its metadata: for whoever has the rest.
    pub async fn patch_status_for_metadata(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<impl Serialize>,
    ) -> Result<ObjectMeta> {
        let request = self.request().patch_subresource("status", name, params, patch);
        let mut written = self.send(request).await?;
        let mut metadata = written.get_mut("metadata").map(Value::take).unwrap_or_default();
        drop_managed_fields(&mut metadata);
        ObjectMeta::deserialize(metadata).map_err(Error::SerdeError)
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
    if let Some(metadata) = value.get_mut("metadata") {
        drop_managed_fields(metadata);
    }
    T::deserialize(value).map_err(Error::SerdeError)
}

fn drop_managed_fields(metadata: &mut Value) {
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("managedFields");
    }
}

fn body(object: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(object).map_err(Error::SerdeError)?;
    serde_json::to_vec(&value).map_err(Error::SerdeError)
}
