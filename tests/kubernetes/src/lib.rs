//! What tests on a cluster share: kubectl, namespaces that go when a test ends, and waiting for conditions.

#![expect(clippy::disallowed_methods, reason = "a cluster lives in real time")]

pub mod load;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// How long anything may take that Kubernetes does: a pod on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs kubectl and hands back what it printed.
///
/// # Errors
/// It did not succeed; what it complained of.
pub fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    text(&run("kubectl", args, None)?, args)
}

/// Applies documents; those of several namespaces with an empty one.
///
/// # Errors
/// As [`kubectl`].
pub fn apply(namespace: &str, yaml: &str) -> anyhow::Result<()> {
    let args = ["--namespace", namespace, "apply", "--filename", "-"];
    kubectl_reading(if namespace.is_empty() { &args[2..] } else { &args[..] }, yaml).map(drop)
}

/// What applying documents is refused with.
///
/// # Errors
/// It was not.
pub fn refusal(namespace: &str, yaml: &str) -> anyhow::Result<String> {
    let output = run("kubectl", &["--namespace", namespace, "apply", "--filename", "-"], Some(yaml))?;
    ensure!(!output.status.success(), "it was taken:\n{yaml}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a program said, and the code it ended with.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it told beside that.
    pub err: String,
}

impl Said {
    /// What it printed, where it ended with 0.
    ///
    /// # Errors
    /// It did not; everything it said.
    pub fn done(self) -> anyhow::Result<String> {
        ensure!(self.code == Some(0), "weft ended with {:?}\n{}{}", self.code, self.out, self.err);
        Ok(self.out)
    }
}

/// Runs `weft`, as somebody does who installs it.
///
/// # Errors
/// It cannot be started, or what it says is no text. How it ends is for the caller to judge.
pub fn weft(args: &[&str], input: Option<&str>) -> anyhow::Result<Said> {
    let Output { status, stdout, stderr } = run("weft", args, input)?;
    let text = |bytes| String::from_utf8(bytes).context("weft printed no UTF-8");
    Ok(Said { code: status.code(), out: text(stdout)?, err: text(stderr)? })
}

/// Runs kubectl with something to read.
///
/// # Errors
/// As [`kubectl`].
pub fn kubectl_reading(args: &[&str], input: &str) -> anyhow::Result<String> {
    text(&run("kubectl", args, Some(input))?, args)
}

fn run(program: &str, args: &[&str], input: Option<&str>) -> anyhow::Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("starting {program}: is it on the PATH? cargo xtask test --only kubernetes puts it there")
        })?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).with_context(|| format!("writing to {program}"))?;
    }
    child.wait_with_output().with_context(|| format!("waiting for {program}"))
}

fn text(output: &Output, args: &[&str]) -> anyhow::Result<String> {
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("kubectl {}: {}\n{out}{err}", args.join(" "), output.status);
    }
    String::from_utf8(output.stdout.clone()).context("kubectl printed no UTF-8")
}

