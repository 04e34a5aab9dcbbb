//! Cluster DNS: one server per node, on the node's loopback.
//!
//! Pods and host processes ask 10.96.0.10:53; the rules send them here
//! ([`crate::rules::base`]), so no pod has to run before names work, and a
//! question never leaves the node. [`mod@answer`] knows the cluster's names and is
//! pure; [`forward`] passes everything else to the host's own name servers.

pub mod answer;
pub mod forward;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use skiff_client::chain;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::view::View;
use answer::{Answer, Zone, answer};
use forward::{Forwarder, Reply};

/// The port on 127.0.0.1 the server prefers. Any other will do, but a steady
/// one keeps flows alive over a restart.
const PREFERRED_PORT: u16 = 10053;

/// How long an idle TCP client may keep its connection.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Responses that may wait on one TCP connection; more make it wait.
const TCP_RESPONSES: usize = 32;

/// The largest UDP response that passes everywhere without fragments.
const MAX_PAYLOAD: u16 = 1232;

/// A server that listens already and answers once it is served.
pub struct DnsServer {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddrV4,
    handler: Handler,
}

impl DnsServer {
    /// Takes a port on the loopback, for both UDP and TCP.
    pub async fn bind(zone: Zone, view: Arc<RwLock<View>>) -> io::Result<Self> {
        let handler = |port| {
            let own = [SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)];
            let forwarder = Forwarder::new(zone.cluster_dns, own.into());
            Handler { zone: zone.clone(), view: Arc::clone(&view), forwarder }
        };
        let mut last_error = None;
        // A free UDP port may be taken for TCP; then the next one is tried.
        for port in [PREFERRED_PORT, 0, 0, 0, 0] {
            match bind_both(port).await {
                Ok((udp, tcp, address)) => {
                    let handler = handler(address.port());
                    return Ok(Self { udp, tcp, address, handler });
                }
                Err(err) => last_error = Some(err),
            }
        }
        Err(last_error.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Answers until cancelled.
    pub async fn serve(self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut server = Server::new(self.handler);
        server.register_socket(self.udp);
        server.register_listener(self.tcp, TCP_IDLE, TCP_RESPONSES);
        tokio::select! {
            () = cancel.cancelled() => server.shutdown_gracefully().await?,
            ended = server.block_until_done() => ended?,
        }
        Ok(())
    }
}

async fn bind_both(port: u16) -> io::Result<(UdpSocket, TcpListener, SocketAddrV4)> {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = udp.local_addr()?.port();
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    Ok((udp, tcp, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))
}

struct Handler {
    zone: Zone,
    view: Arc<RwLock<View>>,
    forwarder: Forwarder,
}

impl Handler {
    /// Everything a response says.
    async fn respond(&self, name: &Name, kind: RecordType) -> Reply {
        let answer = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            answer(name, kind, &self.zone, &view)
        };
        match answer {
            Answer::Records { answers, additionals } => {
                Reply { authoritative: true, answers, additionals, ..Reply::default() }
            }
            Answer::NoData => self.negative(ResponseCode::NoError),
            Answer::NoName => self.negative(ResponseCode::NXDomain),
            Answer::Elsewhere => self.forwarder.forward(name.clone(), kind).await,
            Answer::Alias { records, target } => {
                // The alias is ours, what it stands for is not.
                let mut reply = self.forwarder.forward(target, kind).await;
                reply.answers.splice(0..0, records);
                reply
            }
        }
    }

    fn negative(&self, code: ResponseCode) -> Reply {
        let authorities = vec![self.zone.authority()];
        Reply { authoritative: true, code, authorities, ..Reply::default() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responses: R,
    ) -> ResponseInfo {
        let reply = match request.request_info() {
            Ok(info) if info.query.query_class() == DNSClass::IN => {
                let name: Name = info.query.original().name().clone();
                self.respond(&name, info.query.query_type()).await
            }
            Ok(_) => Reply { code: ResponseCode::Refused, ..Reply::default() },
            Err(err) => {
                debug!(error = chain(&err), client = %request.src(), "a question that is none");
                Reply { code: ResponseCode::FormErr, ..Reply::default() }
            }
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().min(MAX_PAYLOAD)).set_version(0);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [&Record; 0] = [];
        let response =
            builder.build(metadata, &reply.answers, &reply.authorities, none, &reply.additionals);
        match responses.send_response(response).await {
            Ok(info) => info,
            Err(err) => {
                warn!(error = chain(&err), client = %request.src(), "cannot send a DNS response");
                hickory_proto::op::Header { metadata, counts: Default::default() }.into()
            }
        }
    }
}
