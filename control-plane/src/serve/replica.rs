//! `weft.replica.v1.Replica`: tells another replica what the [`Hub`] knows of our own proxies. Values are compared with what that
//! replica was told last, so that nothing is queued: one that reads slowly hears the newest when it comes back.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use weft_model::SpiffeId;
use weft_proto::MESSAGE_BYTES_MAX;
use weft_proto::replica::v1::replica_server::{Replica, ReplicaServer};
use weft_proto::replica::v1::{FollowRequest, FollowResponse};
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

use super::identity::PeerCertificate;
use crate::hub::{Fact, Facts, Hub, departures};
use crate::replica::wire::{FACTS_MAX, response};
use crate::status::{COLLECT, SHARE_MAX};

/// A request says nothing.
const REQUEST_BYTES_MAX: usize = 1_024;

/// Messages that were made and not sent yet.
const SENDING_MAX: usize = 4;

/// How long news is collected before somebody who waits is told: acknowledgements come in swarms.
const BREATH: Duration = Duration::from_millis(5);

/// The service's parts.
#[derive(Clone, Debug)]
pub struct ReplicaService {
    /// What we are called.
    pub name: Arc<str>,
    /// Who may ask: the control plane's own identity.
    pub identity: SpiffeId,
    /// Knows our proxies.
    pub hub: Arc<Hub>,
    /// Where streams run.
    pub tasks: Tasks,
    /// Ends them.
    pub drain: Drain,
}

impl ReplicaService {
    /// The service for tonic's router, with its bounds.
    pub fn into_server(self) -> ReplicaServer<Self> {
        ReplicaServer::new(self)
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Replica for ReplicaService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let peer = request.extensions().get::<PeerCertificate>().and_then(|certificate| certificate.0.as_ref());
        let peer = peer.ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
        if peer.id != self.identity {
            tracing::warn!(identity = %peer.id, "somebody who is no replica of the control plane asked as one");
            return Err(Status::permission_denied("only replicas of the control plane may ask"));
        }
        let (responses, sending) = mpsc::channel(SENDING_MAX);
        let (service, teller) = (self.clone(), Teller { told: Facts::default(), responses });
        self.tasks.spawn("follow", async move { Box::pin(teller.tell(&service)).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(sending))))
    }
}

/// One other replica's stream.
struct Teller {
    /// What it knows from us.
    told: Facts,
    responses: mpsc::Sender<Result<FollowResponse, Status>>,
}

impl Teller {
    async fn tell(mut self, service: &ReplicaService) {
        let mut news = service.hub.news();
        // When everything is looked at again. Departures, for which somebody waits, are looked at with all news.
        let mut due = Instant::now();
        let (mut is_due, mut is_first) = (true, true);
        loop {
            let (facts, bundle) = if is_due && Instant::now() >= due {
                let (begun, hub) = (Instant::now(), Arc::clone(&service.hub));
                let Ok(now) = tokio::task::spawn_blocking(move || hub.facts()).await else { return };
                due = Instant::now() + COLLECT.max(begun.elapsed() * (SHARE_MAX - 1));
                is_due = false;
                let before = std::mem::replace(&mut self.told, now);
                (self.told.since(&before), before.bundle)
            } else {
                let before = std::mem::replace(&mut self.told.departed, service.hub.departed());
                (departures(&before, &self.told.departed).collect(), self.told.bundle)
            };
            let has_news = is_first || !facts.is_empty() || bundle != self.told.bundle;
            if has_news && !self.say(&service.name, &facts).await {
                return;
            }
            is_first = false;
            sleep(BREATH).await;
            // Nothing is lost in any arm: what is not said now is said at the next look.
            tokio::select! {
                changed = news.changed() => match changed {
                    Ok(()) => is_due = true,
                    Err(_) => return,
                },
                () = sleep_until(due), if is_due => {}
                () = self.responses.closed() => return,
                // The end, without a fault: our proxies go elsewhere.
                () = service.drain.draining() => return,
            }
        }
    }

    /// Says it, in as many messages as it takes; whether anybody listens.
    async fn say(&self, name: &str, facts: &[Fact]) -> bool {
        let mut left = facts.chunks(FACTS_MAX).peekable();
        loop {
            let some = left.next().unwrap_or_default();
            let complete = left.peek().is_none();
            if self.responses.send(Ok(response(name, self.told.bundle, some, complete))).await.is_err() {
                return false;
            }
            if complete {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
