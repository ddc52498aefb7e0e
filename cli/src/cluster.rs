//! The API server, from a terminal.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::command::{Ends as _, Exit};

/// How long connecting, and each answer, may take: a person waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClusterArgs {
    /// A context of KUBECONFIG, or ~/.kube/config, in place of the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
    /// Runs something with a client.
    pub(crate) fn run<T, F: Future<Output = T>>(&self, with: impl FnOnce(Client) -> F) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        runtime.block_on(async {
            let client = self.client().await.ends(Exit::Unavailable)?;
            Ok(with(client).await)
        })
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let config = match &self.context {
            Some(context) => {
                let kubeconfig = Kubeconfig::read().context("KUBECONFIG")?;
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .with_context(|| format!("--context {context}"))
            }
            None => {
                Config::infer().await.context("neither KUBECONFIG nor a service account says where the API server is")
            }
        };
        let mut config = config?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        config.write_timeout = Some(PATIENCE);
        Client::try_from(config).context("a client for the API server")
    }
}
