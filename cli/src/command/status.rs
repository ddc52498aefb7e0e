//! `weft status`.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Args;

use super::{Ends as _, Exit};
use crate::mesh::http::{Ask, exchange};
use crate::mesh::status::{Key, Resource, Status};
use crate::terminal::Paint;

/// Flags of `weft status`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The control plane's admin port.
    #[arg(long, env = "WEFT_ADMIN", default_value = "127.0.0.1:14011", value_name = "IP:PORT")]
    admin: SocketAddr,
    /// Print the control plane's answer as it is, in JSON.
    #[arg(long)]
    json: bool,
}

/// Prints how everything stands. Fails where something is not accepted, or not run by a proxy that it concerns.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let ask = Ask { method: "GET", addr: options.admin, path: "/status", headers: &[], body: "" };
    let page = exchange(&ask).and_then(|answer| answer.success());
    let page = page.with_context(|| format!("asking the control plane at {} (--admin)", options.admin));
    let page = page.ends(Exit::Unavailable)?;
    let status = Status::parse(&page).ends(Exit::Unavailable)?;
    let text = if options.json { format!("{page}\n") } else { table(&status, Paint::for_stdout()) };
    std::io::stdout().write_all(text.as_bytes()).context("printing the status")?;
    let holds = status.files.is_empty() && status.resources().all(|(_, resource)| stands(resource));
    Ok(if holds { Exit::Done } else { Exit::Failed })
}

fn stands(resource: &Resource) -> bool {
    resource.accepted && resource.resolved_refs && resource.proxies_running == resource.proxies_concerned
}

fn table(status: &Status, paint: Paint) -> String {
    let names: Vec<(String, &Resource)> = status
        .resources()
        .map(|(Key { kind, namespace, name }, it)| (format!("{kind} {namespace}/{name}"), it))
        .collect();
    let width = names.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, resource) in names {
        let mark = if stands(resource) { paint.good("ok") } else { paint.bad("no") };
        text.extend([&mark, "  ", &format!("{name:<width$}"), "  ", &resource.proxies, "\n"]);
        for complaint in resource.complaints() {
            text.extend(["    ", &complaint, "\n"]);
        }
    }
    for problem in &status.files {
        text.extend([&paint.bad("no"), "  ", problem, "\n"]);
    }
    text.extend([&status.connected.len().to_string(), " proxies connected\n"]);
    text
}
