//! What is known of a connection's destination before a byte is read: service or workload, and what it is declared to
//! speak. It asks discovery and decides nothing else.

use std::sync::Arc;

use weft_model::{AppProtocol, OriginalDst};

use crate::discovery::{Discovery, Resolved, Service, Workload};
use crate::error::Reason;

/// What a connection was found to be addressed to.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// The application beside us, at the address it was called by.
    Application(OriginalDst),
    /// Something outside the mesh: bytes and requests go to the very address.
    Passthrough(OriginalDst),
    /// A service: each request is routed and balanced.
    Service(Arc<Service>),
    /// One workload by its own address: identity and policy apply, there is no choice.
    Workload(Arc<Workload>),
}

/// A destination and what is known of its protocol.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// Where it goes.
    pub(crate) target: Target,
    /// What it is declared to speak.
    pub(crate) protocol: AppProtocol,
    /// Whether its servers were seen to speak first.
    pub(crate) server_first: bool,
    /// Whether routes need HTTP to be looked into.
    pub(crate) wants_http: bool,
}

/// Finds out what the application's connection is for.
///
/// **Cancel:** loses nothing.
///
/// # Errors
/// [`Reason::DiscoveryUnavailable`] without an answer, which never becomes plaintext; [`Reason::PortNotFound`].
pub(crate) async fn resolve(discovery: &Discovery, dst: OriginalDst) -> Result<Destination, Reason> {
    let now = tokio::time::Instant::now().into_std();
    let resolved = discovery.resolve(dst).await.map_err(|error| error.reason())?;
    Ok(match resolved {
        Resolved::PortNotFound => return Err(Reason::PortNotFound),
        // The control plane says that nothing meshed is there: a node, say. It is not a guess of ours.
        Resolved::NotFound | Resolved::Outside => Destination {
            target: Target::Passthrough(dst),
            protocol: AppProtocol::Undeclared,
            server_first: false,
            wants_http: false,
        },
        Resolved::Service(service) => {
            let snapshot = service.snapshot();
            let wants_http = !snapshot.spec.http_routes.is_empty();
            Destination {
                protocol: snapshot.spec.protocol,
                server_first: !wants_http && service.learned.is_known(now),
                wants_http,
                target: Target::Service(service),
            }
        }
        Resolved::Workload(workload) => Destination {
            protocol: workload.snapshot().destination.protocol,
            server_first: workload.learned.is_known(now),
            wants_http: false,
            target: Target::Workload(workload),
        },
    })
}
