//! The lab's front door: a loopback port of the host, so that one kubeconfig
//! works from the host while masters come and go. Who opens it decides to which
//! master it leads.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use crate::netns;

/// Lets `lead` serve the port until it ends. The port is bound in the host's
/// namespace, then the process moves into the switch's, where the masters are
/// neighbours; a socket stays in the namespace it was made in.
pub fn serve<F: Future<Output = io::Result<()>>>(
    switch: &str,
    port: u16,
    lead: impl FnOnce(tokio::net::TcpListener) -> F,
) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    netns::enter(switch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move { lead(tokio::net::TcpListener::from_std(listener)?).await })
}
