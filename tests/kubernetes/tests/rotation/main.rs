//! The replacement of the issuer and of the trust anchor while everything runs, in a mesh whose certificates live for seconds: a
//! rotation lasts for as long as the last leaf that the old anchor vouches for. It installs Weft anew, and so runs alone.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use weft_tests_kubernetes::{Namespace, eventually, get, install_with, installed, kubectl};

mod issuer;

/// How long a leaf lives. Renewal comes at 70 %, and a busy machine may be late by seconds.
const LEAF_LIFETIME: &str = "40s";

const SYSTEM: [&str; 2] = ["--namespace", "weft-system"];

/// A replica's admin port, forwarded to loopback, where it takes orders.
struct Admin {
    forward: Child,
    /// It ends when nobody hears what it says.
    _said: BufReader<ChildStdout>,
    addr: String,
}

impl Admin {
    fn of(pod: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("kubectl");
        command.args(SYSTEM).args(["port-forward", pod, ":14011"]).stdout(Stdio::piped());
        let mut forward = command.spawn().context("starting kubectl")?;
        let (mut line, mut said) = (String::new(), BufReader::new(forward.stdout.take().context("no output")?));
        said.read_line(&mut line)?;
        // Forwarding from 127.0.0.1:41234 -> 14011
        let addr = line.split_whitespace().nth(2).with_context(|| format!("{pod}: {line:?}"))?.to_owned();
        Ok(Self { forward, _said: said, addr })
    }

    fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(&["--fail"], path).and_then(|text| Ok(serde_json::from_str(&text)?))
    }

    fn post(&self, path: &str) -> anyhow::Result<String> {
        self.ask(&["--fail-with-body", "--request", "POST", "--header", "weft-admin: 1"], path)
    }

    fn ask(&self, args: &[&str], path: &str) -> anyhow::Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "5"]).args(args);
        let output = curl.arg(format!("http://{}{path}", self.addr)).output()?;
        let (said, error) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
        ensure!(output.status.success(), "{path}: {said}{error}");
        Ok(said)
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ended = self.forward.kill();
        let _reaped = self.forward.wait();
    }
}

/// Puts another Weft in the place of what there is, with an authority of its own.
fn install_anew() -> anyhow::Result<()> {
    kubectl(&["delete", "namespace", "weft-system", "--timeout", "240s"])?;
    install_with(&["--set", &format!("controlPlane.leafLifetime={LEAF_LIFETIME}")])
}

/// The replica that writes, and the other one.
fn replicas() -> anyhow::Result<[String; 2]> {
    let lease = get("weft-system", "lease", "weft-control-plane")?;
    let holder = lease["spec"]["holderIdentity"].as_str().context("nobody holds the Lease")?.to_owned();
    let list = ["get", "pods", "--selector", "app=weft-control-plane", "--output", "name"];
    let pods = kubectl(&[&SYSTEM[..], &list].concat())?;
    let names: Vec<&str> = pods.lines().filter_map(|line| line.strip_prefix("pod/")).collect();
    let other = names.iter().find(|name| **name != holder).context("there is one replica only")?;
    ensure!(names.len() == 2 && names.contains(&holder.as_str()), "{holder} of {pods}");
    Ok([holder, (*other).to_owned()])
}

/// Waits until a replica hears the one other.
fn hears_the_other(admin: &Admin) -> anyhow::Result<()> {
    eventually("each replica hears the other", || {
        let status = admin.get("/status")?;
        ensure!(status["replicas"].as_array().is_some_and(|all| all.len() == 1), "{}", status["replicas"]);
        ensure!(status["replicas"][0]["heard"] == true, "{}", status["replicas"]);
        Ok(())
    })
}

/// How many proxies of a namespace a replica serves.
fn served(admin: &Admin, namespace: &str) -> anyhow::Result<usize> {
    let status = admin.get("/status")?;
    let of = format!("{namespace}/");
    let connected = status["connected"].as_array().context("no proxies")?;
    Ok(connected.iter().filter(|proxy| proxy["workload"].as_str().is_some_and(|name| name.starts_with(&of))).count())
}

