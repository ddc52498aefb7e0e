//! A whole mesh in a world: a control plane and any number of workloads, each with its redirect, its proxy and its application.
//!
//! The demo and the whole-system tests both play in it. It knows how the parts are started and asked; it claims nothing about
//! what they should do. Everything in it ends with the value.

pub mod control;
pub mod http;
pub mod programs;
pub mod scrape;
pub mod status;
pub mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use self::control::ControlPlane;
use self::programs::Programs;
use self::scrape::Scrape;
use self::status::Status;
use self::workload::{App, Member, Place, Workload};
use crate::world::{Family, Stopwatch, World, wait_for};

/// Longest that a part of a mesh may take to do what it was asked to; the machine may be busy.
pub const WITHIN: Duration = Duration::from_secs(30);

/// The networks that services have addresses of.
const SERVICE_NETWORKS: [&str; 2] = ["10.96.0.0/16", "fd96::/112"];

/// How a mesh is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The family of its workloads' addresses.
    pub family: Family,
    /// How long certificates live.
    pub leaf_life: Duration,
    /// What its programs log.
    pub log: String,
    /// Further arguments of every proxy.
    pub proxy_args: Vec<String>,
}

impl Settings {
    /// Certificates of an hour and logs at `info`.
    pub fn new(family: Family) -> Self {
        Self { family, leaf_life: Duration::from_secs(3600), log: "info".to_owned(), proxy_args: Vec::new() }
    }
}

/// A mesh.
#[derive(Debug)]
pub struct Mesh<'w> {
    world: &'w World,
    settings: Settings,
    control: ControlPlane,
    proxy_program: PathBuf,
    anchors: PathBuf,
    tokens: PathBuf,
    workloads: BTreeMap<String, Workload>,
}

