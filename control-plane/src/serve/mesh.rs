//! `weft.proxy.v1.Mesh`: tells proxies what they ask for. It only carries words between a stream and the [`Hub`], which
//! knows what they mean. One task per stream; it takes an answer from the hub only when there is room to send it, so
//! that a slow proxy is sent the newest value and never a backlog.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_model::resources::Update;
use weft_model::version::{Skew, Version};
use weft_proto::MESSAGE_BYTES_MAX;
use weft_proto::convert::{self, Hello};
use weft_proto::proxy::v1::mesh_server::{Mesh, MeshServer};
use weft_proto::proxy::v1::{WatchRequest, WatchResponse};
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

use super::identity::PeerCertificate;
use crate::hub::{Connected, Hub, Refused};
use crate::metrics::Metrics;

/// A request names one key, or says why a version was refused: well below this.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Who opens a stream says who it is within this.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Answers that were taken from the hub and not sent yet: enough to fill a packet.
const SENDING_MAX: usize = 4;

/// What the versions of proxies are compared with.
const OURS: &str = env!("CARGO_PKG_VERSION");

/// How long a stream lives, on average: proxies find a new replica within an hour, and a hundred thousand reconnect at
/// less than 50 a second.
pub const DEFAULT_STREAM_AGE: Duration = Duration::from_secs(30 * 60);

/// The service's parts.
#[derive(Clone, Debug)]
pub struct MeshService {
    /// Knows the answers.
    pub hub: Arc<Hub>,
    /// Where streams run.
    pub tasks: Tasks,
    /// Ends them.
    pub drain: Drain,
    /// How long a stream lives, on average; each lives between four and six fifths of it.
    pub stream_age: Duration,
    /// By which absent proxies are dated.
    pub clock: WallClock,
    /// Counts what proxies of other versions say.
    pub metrics: Arc<Metrics>,
}

impl MeshService {
    /// The service for tonic's router, with its bounds.
    pub fn into_server(self) -> MeshServer<Self> {
        MeshServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The age of one stream. Streams that began together do not end together.
    fn age(&self, id: u64) -> Duration {
        // Spread evenly over the ids, which count up (the golden ratio's fraction).
        let permille = u32::try_from((id.wrapping_mul(618_034) / 1_000) % 1_000).unwrap_or(500);
        self.stream_age * 4 / 5 + self.stream_age * 2 / 5 * permille / 1_000
    }

    async fn hello(&self, requests: &mut Streaming<WatchRequest>) -> Result<Hello, Status> {
        let first = timeout(HELLO_DEADLINE, requests.message()).await;
        let first = first.map_err(|_elapsed| Status::deadline_exceeded("no Hello came"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream ended before its Hello"))?;
        match convert::Request::try_from(first).map_err(|invalid| Status::invalid_argument(invalid.to_string()))? {
            convert::Request::Hello(hello) => Ok(hello),
            _ => Err(Status::failed_precondition("the first request is a Hello")),
        }
    }
}

#[tonic::async_trait]
impl Mesh for MeshService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let peer = request.extensions().get::<PeerCertificate>().and_then(|certificate| certificate.0.clone());
        let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
        let mut requests = request.into_inner();
        let hello = self.hello(&mut requests).await?;
        let connected = self.hub.connect(&hello, &peer.id).map_err(|refused| {
            tracing::warn!(workload = %hello.workload, identity = %peer.id, %refused, "proxy refused");
            status(&refused)
        })?;
        tracing::info!(workload = %hello.workload, version = hello.version, "proxy connected");
        let guard = self.guard(connected.id, &hello);
        let (responses, sending) = mpsc::channel(SENDING_MAX);
        let watch = Watch { guard, connected, requests, responses };
        let (service, ends) = (self.clone(), Instant::now() + self.age(watch.connected.id));
        self.tasks.spawn("watch", async move { watch.run(&service, ends).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(sending))))
    }
}

