//! The gRPC health check (grpc/grpc, doc/health-checking.md), in the clear as the kubelet makes it.

use std::io;
use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::dial::Dial;
use super::{Outcome, Unwell};

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The answer is one number.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
const USER_AGENT: &str = concat!("kube-probe/weft-", env!("CARGO_PKG_VERSION"));

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks whether `service` serves.
pub(super) async fn check(dial: &Dial, addr: SocketAddr, service: &str) -> Outcome {
    // Dialled here and not by the channel, so that a closed port is told as what it is.
    let mut tcp = Some(TokioIo::new(dial.connect(addr).await?));
    let connector = service_fn(move |_uri| {
        let once = tcp.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { once }
    });
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).and_then(|it| it.user_agent(USER_AGENT));
    let endpoint = endpoint.map_err(|error| Unwell::Silent(error.to_string()))?;
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| Unwell::Silent(format!("no HTTP/2 with port {}: {error}", addr.port())))?;
    let mut client = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    client.ready().await.map_err(|error| Unwell::Silent(error.to_string()))?;
    let asked = Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answered = client.unary(asked, PathAndQuery::from_static(CHECK), codec).await;
    let status = answered.map_err(|status| refused(&status, service))?.into_inner().status();
    match status {
        ServingStatus::Serving => Ok("SERVING".to_owned()),
        ServingStatus::NotServing => Err(Unwell::Answered("the health check says NOT_SERVING".to_owned())),
        ServingStatus::ServiceUnknown => Err(Unwell::Answered("the health check says SERVICE_UNKNOWN".to_owned())),
        ServingStatus::Unknown => Err(Unwell::Answered("the health check says UNKNOWN".to_owned())),
    }
}

fn refused(status: &Status, service: &str) -> Unwell {
    let text = match status.code() {
        Code::Unimplemented => "the server has no gRPC health check (grpc.health.v1.Health)".to_owned(),
        Code::NotFound => format!("the health check knows no service {service:?}"),
        code => format!("the health check failed: {code:?}"),
    };
    Unwell::Answered(text)
}
