//! `weft token create`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use weft_control_plane::token::{DEFAULT_LIFE, TokenKey, TokenSpec};
use weft_model::{SpiffeId, TrustDomain};
use weft_runtime::clock::WallClock;

use super::{Ends as _, Exit};

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mint a join token and print it.
    ///
    /// It lets in one workload identity, once, for ten minutes. Give it to weft-proxy in a file (--join-token-file) that
    /// only the proxy's user can read. Run this where the control plane's directory is.
    Create(Create),
}

/// Flags of `weft token create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The control plane's directory for its authority, as its own --ca-dir says.
    #[arg(long, env = "WEFT_CA_DIR", value_name = "DIR")]
    ca_dir: PathBuf,
    /// Namespace of the workload.
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// Service account of the workload.
    #[arg(long, default_value = "default", value_name = "NAME")]
    service_account: String,
    /// Trust domain of the mesh.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local", value_name = "NAME")]
    trust_domain: TrustDomain,
    /// How long it is good, in minutes.
    #[arg(long, default_value_t = DEFAULT_LIFE.as_secs() / 60, value_parser = clap::value_parser!(u64).range(1..=1440), value_name = "MINUTES")]
    minutes: u64,
    /// How many machines may use it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    uses: u32,
}

/// Mints a token and prints it, alone on its line, for scripts.
pub(crate) fn create(options: &Create) -> anyhow::Result<Exit> {
    let Create { ca_dir, namespace, service_account, trust_domain, minutes, uses } = options;
    let identity = SpiffeId::new(trust_domain, namespace, service_account).context("--namespace, --service-account");
    let identity = identity.ends(Exit::Usage)?;
    // A directory that is made here would hold a key that no control plane knows.
    let key = if ca_dir.is_dir() {
        TokenKey::open(ca_dir).with_context(|| format!("--ca-dir {}", ca_dir.display()))
    } else {
        Err(anyhow::anyhow!("--ca-dir {}: there is no such directory", ca_dir.display()))
    };
    let key = key.ends(Exit::Usage)?;
    let spec = TokenSpec { identity, life: Duration::from_secs(60 * minutes), uses: *uses };
    let token = key.mint(&spec, WallClock::system().unix_seconds()).context("minting a join token")?;
    writeln!(std::io::stdout(), "{token}").context("printing the token")?;
    Ok(Exit::Done)
}
