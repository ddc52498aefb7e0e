//! What the control plane does by Kubernetes' API, beside watching it: checks the tokens of pods, keeps the authority in a Secret,
//! takes its issuer from somebody else's, tells every namespace whom to trust, and agrees with its replicas who of them writes.
//!
//! Each part is a task of its own that tries again until it succeeds: while the API server is away, what is in force stays so.

pub mod authority;
pub(crate) mod bundle;
pub(crate) mod issuer;
pub(crate) mod lease;
pub(crate) mod review;
pub(crate) mod status;
pub(crate) mod uninjected;

use std::time::Duration;

use kube::{Client, Config};

/// How long connecting to the API server, or writing a request, may take. A guess: longer than it takes to elect another one.
const REQUEST_MAX: Duration = Duration::from_secs(15);

/// A client by the pod's own service account, or by KUBECONFIG.
///
/// # Errors
/// Neither is there.
pub(crate) async fn client() -> Result<Client, ClientError> {
    let mut config = Config::infer().await.map_err(|error| ClientError::Config(Box::new(error)))?;
    config.write_timeout = Some(REQUEST_MAX);
    config.connect_timeout = Some(REQUEST_MAX);
    Client::try_from(config).map_err(|error| ClientError::Client(Box::new(error)))
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It cannot be made.
    #[error("no client for the API server can be made")]
    Client(#[source] Box<kube::Error>),
    /// Nothing says where the API server is.
    #[error("neither a service account of a pod nor KUBECONFIG says where the API server is")]
    Config(#[source] Box<kube::config::InferConfigError>),
}
