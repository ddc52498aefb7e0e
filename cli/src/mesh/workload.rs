//! One workload of a mesh: a host, its redirect, its proxy and its application.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use weft_model::SpiffeId;

use super::control::ControlPlane;
use super::http::{self, Answer};
use super::scrape::Scrape;
use super::{Settings, control};
use crate::world::{Family, Host, PROXY_USER, Privilege, Process};

/// Where a proxy tells about itself.
pub const ADMIN_PORT: u16 = 14003;

/// What the proxy's sockets carry where only one user id exists.
const MARK: NonZeroU32 = NonZeroU32::new(PROXY_USER).unwrap();

/// What a workload is to be.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which is the host's too.
    pub name: String,
    /// Its service account.
    pub account: String,
    /// Its labels, by which services select it.
    pub labels: Vec<(String, String)>,
    /// Fields of its `spec`, as YAML flow such as `ports: [{port: 80, name: http}]`.
    pub fields: Vec<String>,
    /// Further arguments of its proxy, after those of every proxy.
    pub proxy_args: Vec<String>,
}

impl Member {
    /// A workload with the label `app` saying its service account.
    pub fn new(namespace: &str, name: &str, account: &str) -> Self {
        let labels = vec![("app".to_owned(), account.to_owned())];
        let (namespace, name, account) = (namespace.to_owned(), name.to_owned(), account.to_owned());
        Self { namespace, name, account, labels, fields: Vec::new(), proxy_args: Vec::new() }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a field to its `spec`.
    #[must_use]
    pub fn field(mut self, yaml: &str) -> Self {
        self.fields.push(yaml.to_owned());
        self
    }

    /// Adds an option of its proxy.
    #[must_use]
    pub fn proxy_option(mut self, name: &str, value: impl Into<String>) -> Self {
        self.proxy_args.extend([name.to_owned(), value.into()]);
        self
    }

    /// The resource that describes it.
    pub fn yaml(&self, address: IpAddr) -> String {
        let Self { namespace, name, account, labels, fields, proxy_args: _ } = self;
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}: \"{value}\"")).collect();
        let labels = labels.join(", ");
        let mut yaml = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Workload\n\
             metadata:\n  namespace: {namespace}\n  name: {name}\n  labels: {{{labels}}}\n\
             spec:\n  address: \"{address}\"\n  serviceAccount: {account}\n"
        );
        for field in fields {
            yaml.extend(["  ", field, "\n"]);
        }
        yaml
    }
}

/// A program of an application, to be started again after it was killed.
#[derive(Clone, Debug)]
pub struct App {
    /// What it is called in logs.
    pub name: String,
    /// What is run.
    pub program: PathBuf,
    /// With which arguments.
    pub args: Vec<String>,
}

impl App {
    /// An application; a program without a slash is looked for on the PATH.
    pub fn new<S: Into<String>>(name: &str, program: impl AsRef<Path>, args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { name: name.to_owned(), program: program.as_ref().to_owned(), args }
    }
}

/// A workload. Dropping it ends its processes.
#[derive(Debug)]
pub struct Workload {
    member: Member,
    identity: SpiffeId,
    host: Host,
    privilege: Privilege,
    settings: Settings,
    program: PathBuf,
    anchors: PathBuf,
    token: PathBuf,
    proxy: Option<Process>,
    apps: Vec<(App, Option<Process>)>,
}

impl Workload {
    /// Makes it, with its redirect in force and nothing running.
    pub(super) fn new(member: Member, host: Host, privilege: Privilege, place: Place<'_>) -> anyhow::Result<Self> {
        let Place { settings, program, anchors, tokens } = place;
        let identity = control::identity(&member.namespace, &member.account)?;
        let options = weft_init::Options {
            proxy_uid: (!privilege.is_user_namespace()).then_some(PROXY_USER),
            proxy_mark: privilege.is_user_namespace().then_some(MARK),
            ..weft_init::Options::default()
        };
        host.run(|| weft_init::apply(&options).and_then(|()| weft_init::prove(&options)))?
            .with_context(|| format!("redirecting the traffic of {}", member.name))?;
        let token = tokens.join(&member.name);
        let (settings, program, anchors) = (settings.clone(), program.to_owned(), anchors.to_owned());
        let (proxy, apps) = (None, Vec::new());
        Ok(Self { member, identity, host, privilege, settings, program, anchors, token, proxy, apps })
    }

    /// Where it lives.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What it is.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Who it is to peers.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Its address, of the mesh's family.
    pub fn socket(&self, port: u16) -> SocketAddr {
        self.host.socket(self.settings.family, port)
    }

