//! Worlds: hosts with addresses of their own, joined by one fabric, on one machine, made of network namespaces.
//!
//! Made without the programs `ip` and `nft`, as root or inside a user namespace, and gone without a trace: a namespace lives as
//! long as a thread or a descriptor of this process holds it, and every process started in a world dies with the thread that
//! started it. It is not a container engine: files, process ids and users are shared with the machine.
//!
//! ```text
//!   host a            host b            host c          every host: lo, eth0, default route by the fabric's address, so that
//!   eth0              eth0              eth0            service addresses, which nobody owns, leave and are redirected
//!     └──── veth ───────┼─────────────────┘
//!                     fabric: bridge weft0, 10.77.0.1, fd77::1
//! ```

mod capture;
mod enter;
mod link;
mod namespace;
mod netlink;
mod process;
mod wait;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

pub use capture::Capture;
pub use enter::{Privilege, enter, run_internal};
use namespace::Namespace;
pub use process::{Finished, Launch, Process};
pub use wait::{Interrupted, Stopwatch, interrupt, is_interrupted, pause, wait_for};

/// The user that the proxy runs as where more than one user id exists (design §2).
pub const PROXY_USER: u32 = 2140;

/// Prefix lengths of the fabric's two networks.
const PREFIX_V4: u8 = 16;
const PREFIX_V6: u8 = 64;

/// The bridge's index in the fabric, and `eth0`'s in every host: index 1 is `lo`.
const FIRST_INDEX: u32 = 2;

/// The fabric's ports are numbered from here, one a host.
const PORT_INDEX: u32 = 100;

/// Hosts that one world can hold: the bridge takes 1,023 ports.
const HOSTS_MAX: u16 = 1000;

/// A family of addresses; scenarios run once in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

/// One fabric and what is joined to it. Dropping it ends every process that was started in it.
#[derive(Debug)]
pub struct World {
    shared: Arc<Shared>,
    next: AtomicU16,
}

/// What hosts need of their world; it goes when the world and the last host are gone.
#[derive(Debug)]
struct Shared {
    fabric: Namespace,
    privilege: Privilege,
    /// Logs, and what scenarios keep.
    directory: TempDir,
    /// Names of processes, with their logs, in the order they were started.
    logs: Mutex<Vec<(String, PathBuf)>>,
}

impl World {
    /// Makes an empty world.
    ///
    /// # Errors
    /// The kernel refused a namespace or a bridge.
    pub fn new(privilege: Privilege) -> anyhow::Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("weft-world-").tempdir().context("making a directory for the world")?;
        // Programs that run as another user write their logs and read their tokens here; what is secret has its own mode.
        open_to_all(directory.path())?;
        let fabric = Namespace::new("fabric").context("making the fabric")?;
        fabric.run(|| {
            link::set_up(link::LOOPBACK)?;
            link::create_bridge(FIRST_INDEX, "weft0")?;
            link::add_address(FIRST_INDEX, gateway(Family::V4), PREFIX_V4)?;
            if link::has_ipv6() {
                link::add_address(FIRST_INDEX, gateway(Family::V6), PREFIX_V6)?;
            }
            link::set_up(FIRST_INDEX)
        })??;
        let shared = Shared { fabric, privilege, directory, logs: Mutex::new(Vec::new()) };
        Ok(Self { shared: Arc::new(shared), next: AtomicU16::new(0) })
    }

    /// Adds a host with the next free address of each family.
    ///
    /// # Errors
    /// The world is full, or the kernel refused the namespace or its link.
    pub fn host(&self, name: &str) -> anyhow::Result<Host> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(number < HOSTS_MAX, "a world holds {HOSTS_MAX} hosts");
        Host::join(Arc::clone(&self.shared), name, number).with_context(|| format!("making host {name}"))
    }

    /// How the world came to its rights, which decides how the redirect knows the proxy.
    pub fn privilege(&self) -> Privilege {
        self.shared.privilege
    }

    /// A directory that lives as long as the world. Everybody on the machine may enter it.
    pub fn directory(&self) -> &Path {
        self.shared.directory.path()
    }

    /// The networks of the fabric, as `address/length`.
    pub fn networks(&self) -> [String; 2] {
        [format!("10.77.0.0/{PREFIX_V4}"), format!("fd77::/{PREFIX_V6}")]
    }

    /// Begins to keep every packet that passes the fabric.
    ///
    /// # Errors
    /// The kernel refused a packet socket.
    pub fn capture(&self) -> anyhow::Result<Capture> {
        Capture::start(&self.shared.fabric)
    }

    /// The last lines of every log, for a person who wants to know why a scenario failed.
    pub fn logs(&self, lines_max: usize) -> String {
        let logs = self.shared.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (name, path) in logs.iter() {
            let log = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(lines_max)) {
                text.extend([name.as_str(), " | ", line, "\n"]);
            }
        }
        text
    }
}