impl<'w> Mesh<'w> {
    /// Starts a control plane in a world.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub fn start(world: &'w World, programs: &Programs, settings: Settings) -> anyhow::Result<Self> {
        let proxy_program = programs.find("weft-proxy")?;
        let program = programs.find("weft-control-plane")?;
        let mut control = ControlPlane::new(world, program, &settings, SERVICE_NETWORKS)?;
        control.start()?;
        let (anchors, tokens) = (world.directory().join("anchors.pem"), world.directory().join("tokens"));
        fs::write(&anchors, control.anchors()?).context("handing out the trust anchors")?;
        fs::create_dir(&tokens).context("creating a directory for tokens")?;
        Ok(Self { world, settings, control, proxy_program, anchors, tokens, workloads: BTreeMap::new() })
    }

    /// The world it lives in.
    pub fn world(&self) -> &'w World {
        self.world
    }

    /// How it was meant to be.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The control plane.
    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// The control plane, to do something to it.
    pub fn control_mut(&mut self) -> &mut ControlPlane {
        &mut self.control
    }

    /// Adds a workload and starts its proxy; [`ready`](Self::ready) waits for it.
    ///
    /// # Errors
    /// The kernel refused its host or its redirect, or the proxy cannot be started.
    pub fn join(&mut self, member: Member) -> anyhow::Result<&mut Workload> {
        let host = self.world.host(&member.name)?;
        let name = member.name.clone();
        let address = host.address(self.settings.family);
        self.write(&format!("workload-{name}.yaml"), &member.yaml(address))?;
        let place = Place {
            settings: &self.settings,
            program: &self.proxy_program,
            anchors: &self.anchors,
            tokens: &self.tokens,
        };
        let mut workload = Workload::new(member, host, self.world.privilege(), place)?;
        workload.start_proxy(&self.control)?;
        Ok(self.workloads.entry(name).insert_entry(workload).into_mut())
    }

    /// Waits until every proxy that runs says that it is ready.
    ///
    /// # Errors
    /// One is not ready in time, or has ended; the error holds its log.
    pub fn ready(&mut self) -> anyhow::Result<()> {
        for workload in self.workloads.values_mut() {
            let what = format!("the readiness of the proxy of {}", workload.member().name);
            let ready = wait_for(&what, WITHIN, || {
                let running = workload.proxy().is_some_and(|proxy| proxy.is_running().unwrap_or(false));
                if running { workload.is_ready().then_some(true) } else { Some(false) }
            });
            let log = |workload: &mut Workload| workload.proxy().map_or_else(String::new, |proxy| proxy.log());
            match ready {
                Ok(true) => {}
                Ok(false) => anyhow::bail!("{what}: it does not run\n{}", log(workload)),
                Err(error) => return Err(error.context(log(workload))),
            }
        }
        Ok(())
    }

    /// A workload.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn workload(&self, name: &str) -> anyhow::Result<&Workload> {
        self.workloads.get(name).with_context(|| format!("there is no workload {name}"))
    }

    /// A workload, to do something to it.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn workload_mut(&mut self, name: &str) -> anyhow::Result<&mut Workload> {
        self.workloads.get_mut(name).with_context(|| format!("there is no workload {name}"))
    }

    /// All workloads, by name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    /// Starts what was killed of a workload, with a fresh join token, and waits until its proxy is ready.
    ///
    /// # Errors
    /// It cannot be started or is not ready in time.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let workload = self.start_again(name)?;
        wait_for(&format!("the readiness of {name}"), WITHIN, || workload.is_ready().then_some(()))
    }

    /// Starts what was killed of a workload, with a fresh join token, and does not wait.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_again(&mut self, name: &str) -> anyhow::Result<&mut Workload> {
        let workload = self.workloads.get_mut(name).with_context(|| format!("there is no workload {name}"))?;
        workload.start_apps()?;
        if workload.proxy().is_none() {
            workload.start_proxy(&self.control)?;
        }
        Ok(workload)
    }

    /// Starts an application in a workload.
    ///
    /// # Errors
    /// There is no such workload, or the program cannot be started.
    pub fn start_app(&mut self, workload: &str, app: App) -> anyhow::Result<()> {
        self.workload_mut(workload)?.start_app(app)
    }

    /// What every proxy counts, by workload.
    ///
    /// # Errors
    /// One proxy or more does not answer: figures without it would be wrong.
    pub fn scrape(&self) -> anyhow::Result<BTreeMap<String, Scrape>> {
        let each = self.workloads.iter().map(|(name, workload)| Ok((name.clone(), workload.scrape()?)));
        each.collect()
    }

    /// Where a resource file lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.control.directories().resources.join(name)
    }

    /// Writes a resource file, at once as an editor does by renaming.
    ///
    /// # Errors
    /// The disk refused.
    pub fn write(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let path = self.file(name);
        let draft = self.world.directory().join(format!("{name}.draft"));
        let written = fs::write(&draft, yaml).and_then(|()| fs::rename(&draft, &path));
        written.with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a resource file.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.file(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Writes a resource file and waits until every proxy that it concerns runs it; returns how long that took.
    ///
    /// # Errors
    /// It was not accepted, or not acknowledged in time; the error says how it stands.
    pub fn apply(&self, name: &str, yaml: &str) -> anyhow::Result<Duration> {
        let before = self.control.status()?;
        let watch = Stopwatch::start();
        self.write(name, yaml)?;
        self.settled(name, yaml, &before).map(|()| watch.elapsed())
    }

    fn settled(&self, name: &str, yaml: &str, before: &Status) -> anyhow::Result<()> {
        let keys = status::keys(yaml);
        anyhow::ensure!(!keys.is_empty(), "{name} names no resource");
        let mut last = String::from("not known");
        let done = wait_for(&format!("{name} in force"), WITHIN, || {
            let now = self.control.status().ok()?;
            match keys.iter().find(|key| !now.is_in_force(key, before)) {
                None => Some(()),
                Some(open) => {
                    last = now.describe(open);
                    None
                }
            }
        });
        done.with_context(|| format!("last seen: {last}"))
    }
}

/// The address of the service with this number, of one family.
pub fn service_ip(number: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// A Service of both families that selects workloads by the label `app`; `ports` is YAML flow such as
/// `[{name: http, port: 80, targetPort: 8080}]`.
pub fn service(namespace: &str, name: &str, number: u8, ports: &str) -> String {
    service_selecting(namespace, name, number, ports, &format!("{{app: {name}}}"))
}

/// A Service of both families with a selector of its own, as YAML flow.
pub fn service_selecting(namespace: &str, name: &str, number: u8, ports: &str, selector: &str) -> String {
    let (v4, v6) = (service_ip(number, Family::V4), service_ip(number, Family::V6));
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: {namespace}\n  name: {name}\n\
         spec:\n  clusterIP: \"{v4}\"\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  selector: {selector}\n  ports: {ports}\n"
    )
}

/// Joins documents into one file.
pub fn documents<S: AsRef<str>>(documents: impl IntoIterator<Item = S>) -> String {
    let mut text = String::new();
    for document in documents {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(document.as_ref());
    }
    text
}

/// The programs of the mesh that lie beside the running one.
///
/// # Errors
/// As [`Programs::beside`].
pub fn programs(directory: Option<&Path>) -> anyhow::Result<Programs> {
    directory.map_or_else(Programs::beside, |directory| Ok(Programs::of(directory)))
}

/// Where a program of the system lies, if it is on the PATH.
pub fn on_the_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