    /// Where its proxy tells about itself, from inside its host.
    pub fn admin_addr() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT))
    }

    /// Starts its proxy, with a fresh join token.
    ///
    /// # Errors
    /// No token, or the process cannot be started.
    pub fn start_proxy(&mut self, control: &ControlPlane) -> anyhow::Result<()> {
        self.write_token(&control.mint(&self.identity)?)?;
        let Member { namespace, name, account, .. } = &self.member;
        let launch = self.host.launch("weft-proxy", &self.program);
        let launch = launch.arg("--control-plane").arg(control.addr().to_string());
        let launch = launch.arg("--trust-anchors").arg(&self.anchors).arg("--join-token-file").arg(&self.token);
        let launch = launch.args(["--workload-namespace", namespace, "--workload-name", name]);
        let launch = launch.args(["--service-account", account, "--log", &self.settings.log]);
        let launch = launch.args(self.settings.proxy_args.iter().chain(&self.member.proxy_args));
        self.proxy = Some(if self.privilege.is_user_namespace() {
            launch.arg("--socket-mark").arg(MARK.to_string()).start()?
        } else {
            launch.user(PROXY_USER).start()?
        });
        Ok(())
    }

    /// Only the proxy's user may read it.
    fn write_token(&self, token: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::{OpenOptionsExt as _, chown};
        let what = || format!("writing {}", self.token.display());
        // A former one may belong to the proxy's user.
        if self.token.exists() {
            fs::remove_file(&self.token).with_context(what)?;
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.token).with_context(what)?;
        file.write_all(token.as_bytes()).with_context(what)?;
        if !self.privilege.is_user_namespace() {
            chown(&self.token, Some(PROXY_USER), Some(PROXY_USER)).with_context(what)?;
        }
        Ok(())
    }

    /// Starts an application beside the proxy. It is started again by [`restart`](super::Mesh::restart).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_app(&mut self, app: App) -> anyhow::Result<()> {
        let process = self.launch(&app)?;
        self.apps.push((app, Some(process)));
        Ok(())
    }

    fn launch(&self, app: &App) -> anyhow::Result<Process> {
        self.host.launch(&app.name, &app.program).args(&app.args).start()
    }

    pub(super) fn start_apps(&mut self) -> anyhow::Result<()> {
        for at in 0..self.apps.len() {
            let Some((app, None)) = self.apps.get(at) else { continue };
            let process = self.launch(app)?;
            if let Some((_, slot)) = self.apps.get_mut(at) {
                *slot = Some(process);
            }
        }
        Ok(())
    }

    /// Its proxy, while it runs.
    pub fn proxy(&mut self) -> Option<&mut Process> {
        self.proxy.as_mut()
    }

    /// The number of its proxy's process, while it runs.
    pub fn proxy_id(&self) -> Option<u32> {
        self.proxy.as_ref().map(Process::id)
    }

    /// One of its applications, while it runs.
    pub fn app(&mut self, name: &str) -> Option<&mut Process> {
        self.apps.iter_mut().find(|(app, _)| app.name == name).and_then(|(_, process)| process.as_mut())
    }

    /// Kills the proxy as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_proxy(&mut self) -> anyhow::Result<()> {
        self.proxy.take().with_context(|| format!("the proxy of {} does not run", self.member.name))?.kill()
    }

    /// Kills application and proxy as the loss of a machine would; the host stays and refuses connections.
    ///
    /// # Errors
    /// Something of it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let what = || format!("the proxy of {} does not run", self.member.name);
        self.proxy.as_mut().with_context(what)?.signal(Signal::SIGKILL)?;
        for (app, process) in &mut self.apps {
            process.take().with_context(|| format!("{} does not run", app.name))?.kill()?;
        }
        self.kill_proxy()
    }

    /// Whether its proxy says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.get("/ready").is_ok_and(|answer| answer.status == 200)
    }

    /// Asks one of its proxy's pages.
    ///
    /// # Errors
    /// It does not answer.
    pub fn get(&self, path: &str) -> anyhow::Result<Answer> {
        http::get(&self.host, Self::admin_addr(), path)
    }

    /// What its proxy counts.
    ///
    /// # Errors
    /// It does not answer, or with something else.
    pub fn scrape(&self) -> anyhow::Result<Scrape> {
        let scraped = self.get("/metrics").and_then(Answer::success).and_then(|page| Scrape::parse(&page));
        scraped.with_context(|| format!("scraping the proxy of {}", self.member.name))
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        self.settings.family
    }
}

/// What all workloads of a mesh share.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) settings: &'a Settings,
    pub(super) program: &'a Path,
    pub(super) anchors: &'a Path,
    pub(super) tokens: &'a Path,
}

#[cfg(test)]
mod tests {
    use super::Member;

    #[test]
    fn a_member_describes_itself() {
        let member = Member::new("shop", "product-a", "product").label("version", "v1").field("ports: [{port: 80}]");
        let yaml = member.yaml("fd77::5".parse().unwrap());
        assert!(yaml.contains("  labels: {app: \"product\", version: \"v1\"}\n"), "{yaml}");
        assert!(
            yaml.ends_with("spec:\n  address: \"fd77::5\"\n  serviceAccount: product\n  ports: [{port: 80}]\n"),
            "{yaml}"
        );
    }
}
