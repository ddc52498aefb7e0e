//! Twice as much as a proxy may take at once: what is let in must not suffer from what is not, which is told so at once.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use weft_cli::mesh::workload::Member;
use weft_cli::mesh::{self, Mesh, Settings, service_ip};
use weft_cli::world::{Family, Host, World, pause};
use weft_tests::echo::Version;
use weft_tests::steady::{Asked, Pace, Steady};

use crate::figure::Samples;
use crate::kernel::{self, Core};
use crate::load::{RUN_IN, float};
use crate::programs::Programs;

const NAMESPACE: &str = "bench";
const SERVICE: u8 = 10;
const PORT: u16 = 80;
/// Requests that a proxy takes at once, and how long the server takes for each: together its capacity, far below what the
/// processor could do, so that nothing but the limit decides.
const AT_ONCE: u32 = 64;
const SERVED_IN: Duration = Duration::from_millis(20);
const CAPACITY: u32 = AT_ONCE * 50;
/// What a request beyond the limit is told.
const REFUSAL: &str = "503 overloaded";

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// p99 of what was admitted at twice the capacity, as a multiple of that at half of it.
    pub(crate) p99: f64,
    /// Requests that failed in another way than by a refusal that says why.
    pub(crate) others: f64,
}

/// Asks for half of what is admitted, and for twice as much, for a while each.
pub(crate) fn measure(world: &World, programs: &Programs, length: Duration) -> anyhow::Result<Measured> {
    let proxy_args = ["--workers", "1", "--max-requests", &AT_ONCE.to_string()].map(str::to_owned).to_vec();
    let settings = Settings { log: "warn".to_owned(), proxy_args, ..Settings::new(Family::V4) };
    let mut mesh = Mesh::start(world, &programs.mesh, settings)?;
    mesh.write("service.yaml", &mesh::service(NAMESPACE, "server", SERVICE, "[{name: http, port: 80}]"))?;
    for name in ["client", "server"] {
        mesh.join(Member::new(NAMESPACE, name, name))?;
    }
    mesh.ready()?;
    for workload in mesh.workloads() {
        kernel::pin(workload.proxy_id().context("a workload without a proxy")?, Core::Proxies)?;
    }
    serve(mesh.workload("server")?.host().clone())?;
    let client = mesh.workload("client")?.host();
    let half = ask(client, CAPACITY / 2, length)?;
    let twice = ask(client, CAPACITY * 2, length)?;
    let (calm, busy) = (p99(&half)?, p99(&twice)?);
    let refused = twice.iter().filter(|one| is_refused(one)).count();
    ensure!(refused > 0, "nothing was refused at twice the capacity");
    let is_other = |one: &&Asked| one.answered.is_err() && !is_refused(one);
    // At half of the capacity there is no reason for a refusal either.
    let others = half.iter().filter(|one| one.answered.is_err()).count() + twice.iter().filter(is_other).count();
    Ok(Measured { p99: busy / calm, others: float(others as u64) })
}

fn ask(client: &Host, rate: u32, length: Duration) -> anyhow::Result<Vec<Asked>> {
    let to = (service_ip(SERVICE, Family::V4), PORT).into();
    let load = Steady::start(client, Pace { version: Version::Http1, to, rate, length_max: length * 10 })?;
    pause(RUN_IN + length)?;
    let mut asked = load.finish()?;
    asked.retain(|one| one.begun >= RUN_IN);
    Ok(asked)
}

fn is_refused(one: &Asked) -> bool {
    one.answered.as_ref().is_err_and(|told| told == REFUSAL)
}

/// In seconds, of what was answered.
fn p99(asked: &[Asked]) -> anyhow::Result<f64> {
    let mut took = Samples::default();
    asked.iter().filter(|one| one.answered.is_ok()).for_each(|one| took.add(one.took.as_secs_f64()));
    took.p99().context("nothing was answered")
}

/// A server that takes its time, for as long as its host lives.
fn serve(host: Host) -> anyhow::Result<()> {
    let listener = host.listen(host.socket(Family::V4, PORT))?;
    let run = move || host.block_on(|| answer_all(listener));
    std::thread::Builder::new().name("server".to_owned()).spawn(run).context("starting a thread")?;
    Ok(())
}

async fn answer_all(listener: std::net::TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let (listener, mut connections) = (TcpListener::from_std(listener)?, JoinSet::new());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = service_fn(|_request| async {
            sleep(SERVED_IN).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}
