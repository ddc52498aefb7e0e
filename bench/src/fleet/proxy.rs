//! A simulated proxy: the stream of a real one, and its certificate, without traffic.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use weft_model::SpiffeId;
use weft_proto::MESSAGE_BYTES_MAX;
use weft_proto::identity::v1::certify_request::Proof;
use weft_proto::identity::v1::identity_client::IdentityClient;
use weft_proto::identity::v1::{CertifyRequest, CurrentCertificate};
use weft_proto::proxy::v1::mesh_client::MeshClient;
use weft_proto::proxy::v1::watch_request::Kind;
use weft_proto::proxy::v1::watch_response::Resource;
use weft_proto::proxy::v1::{Ack, Hello, ResourceKey, WatchRequest, WatchResponse, WorkloadName};
use weft_tls::MeshTls;

use super::Shared;

/// As a real proxy does it: the pause after the first failure, which doubles, up to the longest; and for a connection.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Requests that wait to be sent: all that one asks for at first.
const SENDING_MAX: usize = 64;

/// One of a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// The namespace of its workload.
    pub(crate) namespace: &'static str,
    /// The name of its workload.
    pub(crate) name: String,
    /// Its uid; empty where it has none.
    pub(crate) uid: String,
    /// Who it is.
    pub(crate) identity: SpiffeId,
    /// Where the control plane is.
    pub(crate) control: SocketAddr,
    /// Its certificate.
    pub(crate) tls: MeshTls,
    /// What it asks for.
    pub(crate) keys: Vec<ResourceKey>,
}

impl Proxy {
    /// Keeps a stream for as long as it is polled.
    pub(crate) async fn run(self, shared: &Shared) {
        let mut failures = 0_u32;
        loop {
            let mut answered = Answered { left: self.keys.len(), shared };
            if let Err(error) = self.watch(&mut answered).await {
                shared.note(&error);
            }
            failures = if answered.left < self.keys.len() { 0 } else { failures.saturating_add(1) };
            drop(answered);
            let doubled = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
            sleep(doubled.mul_f64(fastrand::f64().midpoint(1.0))).await;
        }
    }

    async fn watch(&self, answered: &mut Answered<'_>) -> anyhow::Result<()> {
        let (requests, sending) = mpsc::channel(SENDING_MAX);
        let hello = Hello {
            workload: Some(WorkloadName { namespace: self.namespace.to_owned(), name: self.name.clone() }),
            uid: self.uid.clone(),
            addresses: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let asked = self.keys.iter().cloned().map(Kind::Subscribe);
        for kind in std::iter::once(Kind::Hello(hello)).chain(asked) {
            requests.try_send(WatchRequest { kind: Some(kind) }).context("it asks for too much")?;
        }
        let mut client = MeshClient::new(self.channel().await?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut responses = client.watch(ReceiverStream::new(sending)).await?.into_inner();
        while let Some(response) = responses.message().await? {
            let WatchResponse { key, version, resource, .. } = response;
            requests.send(WatchRequest { kind: Some(Kind::Ack(Ack { key, version })) }).await?;
            if let Some(Resource::Endpoints(endpoints)) = &resource {
                answered.shared.moves.hear(endpoints.upserted.iter().map(|endpoint| endpoint.addr.as_str()));
            }
            answered.one();
        }
        Ok(())
    }

    /// Has its certificate renewed, as a real one has it: a new connection, a new key, the old certificate for a proof.
    pub(super) async fn renew(&self) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.identity.as_str().try_into()?)];
        let request = CertifyRequest {
            csr_der: params.serialize_request(&key)?.der().to_vec(),
            identity: self.identity.as_str().to_owned(),
            proof: Some(Proof::CurrentCertificate(CurrentCertificate {})),
        };
        IdentityClient::new(self.channel().await?).certify(request).await?;
        Ok(())
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        let (control, tls) = (self.control, self.tls.clone());
        let connector = service_fn(move |_uri| {
            let tls = tls.clone();
            async move {
                let connecting = async {
                    let tcp = TcpStream::connect(control).await?;
                    tcp.set_nodelay(true)?;
                    let (stream, _peer) = tls.connect_control(tcp).await?;
                    Ok::<_, anyhow::Error>(TokioIo::new(stream))
                };
                timeout(CONNECT_DEADLINE, connecting).await?
            }
        });
        Ok(Endpoint::from_static("http://weft-control-plane").connect_with_connector(connector).await?)
    }
}

/// How much of what one asked for on a stream was answered.
struct Answered<'a> {
    left: usize,
    shared: &'a Shared,
}

impl Answered<'_> {
    /// The first answers are one for each key; what comes after them is news.
    fn one(&mut self) {
        if self.left == 1 {
            self.shared.synced.fetch_add(1, Ordering::Relaxed);
        }
        self.left = self.left.saturating_sub(1);
    }
}

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        if self.left == 0 {
            self.shared.synced.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
