//! Typed objects over an untyped wire: how every component talks to the API.
//!
//! `kube` compiles all that lies between a socket and an object, the JSON
//! reader, the list, the watch and its events, once for every kind and every
//! crate, which is megabytes of the program. Here everything on the wire is a
//! JSON value, whatever its kind, and an object becomes its type at the edge.
//! The price is one more walk over an object that has crossed a process or a
//! network anyway.
//!
//! [`Api`] has those calls of [`kube::Api`] that we use, under the same names,
//! with the same parameters and errors. [`watch()`] is `kube`'s `watcher`.
//! [`chain`] puts errors into words. [`connect`] makes a client over the
//! network for whoever knows the cluster's authority: nodes, and the
//! administrator at a master; [`on_lost_quorum`] notices when its server is of
//! no use any more. [`any_certificate`] is for servers in pods, whose names
//! nobody knows. [`tunnel()`] is for those who only pass on what others say.
//!
//! Objects come without `metadata.managedFields`: nothing here reads them, they
//! are often half of an object, and the API server keeps them when an object is
//! written back without.
//!
//! Left out: objects whose kind is known only at run time, and metadata alone.
//! For them `kube` has `Api<DynamicObject>` and `PartialObjectMeta`, which are
//! compiled once as they are.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod error;
mod object;
mod quorum;
mod remote;
mod tunnel;
mod unchecked;
mod watch;

pub use api::Api;
pub use error::chain;
pub use quorum::on_lost_quorum;
pub use remote::{Credentials, RemoteError, connect};
pub use tunnel::tunnel;
pub use unchecked::any_certificate;
pub use watch::{watch, watch_with};

#[cfg(test)]
mod tests;
