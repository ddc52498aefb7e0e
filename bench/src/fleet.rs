//! The control plane under a fleet of simulated proxies: real gRPC streams over real TLS, each with a certificate of its own.
//!
//! The control plane has the proxies' core for itself, and the fleet the other one. What is measured is what people wait for: from a
//! file that changes until the last proxy has acknowledged what follows from it.

mod moves;
pub(crate) mod proxy;
mod resources;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use weft_cli::mesh::scrape::Scrape;
use weft_cli::mesh::{Mesh, Settings};
use weft_cli::world::{Family, Host, Stopwatch, World, pause, wait_for};
use weft_control_plane::ca::{Authority, Settings as AuthoritySettings};
use weft_model::TrustDomain;
use weft_runtime::clock::WallClock;
use weft_tests::memory::memory;
use weft_tls::MeshTls;

use self::moves::Moves;
use self::proxy::Proxy;
pub(crate) use self::resources::Size;
use crate::figure::Samples;
use crate::kernel::{self, Core};
use crate::load::float;
use crate::programs::Programs;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the control plane does after a burst is over by then.
const SETTLE: Duration = Duration::from_secs(2);
/// Certificates that are asked for at once.
const RENEWERS: usize = 32;

/// What was measured of a control plane with a mesh of one size.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) size: Size,
    /// From a change to the last acknowledgement, in ms.
    pub(crate) change: Samples,
    /// CPU time of a change, in ms.
    pub(crate) change_cpu: f64,
    /// What is resident without services and proxies, with the services, and with everything, in MiB.
    pub(crate) rss: [f64; 3],
    /// After a crash, from its start until all proxies are back and have what they asked for, in s.
    pub(crate) storm: f64,
    /// The most that was resident meanwhile, in MiB.
    pub(crate) storm_peak: f64,
    /// Certificates in a second.
    pub(crate) certificates: f64,
}

/// Measures one size: `changes` changes, and certificates for `length`.
pub(crate) fn measure(
    world: &World,
    programs: &Programs,
    size: Size,
    changes: usize,
    length: Duration,
) -> anyhow::Result<Measured> {
    ensure!(size.services > 1, "a fleet asks for two services or more");
    let settings = Settings { log: "warn".to_owned(), ..Settings::new(Family::V4) };
    let mut mesh = Mesh::start(world, &programs.mesh, settings)?;
    pin(&mut mesh)?;
    pause(SETTLE)?;
    let rest = resident(&mut mesh)?;
    size.write_services(&mesh)?;
    known(&mesh, size.services)?;
    pause(SETTLE)?;
    let services = resident(&mut mesh)?;
    size.write_workloads(&mesh)?;
    resources::change(&mesh, 0)?;
    known(&mesh, size.services + size.proxies + 1)?;
    let proxies = proxies(&mesh, size)?;
    let fleet = Fleet::start(world.host("fleet")?, proxies.clone())?;
    fleet.wait()?;
    pause(SETTLE)?;
    let everything = resident(&mut mesh)?;
    let (change, change_cpu) = fleet.change(&mut mesh, changes)?;
    let (storm, storm_peak) = fleet.storm(&mut mesh)?;
    let certificates = certificates(&fleet.host, &proxies, length)?;
    Ok(Measured { size, change, change_cpu, rss: [rest, services, everything], storm, storm_peak, certificates })
}

/// Simulated proxies that run.
#[derive(Debug)]
struct Fleet {
    host: Host,
    size: usize,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What the proxies of a fleet tell.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Proxies that have all that they asked for on their present stream.
    pub(crate) synced: AtomicUsize,
    /// Endpoints that move, and who has heard of it.
    pub(crate) moves: Moves,
    /// Why a stream ended or did not begin, the last time.
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn note(&self, error: &anyhow::Error) {
        if let Ok(mut trouble) = self.trouble.lock() {
            *trouble = Some(format!("{error:#}"));
        }
    }

    /// The last that was noted.
    pub(crate) fn trouble(&self) -> String {
        self.trouble.lock().ok().and_then(|trouble| trouble.clone()).unwrap_or_default()
    }
}