/// One host: a network namespace with `lo`, `eth0`, an address of each family and a default route.
#[derive(Clone, Debug)]
pub struct Host {
    shared: Arc<Shared>,
    namespace: Arc<Namespace>,
    name: String,
    number: u16,
}

impl Host {
    fn join(shared: Arc<Shared>, name: &str, number: u16) -> anyhow::Result<Self> {
        let namespace = Arc::new(Namespace::new(name)?);
        let host = Self { shared, namespace, name: name.to_owned(), number };
        let port = link::Veth {
            index: PORT_INDEX + u32::from(number),
            name: &format!("port{number}"),
            bridge: FIRST_INDEX,
            peer_index: FIRST_INDEX,
            peer_name: "eth0",
            peer_namespace: host.namespace.handle().as_fd(),
        };
        host.shared.fabric.run(|| {
            link::create_veth(&port)?;
            link::set_up(port.index)
        })??;
        host.run(|| {
            link::set_up(link::LOOPBACK)?;
            link::add_address(FIRST_INDEX, host.address(Family::V4), PREFIX_V4)?;
            if link::has_ipv6() {
                link::add_address(FIRST_INDEX, host.address(Family::V6), PREFIX_V6)?;
            }
            link::set_up(FIRST_INDEX)?;
            link::add_default_route(FIRST_INDEX, gateway(Family::V4))?;
            if link::has_ipv6() { link::add_default_route(FIRST_INDEX, gateway(Family::V6)) } else { Ok(()) }
        })??;
        Ok(host)
    }

    /// What it is called in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in one family.
    pub fn address(&self, family: Family) -> IpAddr {
        // .0 and .1 are the network's and the fabric's; hosts begin at .2.
        let number = self.number + 2;
        match family {
            Family::V4 => {
                let [high, low] = number.to_be_bytes();
                Ipv4Addr::new(10, 77, high, low).into()
            }
            Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number).into(),
        }
    }

    /// Its address in one family, with a port.
    pub fn socket(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// Runs a function on a thread of its own inside the host. Sockets opened there stay the host's wherever they are used.
    ///
    /// A panic inside goes on in the caller.
    ///
    /// # Errors
    /// The thread could not be started, or not enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.namespace.run(work)
    }

    /// Runs a future to its end inside the host, on a runtime of its own. A panic inside goes on in the caller.
    ///
    /// # Errors
    /// As [`run`](Self::run), or the runtime could not be built.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> anyhow::Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            Ok(runtime.context("building a runtime")?.block_on(work()))
        })?
    }

    /// Connects from this host.
    ///
    /// # Errors
    /// The connection was refused or took longer than `within`.
    pub fn connect(&self, to: SocketAddr, within: Duration) -> anyhow::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, within))?
            .with_context(|| format!("connecting from {} to {to}", self.name))
    }

    /// Listens on this host.
    ///
    /// # Errors
    /// The address is taken or not the host's.
    pub fn listen(&self, on: SocketAddr) -> anyhow::Result<TcpListener> {
        self.run(|| TcpListener::bind(on))?.with_context(|| format!("listening on {on} in {}", self.name))
    }

    /// Prepares a process in this host; `name` is for logs.
    pub fn launch(&self, name: &str, program: impl AsRef<Path>) -> Launch<'_> {
        Launch::new(self, name, program.as_ref())
    }

    /// Cuts the host off as a pulled plug does, or plugs it in again: packets are lost both ways, nobody is told.
    ///
    /// # Errors
    /// The kernel refused to change the port.
    pub fn unplug(&self, unplugged: bool) -> anyhow::Result<()> {
        let port = PORT_INDEX + u32::from(self.number);
        self.shared.fabric.run(|| link::set_forwarding(port, !unplugged))?
    }
}

/// The fabric's own address.
fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 77, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn open_to_all(directory: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory, mode).with_context(|| format!("opening {} to all", directory.display()))
}
