//! Storage: claims get the default class, claims and volumes the finalizer
//! that protects them while they are in use, and only what can grow grows.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::quantity::Quantity;
use skiff_api::volume::{CLAIM_PROTECTION, VOLUME_PROTECTION, default_class};

use super::{Attributes, Context, Operation, Plugin, items, list_mut};
use crate::status::ApiError;

const GROUP: &str = "storage.k8s.io";

/// A claim that names no class gets the default one.
pub(super) struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn mutate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        claim: &mut Value,
    ) -> Result<(), ApiError> {
        let says = |claim: &Value| {
            let annotated =
                &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
            claim["spec"]["storageClassName"].is_string() || annotated.is_string()
        };
        if !request.creates("", "persistentvolumeclaims") || says(claim) {
            return Ok(());
        }
        let classes = context.objects.list(GROUP, "storageclasses", "");
        let classes: Vec<ObjectMeta> = classes
            .iter()
            .filter_map(|class| ObjectMeta::deserialize(&class["metadata"]).ok())
            .collect();
        if let Some(class) = default_class(&classes)
            && claim["spec"].is_object()
        {
            claim["spec"]["storageClassName"] = json!(class);
        }
        Ok(())
    }
}

/// A new claim or volume is kept until the controllers say that it is unused.
pub(super) struct StorageInUseProtection;

impl Plugin for StorageInUseProtection {
    fn mutate(
        &self,
        _: &Context,
        request: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let finalizer = if request.creates("", "persistentvolumeclaims") {
            CLAIM_PROTECTION
        } else if request.creates("", "persistentvolumes") {
            VOLUME_PROTECTION
        } else {
            return Ok(());
        };
        if !items(&object["metadata"]["finalizers"]).any(|one| one == finalizer)
            && let Some(finalizers) = list_mut(&mut object["metadata"], "finalizers")
        {
            finalizers.push(json!(finalizer));
        }
        Ok(())
    }
}

/// A bound claim grows only where its class allows it.
pub(super) struct ClaimResize;

impl Plugin for ClaimResize {
    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        claim: &Value,
    ) -> Result<(), ApiError> {
        let Some(old) = request.old else { return Ok(()) };
        if request.operation != Operation::Update || !request.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let size = |claim: &Value| {
            claim["spec"]["resources"]["requests"]["storage"].as_str()?.parse::<Quantity>().ok()
        };
        if size(claim) <= size(old) {
            return Ok(());
        }
        let class = claim["spec"]["storageClassName"].as_str().unwrap_or_default();
        let class = context.objects.get(GROUP, "storageclasses", "", class);
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions \
             the pvc must support resize",
        ))
    }
}
