//! A client over the network, to a server whose authority is known.
//!
//! `kube::Config` makes one as well, but links everything that a kubeconfig
//! may ask for: commands and cloud providers that give out tokens, paths into
//! their answers, regular expressions. None of that is for a node or a master.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue, InvalidHeaderValue, USER_AGENT};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::Body;
use kube::client::middleware::BaseUriLayer;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tower::ServiceBuilder;

/// How long a connection may be silent before its other end is asked.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long the other end may leave anything unanswered.
const UNANSWERED: Duration = Duration::from_secs(20);

/// How a client proves who it is.
pub enum Credentials {
    /// With a bearer token.
    Token(String),
    /// With a certificate, asked for at every handshake.
    Certificate(Arc<dyn ResolvesClientCert>),
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The authority cannot be used.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The token has characters that no header may have.
    #[error("the token is damaged")]
    Token(#[from] InvalidHeaderValue),
}

/// A client of the server at `server`, which has to be of the authority `ca`.
/// Managed fields name who writes by `program`.
pub fn connect(
    server: http::Uri,
    ca: CertificateDer<'static>,
    credentials: Credentials,
    program: &'static str,
) -> Result<Client, RemoteError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let (tls, bearer) = match credentials {
        Credentials::Token(token) => {
            let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
            bearer.set_sensitive(true);
            (tls.with_no_client_auth(), Some(bearer))
        }
        Credentials::Certificate(resolver) => (tls.with_client_cert_resolver(resolver), None),
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // A watch is silent for minutes; only so is a dead one told from it.
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_tcp_user_timeout(Some(UNANSWERED));
    tcp.set_connect_timeout(Some(UNANSWERED));
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .wrap_connector(tcp);
    let hyper =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .map_request(move |mut request: http::Request<Body>| {
            let headers = request.headers_mut();
            headers.insert(USER_AGENT, HeaderValue::from_static(program));
            headers.extend(bearer.clone().map(|bearer| (AUTHORIZATION, bearer)));
            request
        })
        .layer(BaseUriLayer::new(server))
        .service(hyper);
    Ok(Client::new(service, "default"))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    /// What came over a connection: the request's head, how many certificates,
    /// and from where.
    #[derive(Debug, Default, PartialEq)]
    struct Heard {
        head: String,
        certificates: usize,
        from: Option<SocketAddr>,
    }

    struct Authority(Issuer<'static, KeyPair>, CertificateDer<'static>);

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority(Issuer::new(params, key), certificate)
    }

    impl Authority {
        fn leaf(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.0).unwrap();
            (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        }

        /// Answers one request on a new connection. Gives its address, and in
        /// the end what came; nothing if the handshake failed.
        async fn serve(
            &self,
            answer: impl Into<String>,
        ) -> (http::Uri, tokio::task::JoinHandle<Heard>) {
            let answer = answer.into();
            let provider = Arc::new(ring::default_provider());
            let mut roots = RootCertStore::empty();
            roots.add(self.1.clone()).unwrap();
            let roots = Arc::new(roots);
            let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            let (certificate, key) = self.leaf();
            let tls = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
                .with_single_cert(vec![certificate], key)
                .unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let served = tokio::spawn(async move {
                let (stream, from) = listener.accept().await.unwrap();
                let Ok(mut stream) = TlsAcceptor::from(Arc::new(tls)).accept(stream).await else {
                    return Default::default();
                };
                let shown = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let head = String::from_utf8(head).unwrap().to_lowercase();
                Heard { head, certificates: shown, from: Some(from) }
            });
            (format!("https://{address}").parse().unwrap(), served)
        }
    }

    fn request() -> http::Request<Vec<u8>> {
        http::Request::get("/version").body(Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_shown_as_bearer() {
        let authority = authority();
        let (server, served) = authority.serve(FINE).await;
        let token = Credentials::Token("abc.def".into());
        let client = connect(server, authority.1, token, "program").unwrap();
        assert_eq!(client.request_text(request()).await.unwrap(), "{}");
        let Heard { head, certificates, .. } = served.await.unwrap();
        assert!(head.starts_with("get /version http/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: bearer abc.def\r\n"), "{head}");
        assert!(head.contains("user-agent: program\r\n"), "{head}");
        assert_eq!(certificates, 0);
    }

    #[tokio::test]
    async fn a_certificate_is_shown_in_the_handshake() {
        let authority = authority();
        let (server, served) = authority.serve(FINE).await;
        let (certificate, key) = authority.leaf();
        let provider = ring::default_provider();
        let key = CertifiedKey::from_der(vec![certificate], key, &provider).unwrap();
        let certificate = Credentials::Certificate(Arc::new(SingleCertAndKey::from(key)));
        let client = connect(server, authority.1, certificate, "program").unwrap();
        assert_eq!(client.request_text(request()).await.unwrap(), "{}");
        let Heard { head, certificates, .. } = served.await.unwrap();
        assert!(!head.contains("authorization"), "{head}");
        assert_eq!(certificates, 1);
    }

    #[tokio::test]
    async fn a_server_of_another_authority_hears_nothing() {
        let (server, served) = authority().serve(FINE).await;
        let token = Credentials::Token("abc.def".into());
        let client = connect(server, authority().1, token, "program").unwrap();
        client.request_text(request()).await.unwrap_err();
        assert_eq!(served.await.unwrap(), Heard::default());
    }

    #[tokio::test]
    async fn the_connection_to_a_server_without_quorum_is_named() {
        let authority = authority();
        let status = r#"{"details":{"causes":[{"reason":"NoQuorum","message":"m"}]}}"#;
        let head = "HTTP/1.1 504 Gateway Timeout\r\ncontent-length";
        let answer = format!("{head}: {}\r\n\r\n{status}", status.len());
        for (answer, expected) in [(answer.as_str(), true), (FINE, false)] {
            let (server, served) = authority.serve(answer).await;
            let token = Credentials::Token("abc.def".into());
            let client = connect(server, authority.1.clone(), token, "program").unwrap();
            let (lost_tx, lost_rx) = std::sync::mpsc::channel();
            let client = crate::on_lost_quorum(client, move |own| lost_tx.send(own).unwrap());
            assert_eq!(client.request_text(request()).await.is_err(), expected);
            let from = served.await.unwrap().from;
            assert_eq!(lost_rx.try_recv().ok(), from.filter(|_| expected));
        }
    }

    #[test]
    fn damaged_credentials_are_refused() {
        let server = http::Uri::from_static("https://127.0.0.1:1");
        let token = Credentials::Token("a\nb".into());
        let refused = connect(server.clone(), authority().1, token, "program");
        assert!(matches!(refused, Err(RemoteError::Token(_))));
        let nobody = CertificateDer::from(b"no certificate".to_vec());
        let refused = connect(server, nobody, Credentials::Token("a".into()), "program");
        assert!(matches!(refused, Err(RemoteError::Tls(_))));
    }
}
