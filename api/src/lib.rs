//! Everything Skiff knows about the kinds of Kubernetes, as data and pure
//! functions: no I/O, no HTTP, no clock.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalogue;
pub mod defaults;
pub mod managed;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod placement;
pub mod pod_security;
pub mod quantity;
pub mod quota;
pub mod selector;
pub mod shape;
pub mod table;
pub mod validation;
pub mod volume;

/// A JSON object, as clients send it and as the store keeps it.
pub type Object = serde_json::Map<String, serde_json::Value>;
