//! `weft inject`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use weft_injector::patch::{Installation, Redirect, Sidecar};
use weft_model::TrustDomain;

use super::install::read_text;
use super::{Ended, Exit};
use crate::inject::{self, Fate, Found};

/// Flags of `weft inject`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft inject -f shop.yaml | kubectl apply -f -
  kustomize build . | weft inject -f - > injected.yaml

Every Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, Job and CronJob gets the proxy, in lists too, unless a label \
weft.dev/inject: disabled or its network says otherwise. Everything else keeps its bytes. What is injected already stays \
as it is.")]
pub(crate) struct Options {
    /// A file of YAML documents or JSON, or - for standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Image of the proxy and of the container that sets the redirect.
    #[arg(long, env = "WEFT_PROXY_IMAGE", value_name = "NAME:TAG", default_value = concat!("weft/proxy:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Where proxies find the control plane.
    #[arg(long, value_name = "HOST:PORT", default_value = "weft-control-plane.weft-system.svc:14010")]
    control_plane: String,
    /// The trust domain of every identity.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Who sets the redirect of a pod: an init container, or the CNI plugin.
    #[arg(long, env = "WEFT_REDIRECT", value_name = "init|cni", default_value = "init")]
    redirect: Redirect,
    /// What kind of container the proxy is: native sidecars need Kubernetes 1.29 or later.
    #[arg(long, env = "WEFT_SIDECAR", value_name = "native|ordinary", default_value = "native")]
    sidecar: Sidecar,
    /// Say nothing of what was injected and what was left alone.
    #[arg(short, long)]
    quiet: bool,
}

/// Prints the documents with proxies; nothing of them where one makes no sense.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let installation = Installation {
        image: options.image.clone(),
        control_plane: options.control_plane.clone(),
        trust_domain: options.trust_domain.as_str().to_owned(),
        redirect: options.redirect,
        sidecar: options.sidecar,
    };
    let mut whole = String::new();
    let mut found = Vec::new();
    let mut refused = Vec::new();
    for file in &options.files {
        let text = read_text(file).map_err(|error| Ended { exit: Exit::Usage, error })?;
        match inject::text(&text, &installation) {
            Ok(injected) => {
                append(&mut whole, &injected.text);
                found.extend(injected.found);
            }
            Err(all) => refused.extend(all.iter().map(|one| format!("{}: {one}", file.display()))),
        }
    }
    if !refused.is_empty() {
        anyhow::bail!("{}", refused.join("\nweft: "));
    }
    if !options.quiet {
        std::io::stderr().write_all(told(&found).as_bytes()).context("telling what was injected")?;
    }
    std::io::stdout().write_all(whole.as_bytes()).context("printing")?;
    Ok(Exit::Done)
}

/// Puts another file behind those before it.
fn append(whole: &mut String, text: &str) {
    if !whole.is_empty() && !text.is_empty() {
        if !whole.ends_with('\n') {
            whole.push('\n');
        }
        if !text.starts_with("---") {
            whole.push_str("---\n");
        }
    }
    whole.push_str(text);
}

fn told(found: &[Found]) -> String {
    let mut text = String::new();
    let (mut injected, mut alone, mut without) = (0, 0, 0);
    for Found { object, fate } in found {
        match fate {
            Fate::Injected => {
                injected += 1;
                text.extend(["injected: ", object, "\n"]);
            }
            Fate::LeftAlone(why) => {
                alone += 1;
                text.extend(["left alone: ", object, ": ", why, "\n"]);
            }
            Fate::NoPods => without += 1,
        }
    }
    text + &format!("{injected} injected, {alone} left alone, {without} without pods\n")
}
