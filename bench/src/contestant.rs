//! Who is measured: a pair of proxies between one client and one server, each pair in a world of its own, all alike.
//!
//! ```text
//!   client ──redirect──▶ outbound proxy ══ mutual TLS ══▶ redirect ──▶ inbound proxy ──▶ server
//!   load core            proxy core                                    proxy core         load core
//! ```

mod certificates;
mod envoy;
mod forwarder;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use weft_cli::mesh::workload::Member;
use weft_cli::mesh::{self, Mesh, Settings, service_ip};
use weft_cli::world::{Family, Host, PROXY_USER, Process, Stopwatch, World};

use crate::kernel::{self, Core};
use crate::programs::Programs;
use crate::server::{self, Servers};

/// The number of the Service that is asked; every contestant is asked at the same address.
const SERVICE: u8 = 10;
const NAMESPACE: &str = "bench";
const WITHIN: Duration = Duration::from_secs(30);
/// The two ends of a pair.
const ENDS: [&str; 2] = ["client", "server"];

/// One pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contestant {
    /// No proxy at all: the floor.
    Direct,
    /// Envoy, as sidecars are configured.
    Envoy,
    /// The bare forwarder, HTTP/1 between its two.
    ForwarderHttp1,
    /// The bare forwarder, HTTP/2 throughout.
    ForwarderHttp2,
    /// The bare forwarder, HTTP/1 carried over one shared HTTP/2 connection.
    ForwarderShared,
    /// Ours.
    Weft,
}

impl Contestant {
    /// All of them, in the order they are told.
    pub(crate) const ALL: [Self; 6] =
        [Self::Direct, Self::Envoy, Self::ForwarderHttp1, Self::ForwarderHttp2, Self::ForwarderShared, Self::Weft];

    /// What it is called.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Envoy => "Envoy",
            Self::ForwarderHttp1 => "bare HTTP/1",
            Self::ForwarderHttp2 => "bare HTTP/2",
            Self::ForwarderShared => "bare HTTP/1 in HTTP/2",
            Self::Weft => "Weft",
        }
    }

    /// Whether there are proxies, whose time and memory can be measured.
    pub(crate) fn has_proxies(self) -> bool {
        self != Self::Direct
    }

    /// Whether it is one of the limits and not a whole proxy.
    pub(crate) fn is_bare(self) -> bool {
        matches!(self, Self::ForwarderHttp1 | Self::ForwarderHttp2 | Self::ForwarderShared)
    }
}

/// A pair that runs.
#[derive(Debug)]
pub(crate) struct Stage<'w> {
    contestant: Contestant,
    /// Goes with the world.
    directory: PathBuf,
    client: Host,
    server: Host,
    servers: Servers,
    pair: Pair<'w>,
}

#[derive(Debug)]
enum Pair<'w> {
    Mesh(Box<Mesh<'w>>),
    None,
    Processes(Box<[Proxy; 2]>),
}

impl<'w> Stage<'w> {
    /// Starts servers and proxies in a world.
    pub(crate) fn open(world: &'w World, contestant: Contestant, programs: &Programs) -> anyhow::Result<Self> {
        if contestant == Contestant::Weft {
            return Self::open_mesh(world, programs);
        }
        let [client, server] = [world.host("client")?, world.host("server")?];
        let servers = Servers::start(world, &server)?;
        let directory = world.directory().to_owned();
        let stage = Self { contestant, directory, client, server, servers, pair: Pair::None };
        if !contestant.has_proxies() {
            return Ok(stage);
        }
        for host in [&stage.client, &stage.server] {
            redirect(host)?;
        }
        let pair = match contestant {
            Contestant::Envoy => envoy::start(world, [&stage.client, &stage.server], &programs.envoy)?,
            bare => forwarder::start(world, [&stage.client, &stage.server], bare, &programs.forwarder)?,
        };
        let stage = Self { pair: Pair::Processes(Box::new(pair)), ..stage };
        stage.pin()?;
        Ok(stage)
    }

    fn open_mesh(world: &'w World, programs: &Programs) -> anyhow::Result<Self> {
        // Everything at its default but what is alike for all: one worker, as the others have.
        let proxy_args = vec!["--workers".to_owned(), "1".to_owned()];
        let settings = Settings { log: "warn".to_owned(), proxy_args, ..Settings::new(Family::V4) };
        let mut mesh = Mesh::start(world, &programs.mesh, settings)?;
        let port = |(name, port): (&str, u16)| format!("{{name: {name}, port: {port}, targetPort: {port}}}");
        let ports = server::PORTS.map(port).join(", ");
        mesh.write("service.yaml", &mesh::service(NAMESPACE, "server", SERVICE, &format!("[{ports}]")))?;
        for name in ENDS {
            mesh.join(Member::new(NAMESPACE, name, name))?;
        }
        mesh.ready()?;
        let [client, server] = ENDS.map(|name| mesh.workload(name).map(|workload| workload.host().clone()));
        let (client, server) = (client?, server?);
        let servers = Servers::start(world, &server)?;
        let pair = Pair::Mesh(Box::new(mesh));
        let (contestant, directory) = (Contestant::Weft, world.directory().to_owned());
        let stage = Self { contestant, directory, client, server, servers, pair };
        stage.pin()?;
        Ok(stage)
    }