/// Clients of the server, until both replicas serve some of them; each has asked once.
fn clients(namespace: &Namespace, admins: &[Admin; 2]) -> anyhow::Result<usize> {
    for count in 1..=16 {
        let client = format!("client-{count}");
        namespace.serve(&client)?;
        eventually("an answer", || {
            let said = namespace.curl(&client, "http://server.rotation/")?;
            ensure!(said == "200 this is server", "{said}");
            Ok(())
        })?;
        if count >= 2 && served(&admins[0], "rotation")? > 0 && served(&admins[1], "rotation")? > 0 {
            return Ok(count);
        }
    }
    anyhow::bail!("seventeen proxies are all connected to the same replica");
}

/// Replaces the anchor, waits until the old one is gone, and sees that nobody has lost a request meanwhile.
fn anchor_replaced_under_load(
    admin: &Admin,
    namespace: &Namespace,
    client: &str,
    replace: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let before = admin.get("/rotation")?;
    thread::scope(|scope| {
        // It outlasts the rotation: both certificates of the load's connections are replaced under it.
        let url = format!("http://server.{}/", namespace.name());
        let load = scope
            .spawn(move || namespace.exec(client, &["h2load", "--h1", "-D", "90", "-c", "4", "--rps", "50", &url]));
        replace()?;
        let after = eventually("the old anchor is gone", || {
            let now = admin.get("/rotation")?;
            ensure!(now["state"] == "Steady" && now["anchors"] != before["anchors"], "{now}");
            Ok(now)
        })?;
        ensure!(after["anchors"].as_array().map(Vec::len) == Some(1), "{after}");
        ensure!(!load.is_finished(), "the load ended before the rotation did");
        let said = load.join().map_err(|_panic| anyhow::anyhow!("the load panicked"))??;
        ensure!(said.contains("0 failed, 0 errored, 0 timeout") && said.contains(" 0 4xx, 0 5xx"), "{said}");
        Ok(())
    })
}

#[test]
fn the_issuer_and_the_anchor_are_replaced_under_load() {
    // Once for all tests, this one too: so that it does not come after ours.
    installed().unwrap();
    install_anew().unwrap();
    let namespace = Namespace::meshed("rotation").unwrap();
    // The API server may still believe the injector that was there before.
    eventually("a pod with a proxy", || namespace.serve("server")).unwrap();
    let replicas = replicas().unwrap();
    let admins = [Admin::of(&replicas[0]).unwrap(), Admin::of(&replicas[1]).unwrap()];
    admins.iter().for_each(|admin| hears_the_other(admin).unwrap());
    let clients = clients(&namespace, &admins).unwrap();

    // What they run is counted over both replicas.
    let policy = "\
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: server}
spec: {targetRefs: [{kind: Service, name: server}], connectTimeout: 3s}
";
    namespace.apply(policy).unwrap();
    eventually("every client's proxy counts", || {
        let status = get("rotation", "trafficpolicy", "server")?["status"]["proxies"].clone();
        ensure!(status == format!("{clients}/{clients} proxies").as_str(), "{status}");
        Ok(())
    })
    .unwrap();

    assert_eq!(admins[0].get("/rotation").unwrap()["state"], "Steady");
    let refused = admins[1].post("/rotate-anchor").unwrap_err().to_string();
    assert!(refused.contains("holds the Lease"), "{refused}");
    let replace = || {
        admins[0].post("/rotate-issuer")?;
        admins[0].post("/rotate-anchor").map(drop)
    };
    anchor_replaced_under_load(&admins[0], &namespace, "client-1", replace).unwrap();

    // A pod from before: its container starts with the bundle of now, and finds the control plane and its peers.
    namespace.restart_proxy("server").unwrap();
    eventually("its proxy has a stream again", || {
        let metrics = namespace.metrics("server")?;
        ensure!(metrics.lines().any(|line| line.trim() == "weft_discovery_connected 1"), "no stream");
        Ok(())
    })
    .unwrap();
    eventually("an answer of the restarted proxy", || {
        let said = namespace.curl("client-2", "http://server.rotation/")?;
        ensure!(said == "200 this is server", "{said}");
        Ok(())
    })
    .unwrap();
}
