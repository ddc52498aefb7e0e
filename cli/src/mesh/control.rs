//! The control plane of a mesh: its process, its directories, and what it says about itself.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use weft_control_plane::token::{TokenKey, TokenSpec};
use weft_model::{SpiffeId, TrustDomain};
use weft_runtime::clock::WallClock;

use super::http::{self, Answer};
use super::status::Status;
use super::{Settings, WITHIN};
use crate::world::{Host, Process, World, wait_for};

/// Where proxies find it (design §2).
pub const PORT: u16 = 14010;

/// Where people find it; on loopback.
pub const ADMIN_PORT: u16 = 14011;

/// How long a join token of ours is good: a proxy uses it within seconds.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// The control plane.
#[derive(Debug)]
pub struct ControlPlane {
    host: Host,
    program: PathBuf,
    settings: Settings,
    directories: Directories,
    networks: String,
    process: Option<Process>,
}

/// What it reads and writes.
#[derive(Clone, Debug)]
pub struct Directories {
    /// The YAML files.
    pub resources: PathBuf,
    /// The certificate authority's and the join tokens'.
    pub authority: PathBuf,
    /// One status file for each resource.
    pub status: PathBuf,
}

impl Directories {
    fn create(parent: &Path) -> anyhow::Result<Self> {
        let make = |name: &str| {
            let path = parent.join(name);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display())).map(|()| path)
        };
        Ok(Self { resources: make("resources")?, authority: make("authority")?, status: make("status")? })
    }
}

impl ControlPlane {
    pub(super) fn new(
        world: &World,
        program: PathBuf,
        settings: &Settings,
        services: [&str; 2],
    ) -> anyhow::Result<Self> {
        let host = world.host("control-plane")?;
        let directories = Directories::create(world.directory())?;
        let networks = world.networks().iter().map(String::as_str).chain(services).collect::<Vec<_>>().join(",");
        Ok(Self { host, program, settings: settings.clone(), directories, networks, process: None })
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It ended, or does not serve in time; the error holds its log.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let Directories { resources, authority, status } = &self.directories;
        let launch = self.host.launch("weft-control-plane", &self.program);
        let launch = launch.arg("--source").arg(format!("directory:{}", resources.display()));
        let launch = launch.arg("--ca-dir").arg(authority).arg("--status-dir").arg(status);
        let launch = launch.args(["--trust-domain", TRUST_DOMAIN, "--networks", &self.networks]);
        let launch = launch.arg("--listen").arg(self.addr().to_string());
        let launch = launch.arg("--admin").arg(Self::admin_addr().to_string());
        let life = format!("{}s", self.settings.leaf_life.as_secs());
        let mut process = launch.args(["--leaf-lifetime", &life]).env("WEFT_LOG", &self.settings.log).start()?;
        let ready = wait_for("the control plane's readiness", WITHIN, || match process.is_running() {
            Ok(true) => self.get("/ready").ok().filter(|answer| answer.status == 200).map(|_| true),
            Ok(false) | Err(_) => Some(false),
        });
        match ready {
            Ok(true) => {}
            Ok(false) => anyhow::bail!("the control plane ended:\n{}", process.log()),
            Err(error) => return Err(error.context(process.log())),
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the control plane does not run")?.kill()
    }

    /// Where it lives.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its process, while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// What it reads and writes.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Where proxies find it.
    pub fn addr(&self) -> SocketAddr {
        self.host.socket(self.settings.family, PORT)
    }

    /// Where people find it, from inside its host.
    pub fn admin_addr() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT))
    }

    /// Asks one of its pages.
    ///
    /// # Errors
    /// It does not answer.
    pub fn get(&self, path: &str) -> anyhow::Result<Answer> {
        http::get(&self.host, Self::admin_addr(), path)
    }

    /// What it says of every resource.
    ///
    /// # Errors
    /// It does not answer, or with something else.
    pub fn status(&self) -> anyhow::Result<Status> {
        Status::parse(&self.get("/status")?.success()?)
    }

    /// Begins to replace trust anchor and issuer; goes on by itself from there.
    ///
    /// # Errors
    /// It does not answer, or a rotation is under way.
    pub fn rotate_anchor(&self) -> anyhow::Result<()> {
        self.post("/rotate-anchor")
    }

    /// Replaces the issuer under the same anchor.
    ///
    /// # Errors
    /// It does not answer.
    pub fn rotate_issuer(&self) -> anyhow::Result<()> {
        self.post("/rotate-issuer")
    }

    fn post(&self, path: &str) -> anyhow::Result<()> {
        http::change(&self.host, Self::admin_addr(), "POST", path, "")?.success().map(drop)
    }

    /// How far the replacement of the anchor is.
    ///
    /// # Errors
    /// It does not answer.
    pub fn rotation(&self) -> anyhow::Result<Rotation> {
        let page = self.get("/rotation")?.success()?;
        serde_json::from_str(&page).context("the rotation is not what a control plane of this version says")
    }

    /// The trust anchors in force, PEM.
    ///
    /// # Errors
    /// There are none yet.
    pub fn anchors(&self) -> anyhow::Result<String> {
        let path = self.directories.authority.join("anchors.pem");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Mints a join token, as `weft token create` does.
    ///
    /// # Errors
    /// The key cannot be read.
    pub fn mint(&self, identity: &SpiffeId) -> anyhow::Result<String> {
        let key = TokenKey::open(&self.directories.authority).context("opening the key of join tokens")?;
        let spec = TokenSpec { identity: identity.clone(), life: TOKEN_LIFE, uses: 1 };
        key.mint(&spec, WallClock::system().unix_seconds()).context("minting a join token")
    }
}

/// How far the replacement of the anchor is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// `Steady`, `Overlap` or `Retiring`.
    pub state: String,
    /// The anchors in the bundle.
    pub anchors: Vec<String>,
    /// What it waits for, in words; empty for nothing.
    pub waits_for: String,
}

/// The trust domain of every mesh made here.
pub(super) const TRUST_DOMAIN: &str = "cluster.local";

/// The identity of a service account.
///
/// # Errors
/// A name that Kubernetes does not allow.
pub fn identity(namespace: &str, service_account: &str) -> anyhow::Result<SpiffeId> {
    let domain: TrustDomain = TRUST_DOMAIN.parse().context("the trust domain")?;
    SpiffeId::new(&domain, namespace, service_account).context("an identity")
}
