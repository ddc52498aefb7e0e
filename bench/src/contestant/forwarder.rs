//! Two bare forwarders.

use std::path::Path;
use std::time::Duration;

use weft_cli::world::{Family, Host, World};
use weft_init::Options;

use super::{Contestant, Proxy, certificates};

/// Starts the outbound and the inbound one.
pub(super) fn start(
    world: &World,
    [client, server]: [&Host; 2],
    contestant: Contestant,
    program: &Path,
) -> anyhow::Result<[Proxy; 2]> {
    let files = certificates::write(world.directory())?;
    let (outside, between) = match contestant {
        Contestant::ForwarderHttp2 => ("http2", "http2"),
        Contestant::ForwarderShared => ("http1", "http2"),
        _ => ("http1", "http1"),
    };
    let start = |host: &Host, args: &[&str], port: u16| {
        let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend(["--listen".to_owned(), format!("0.0.0.0:{port}")]);
        for (name, file) in [("anchors", &files.anchors), ("certificate", &files.certificate), ("key", &files.key)] {
            all.extend([format!("--{name}"), file.display().to_string()]);
        }
        Proxy::start(host, program, all, listens)
    };
    let target = server.address(Family::V4).to_string();
    let outbound = ["--tls", "send", "--accept", outside, "--send", between, "--target", &target];
    let inbound = ["--tls", "accept", "--accept", between, "--send", outside];
    Ok([start(client, &outbound, Options::OUTBOUND_PORT.get())?, start(server, &inbound, Options::INBOUND_PORT.get())?])
}

/// It has no page that tells: whoever takes connections is ready.
fn listens(host: &Host, proxy: &Proxy) -> bool {
    let addr = proxy.args.iter().skip_while(|arg| *arg != "--listen").nth(1);
    let Some(Ok(addr)) = addr.map(|addr| addr.replace("0.0.0.0", "127.0.0.1").parse()) else { return false };
    host.connect(addr, Duration::from_millis(100)).is_ok()
}