impl MeshService {
    fn guard(&self, id: u64, hello: &Hello) -> Guard {
        let skew = Version::read(OURS).zip(Version::read(&hello.version)).map(|(ours, theirs)| ours.skew(theirs));
        if !matches!(skew, Some(Skew::Next | Skew::Same)) {
            tracing::warn!(
                workload = %hello.workload,
                version = hello.version,
                ours = OURS,
                "proxy of a version that is not promised to work with this one; it is served all the same"
            );
        }
        let alike = self.metrics.proxies_by_skew(skew);
        alike.inc();
        Guard { hub: Arc::clone(&self.hub), clock: self.clock.clone(), id, alike }
    }
}

/// Forgets the proxy when its stream ends, however it ends.
struct Guard {
    hub: Arc<Hub>,
    clock: WallClock,
    id: u64,
    /// How many proxies are as far from our version as this one.
    alike: Gauge,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.alike.dec();
        self.hub.disconnect(self.id, self.clock.unix_seconds());
    }
}

/// One proxy's stream.
struct Watch {
    connected: Connected,
    requests: Streaming<WatchRequest>,
    responses: mpsc::Sender<Result<WatchResponse, Status>>,
    guard: Guard,
}

impl Watch {
    async fn run(mut self, service: &MeshService, ends: Instant) {
        let hub = &service.hub;
        let id = self.connected.id;
        let (mut has_due, mut was_puzzled) = (false, false);
        let end = loop {
            // No arm loses anything when another wins: a permit that is not used, a message that stays in the stream, a
            // notification that is kept.
            tokio::select! {
                permit = self.responses.reserve(), if has_due => match permit {
                    Ok(permit) => match hub.next(id) {
                        Some(update) => match response(&update) {
                            Ok(response) => permit.send(Ok(response)),
                            Err(too_large) => if let Err(refused) = hub.request(id, too_large) {
                                break Some(status(&refused));
                            },
                        },
                        None => has_due = false,
                    },
                    Err(_closed) => break None,
                },
                () = self.connected.wake.notified() => has_due = true,
                message = self.requests.message() => match message {
                    Ok(Some(message)) if convert::is_of_newer(&message) => {
                        service.metrics.not_understood.inc();
                        tell_once(&mut was_puzzled, id);
                    }
                    Ok(Some(message)) => if let Err(status) = take(hub, id, message) {
                        break Some(status);
                    },
                    // It ends the stream, or the connection is gone: both mean that nobody listens.
                    Ok(None) | Err(_) => break None,
                },
                () = self.responses.closed() => break None,
                // The end of the stream, without a fault: the proxy opens another one, here or at a replica.
                () = sleep_until(ends) => break None,
                () = service.drain.draining() => break None,
            }
        };
        if let Some(status) = end {
            // Where there is no room it hears nothing, and sees the end all the same.
            let _told = self.responses.try_send(Err(status));
        }
        drop(self.guard);
    }
}

/// A proxy that is newer says what we have no word for: it gets no answer to that, and everything else.
fn tell_once(was_puzzled: &mut bool, id: u64) {
    if !std::mem::replace(was_puzzled, true) {
        tracing::warn!(id, "a proxy asks for what this version does not know; that is passed over");
    }
}

/// The message of an answer. One that is larger than proxies read would end the stream, and the next stream too: it
/// counts as refused by this proxy, which keeps what it has, and shows as that in the status.
fn response(update: &Update) -> Result<WatchResponse, convert::Request> {
    let response = WatchResponse::from(update);
    let bytes = response.encoded_len();
    if bytes <= MESSAGE_BYTES_MAX {
        return Ok(response);
    }
    let reason = format!("not sent: {bytes} bytes are more than the {MESSAGE_BYTES_MAX} of one message");
    Err(convert::Request::Nack { key: update.key.clone(), version: update.version, reason })
}

fn take(hub: &Hub, id: u64, message: WatchRequest) -> Result<(), Status> {
    let request = convert::Request::try_from(message).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
    hub.request(id, request).map_err(|refused| status(&refused))
}

fn status(refused: &Refused) -> Status {
    let code = match refused {
        Refused::Address { .. } | Refused::Identity { .. } | Refused::Uid => Code::PermissionDenied,
        Refused::Full => Code::Unavailable,
        Refused::TooMany => Code::ResourceExhausted,
        Refused::Unknown(_) => Code::NotFound,
    };
    Status::new(code, refused.to_string())
}

#[cfg(test)]
mod tests;