    /// Whose it is.
    pub(crate) fn contestant(&self) -> Contestant {
        self.contestant
    }

    /// Where loads start.
    pub(crate) fn client(&self) -> &Host {
        &self.client
    }

    /// A file that goes with the world.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What they reach.
    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Where a port of the server is asked for.
    pub(crate) fn socket(&self, port: u16) -> SocketAddr {
        let ip = match self.contestant {
            Contestant::Direct => self.server.address(Family::V4),
            _ => service_ip(SERVICE, Family::V4),
        };
        SocketAddr::new(ip, port)
    }

    /// The processes of the outbound and the inbound proxy.
    pub(crate) fn proxies(&self) -> anyhow::Result<[u32; 2]> {
        match &self.pair {
            Pair::None => anyhow::bail!("there is no proxy"),
            Pair::Processes(pair) => {
                let [outbound, inbound] = &**pair;
                Ok([outbound.process.id(), inbound.process.id()])
            }
            Pair::Mesh(mesh) => {
                let id = |name| mesh.workload(name)?.proxy_id().with_context(|| format!("no proxy beside {name}"));
                let [outbound, inbound] = ENDS.map(id);
                Ok([outbound?, inbound?])
            }
        }
    }

    /// CPU time that its proxies have used so far, in seconds; none without.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        if !self.contestant.has_proxies() {
            return Ok(0.0);
        }
        self.proxies()?.into_iter().map(kernel::cpu_seconds).sum()
    }

    /// Has both hosts use a port again a second after its connection has ended: a minute later there would be none left.
    pub(crate) fn reuse_ports(&self) -> anyhow::Result<()> {
        [&self.client, &self.server].into_iter().try_for_each(|host| {
            let reuse = || std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
            host.run(reuse)?.with_context(|| format!("setting tcp_tw_reuse of {}", host.name()))
        })
    }

    /// Starts the outbound proxy again; returns how long it took to be ready.
    pub(crate) fn restart(&mut self) -> anyhow::Result<Duration> {
        let took = match &mut self.pair {
            Pair::None => anyhow::bail!("there is no proxy"),
            Pair::Mesh(mesh) => {
                mesh.workload_mut("client")?.kill_proxy()?;
                let watch = Stopwatch::start();
                let workload = mesh.start_again("client")?;
                kernel::until("a proxy's readiness", WITHIN, || workload.is_ready())?;
                watch.elapsed()
            }
            Pair::Processes(pair) => {
                let [outbound, _] = &mut **pair;
                outbound.process.kill()?;
                let watch = Stopwatch::start();
                outbound.start_again(&self.client)?;
                watch.elapsed()
            }
        };
        self.pin()?;
        Ok(took)
    }

    fn pin(&self) -> anyhow::Result<()> {
        self.proxies()?.into_iter().try_for_each(|id| kernel::pin(id, Core::Proxies))
    }
}

/// The same redirect for all, the mesh's own.
fn redirect(host: &Host) -> anyhow::Result<()> {
    let options = weft_init::Options::default();
    host.run(|| weft_init::apply(&options))?.with_context(|| format!("redirecting the traffic of {}", host.name()))
}

/// A proxy that is not ours.
#[derive(Debug)]
struct Proxy {
    process: Process,
    program: PathBuf,
    args: Vec<String>,
    /// Whether it serves by now.
    ready: fn(&Host, &Self) -> bool,
}

impl Proxy {
    /// Starts a program as the user whose connections are not redirected, and waits until it is ready.
    fn start(host: &Host, program: &Path, args: Vec<String>, ready: fn(&Host, &Self) -> bool) -> anyhow::Result<Self> {
        let process = launch(host, program, &args)?;
        let proxy = Self { process, program: program.to_owned(), args, ready };
        proxy.wait(host)?;
        Ok(proxy)
    }

    fn start_again(&mut self, host: &Host) -> anyhow::Result<()> {
        self.process = launch(host, &self.program, &self.args)?;
        self.wait(host)
    }

    fn wait(&self, host: &Host) -> anyhow::Result<()> {
        let what = format!("the readiness of {}", self.process.name());
        let ready = kernel::until(&what, WITHIN, || (self.ready)(host, self));
        ready.with_context(|| self.process.log())
    }
}

fn launch(host: &Host, program: &Path, args: &[String]) -> anyhow::Result<Process> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    host.launch(&name, program).args(args).user(PROXY_USER).start()
}