/// Waits until `check` succeeds.
///
/// # Errors
/// It never did; what it said last.
pub fn eventually<T>(what: &str, check: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.context(format!("never: {what}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Installs Weft as its documentation says, once for all tests.
///
/// # Errors
/// It does not come up.
pub fn installed() -> anyhow::Result<()> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    let outcome = INSTALLED.get_or_init(|| install().map_err(|error| format!("{error:#}")));
    outcome.clone().map_err(anyhow::Error::msg)
}

/// Checks the cluster, installs Weft and waits until it is at work.
///
/// # Errors
/// The check fails, or it does not come up.
pub fn install() -> anyhow::Result<()> {
    install_with(&[])
}

/// The same, with arguments for `weft install`.
///
/// # Errors
/// As [`install`].
pub fn install_with(args: &[&str]) -> anyhow::Result<()> {
    weft(&["check", "--pre"], None)?.done().context("weft check --pre")?;
    let objects = weft(&[&["install"], args].concat(), None)?.done().context("weft install")?;
    kubectl_reading(&["apply", "--filename", "-"], &objects)?;
    for deployment in ["weft-control-plane", "weft-injector"] {
        let name = format!("deployment/{deployment}");
        kubectl(&["--namespace", "weft-system", "rollout", "status", &name, "--timeout", "90s"])?;
    }
    // What is ready to be asked is asked by way of a Service, whose rules come a moment later.
    eventually("the API server trusts the injector", || {
        let hooks = get("", "mutatingwebhookconfiguration", "weft-injector")?;
        let told = hooks["webhooks"]
            .as_array()
            .is_some_and(|hooks| hooks.iter().all(|hook| hook["clientConfig"]["caBundle"].is_string()));
        ensure!(told, "caBundle is not there yet");
        Ok(())
    })
}

/// An object, as JSON. The namespace is empty for one that has none.
///
/// # Errors
/// It is not there.
pub fn get(namespace: &str, kind: &str, name: &str) -> anyhow::Result<Value> {
    let mut args = vec!["get", kind, name, "--output", "json"];
    if !namespace.is_empty() {
        args.extend(["--namespace", namespace]);
    }
    serde_json::from_str(&kubectl(&args)?).context("kubectl printed no JSON")
}

/// A namespace of one test, gone with everything in it when the test ends.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A namespace whose pods get a proxy.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn meshed(name: &str) -> anyhow::Result<Self> {
        Self::new(name, "enabled")
    }

    /// A namespace whose pods get none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn plain(name: &str) -> anyhow::Result<Self> {
        Self::new(name, "no")
    }

    /// The namespace that a kustomization makes, with everything in it.
    ///
    /// # Errors
    /// It is refused.
    pub fn kustomized(name: &str, directory: &str) -> anyhow::Result<Self> {
        installed()?;
        let namespace = Self::named(name);
        kubectl(&["apply", "--kustomize", directory])?;
        Ok(namespace)
    }

    /// A namespace that is there already, and goes as others do.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    fn new(name: &str, inject: &str) -> anyhow::Result<Self> {
        installed()?;
        Self::of_installed(name, inject)
    }

    /// A namespace with this label, for tests that install Weft themselves.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn of_installed(name: &str, inject: &str) -> anyhow::Result<Self> {
        let namespace = Self::named(name);
        let yaml = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{weft.dev/inject: \"{inject}\"}}}}}}"
        );
        apply("default", &yaml)?;
        eventually("the namespace has a service account", || get(name, "serviceaccount", "default"))?;
        Ok(namespace)
    }

    /// Runs kubectl here.
    ///
    /// # Errors
    /// As [`kubectl`].
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        kubectl(&[&["--namespace", &self.name], args].concat())
    }

    /// Waits until a Deployment is as it was asked for.
    ///
    /// # Errors
    /// It never is.
    pub fn settled(&self, deployment: &str) -> anyhow::Result<()> {
        let name = format!("deployment/{deployment}");
        self.kubectl(&["rollout", "status", &name, "--timeout", "120s"]).map(drop)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Applies documents here.
    ///
    /// # Errors
    /// They are refused.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        apply(&self.name, yaml)
    }

    /// Makes a pod that serves its own name over HTTP on port 8080, with a Service of that name on port 80, and a service account.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn serve(&self, name: &str) -> anyhow::Result<()> {
        self.apply(&format!(
            "\
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  serviceAccountName: {name}
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: weft.test/toolbox:1
    command: [sh, -c, \"echo this is {name} > /www/index.html; echo ok > /www/healthz; exec httpd -f -p 8080 -h /www\"]
    readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
"
        ))?;
        self.ready(name)
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// It never is; what it says of itself.
    pub fn ready(&self, pod: &str) -> anyhow::Result<()> {
        let name = format!("pod/{pod}");
        let waited =
            kubectl(&["--namespace", &self.name, "wait", "--for", "condition=Ready", &name, "--timeout", "60s"]);
        waited.map(drop).with_context(|| {
            let of = ["--namespace", self.name.as_str()];
            let told = kubectl(&[&of[..], &["describe", "pod", pod]].concat()).unwrap_or_default();
            let said = kubectl(&[&of[..], &["logs", pod, "--container", "weft-proxy", "--tail", "20"]].concat())
                .unwrap_or_default();
            format!("{told}\n{said}")
        })
    }

    /// Kills the proxy of a pod that [`Namespace::serve`] made, and waits until it runs again. The pod's processes are one namespace,
    /// so that the application may end its proxy.
    ///
    /// # Errors
    /// It does not come back, or had begun anew before.
    pub fn restart_proxy(&self, pod: &str) -> anyhow::Result<()> {
        self.exec(pod, &["sh", "-c", "kill -9 $(pidof weft-proxy)"])?;
        eventually("the proxy runs again", || {
            let pod = get(&self.name, "pod", pod)?;
            let all = pod["status"]["initContainerStatuses"].as_array().cloned().unwrap_or_default();
            let proxy = all.iter().find(|it| it["name"] == "weft-proxy").cloned().unwrap_or_default();
            ensure!(proxy["restartCount"] == 1 && proxy["ready"] == true, "{proxy}");
            Ok(())
        })
    }

    /// Runs a command in a pod's application container.
    ///
    /// # Errors
    /// It does not succeed.
    pub fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        let args = ["--namespace", self.name.as_str(), "exec", pod, "--container", "app", "--"];
        kubectl(&[&args[..], command].concat())
    }

    /// Asks for a URL from within a pod: the status, a space, and the body.
    ///
    /// # Errors
    /// There is no answer.
    pub fn curl(&self, pod: &str, url: &str) -> anyhow::Result<String> {
        let format = "\n%{http_code}";
        let said =
            self.exec(pod, &["curl", "--silent", "--show-error", "--max-time", "10", "--write-out", format, url])?;
        let (body, status) = said.rsplit_once('\n').context("curl printed nothing")?;
        Ok(format!("{status} {}", body.trim()))
    }

    /// The metrics of a pod's proxy.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn metrics(&self, pod: &str) -> anyhow::Result<String> {
        let at = get(&self.name, "pod", pod)?;
        let ip = at["status"]["podIP"].as_str().context("the pod has no address")?;
        text(
            &run("curl", &["--silent", "--fail", "--max-time", "5", &format!("http://{ip}:14003/metrics")], None)?,
            &[],
        )
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cluster itself goes in the end, and takes what is left with it.
        drop(kubectl(&["delete", "namespace", &self.name, "--wait=false"]));
    }
}