impl Fleet {
    fn start(host: Host, proxies: Vec<Proxy>) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (stop, mut stopped) = watch::channel(false);
        let size = proxies.len();
        let run = {
            let (host, shared) = (host.clone(), Arc::clone(&shared));
            move || {
                host.block_on(|| async {
                    let mut running = JoinSet::new();
                    for proxy in proxies {
                        let shared = Arc::clone(&shared);
                        running.spawn(async move { proxy.run(&shared).await });
                    }
                    // Either it is told, or nobody is there to tell it any more.
                    drop(stopped.wait_for(|stopped| *stopped).await);
                })
            }
        };
        let thread = std::thread::Builder::new().name("fleet".to_owned()).spawn(run).context("starting a thread")?;
        Ok(Self { host, size, shared, stop, thread: Some(thread) })
    }

    /// Waits until every proxy has what it asked for.
    fn wait(&self) -> anyhow::Result<()> {
        let synced = || self.shared.synced.load(Ordering::Relaxed);
        let done = kernel::until("proxies with all that they asked for", PATIENCE, || synced() == self.size);
        done.with_context(|| format!("{} of {}; the last trouble: {}", synced(), self.size, self.shared.trouble()))
    }

    /// Moves an endpoint that everybody asks for, again and again: how long each took until the last acknowledgement in ms, and the
    /// CPU time of one in ms.
    fn change(&self, mesh: &mut Mesh<'_>, changes: usize) -> anyhow::Result<(Samples, f64)> {
        let mut took = Samples::default();
        let begun = kernel::cpu_seconds(id(mesh)?)?;
        for n in 1..=changes {
            let to = resources::moved_to(mesh, n)?;
            let watch = Stopwatch::start();
            self.shared.moves.begin(&to);
            resources::change(mesh, n)?;
            let acknowledged = || self.shared.moves.heard(&to);
            let done = kernel::until("the last acknowledgement", PATIENCE, || acknowledged() >= self.size);
            done.with_context(|| format!("change {n}: {} of {}", acknowledged(), self.size))?;
            took.add(watch.elapsed().as_secs_f64() * 1e3);
        }
        let cpu = kernel::cpu_seconds(id(mesh)?)? - begun;
        Ok((took, cpu * 1e3 / float(changes as u64)))
    }

    /// Kills the control plane and starts it again: how long until all proxies are back, in s, and its peak of memory in MiB.
    fn storm(&self, mesh: &mut Mesh<'_>) -> anyhow::Result<(f64, f64)> {
        mesh.control_mut().kill()?;
        let synced = || self.shared.synced.load(Ordering::Relaxed);
        kernel::until("proxies to notice that the control plane is gone", PATIENCE, || synced() == 0)?;
        let watch = Stopwatch::start();
        mesh.control_mut().start()?;
        pin(mesh)?;
        self.wait()?;
        let took = watch.elapsed().as_secs_f64();
        Ok((took, memory(id(mesh)?)?.peak))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // Whether it panicked or not, what it did is over.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// How many certificates are issued in a second, each over a connection of its own.
fn certificates(host: &Host, proxies: &[Proxy], length: Duration) -> anyhow::Result<f64> {
    let issued = AtomicUsize::new(0);
    let watch = Stopwatch::start();
    host.block_on(|| async {
        let end = Instant::now() + length;
        let each = |first: usize| {
            let issued = &issued;
            async move {
                for proxy in proxies.iter().cycle().skip(first) {
                    let Ok(renewed) = timeout_at(end, proxy.renew()).await else { break };
                    renewed?;
                    issued.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            }
        };
        futures::future::try_join_all((0..RENEWERS).map(each)).await
    })?
    .context("renewing a certificate")?;
    Ok(float(issued.into_inner() as u64) / watch.elapsed().as_secs_f64())
}

/// The proxies, each with a certificate that the control plane's own authority signed.
fn proxies(mesh: &Mesh<'_>, size: Size) -> anyhow::Result<Vec<Proxy>> {
    let domain = TrustDomain::default();
    let directory = &mesh.control().directories().authority;
    let now = WallClock::system().unix_seconds();
    let authority = Authority::open(directory, AuthoritySettings::new(domain.clone()), now)?;
    let control: SocketAddr = mesh.control().addr();
    let proxy = |i| {
        let (name, identity) = (resources::name(i), resources::identity(i)?);
        let tls = MeshTls::new(domain.clone());
        let credentials = authority.credentials(&identity, now)?;
        tls.publish(credentials, authority.bundle().as_ref().clone())?;
        let namespace = resources::NAMESPACE;
        Ok(Proxy { namespace, name, uid: String::new(), identity, control, tls, keys: size.subscriptions(i) })
    };
    (0..size.proxies).map(proxy).collect()
}

/// Waits until the control plane has taken in so many resources.
fn known(mesh: &Mesh<'_>, count: usize) -> anyhow::Result<()> {
    let known = || {
        let page = mesh.control().get("/metrics").ok()?.success().ok()?;
        Some(Scrape::parse(&page).ok()?.count("weft_control_plane_resources", &[("accepted", "true")]))
    };
    let done = wait_for("the control plane to know its resources", PATIENCE, || {
        known().filter(|known| *known >= count as u64)
    });
    done.map(drop).with_context(|| format!("{:?} of {count}", known()))
}

fn id(mesh: &mut Mesh<'_>) -> anyhow::Result<u32> {
    Ok(mesh.control_mut().process().context("the control plane does not run")?.id())
}

fn resident(mesh: &mut Mesh<'_>) -> anyhow::Result<f64> {
    Ok(memory(id(mesh)?)?.rss)
}

fn pin(mesh: &mut Mesh<'_>) -> anyhow::Result<()> {
    kernel::pin(id(mesh)?, Core::Proxies)
}
