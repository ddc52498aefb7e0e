//! The kubelet's part, played by curl from a host outside of the mesh.

use anyhow::ensure;
use weft_cli::mesh::workload::{ADMIN_PORT, Member};
use weft_cli::mesh::{WITHIN, service};
use weft_cli::world::{Host, wait_for};
use weft_tests::stage::{COMMAND, NAMESPACE, PORTS, SERVER, curl, mesh};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] =
    &[Case::new("probes::reach_the_application_whatever_the_policy", whatever_the_policy)];

/// What the injector would tell of a pod: a plain probe whose path is a redirect, one of a port that is closed, and a hook.
const PROBES: &str = r#"[
{"container":"app","occasion":"readiness","timeoutSeconds":5,"action":{"httpGet":{"scheme":"HTTP","port":8080,"path":"/well?full=1"}}},
{"container":"app","occasion":"startup","timeoutSeconds":5,"action":{"tcpSocket":{"port":8080}}},
{"container":"app","occasion":"liveness","timeoutSeconds":5,"action":{"tcpSocket":{"port":8081}}},
{"container":"app","occasion":"preStop","timeoutSeconds":5,"key":"00112233445566778899aabbccddeeff",
 "action":{"httpGet":{"scheme":"HTTP","port":8080,"path":"/bye"}}}]"#;

const CLOSED: &str = "apiVersion: weft.dev/v1alpha1
kind: MeshPolicy
metadata:
  namespace: weft-system
  name: closed
spec:
  mtls: {mode: Strict}
  defaultAuthorization: Deny
";

/// The status at the end of all redirects, and where they led.
fn ask(host: &Host, url: &str) -> anyhow::Result<String> {
    let told = curl(host).args(["--location", "--output", "/dev/null", "--write-out", "%{http_code} %{url_effective}"]);
    told.arg(url).finish(COMMAND)?.success()
}

fn whatever_the_policy(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = mesh(scene)?;
    mesh.write("server.yaml", &service(NAMESPACE, "server", SERVER, PORTS))?;
    let member = Member::new(NAMESPACE, "server", "server").field("probes: [{port: 8080, path: /well}]");
    mesh.join(member.proxy_option("--probes", PROBES))?;
    mesh.ready()?;
    mesh.apply("closed.yaml", CLOSED)?;
    let (server, kubelet) = (mesh.workload("server")?, scene.world.host("kubelet")?);
    let at = |port: u16, path: &str| format!("http://{}{path}", server.socket(port));

    // It sends whoever asks for a directory to its name with a slash behind it.
    let www = scene.world.directory().join("www");
    std::fs::create_dir_all(www.join("well"))?;
    std::fs::write(www.join("well/index.html"), "ok\n")?;
    let httpd = server.host().launch("httpd", "busybox").args(["httpd", "-f", "-p", "8080", "-h"]).arg(&www);
    let _httpd = httpd.start()?;
    let begun = at(ADMIN_PORT, "/probe/app/startup");
    wait_for("the application", WITHIN, || {
        ask(&kubelet, &begun).is_ok_and(|said| said.starts_with("200")).then_some(())
    })?;

    let (readiness, hook) = (at(ADMIN_PORT, "/probe/app/readiness"), at(ADMIN_PORT, "/probe/app/preStop"));
    for (url, want) in [
        (readiness.clone(), format!("200 {readiness}")),
        (at(ADMIN_PORT, "/probe/app/liveness"), "503".to_owned()),
        // By the exception for its path, and then by the way around what is closed.
        (at(8080, "/well?full=1"), format!("200 {readiness}")),
        (at(8080, "/well/"), "403".to_owned()),
        (at(8080, "/"), "403".to_owned()),
        // The kubelet takes any answer of a hook.
        (format!("{hook}/00112233445566778899aabbccddeeff"), "200".to_owned()),
        (format!("{hook}/00112233445566778899aabbccddeefe"), "404".to_owned()),
        (hook, "404".to_owned()),
    ] {
        let said = ask(&kubelet, &url)?;
        ensure!(said.starts_with(&want), "{url}: {said}");
    }
    let loopback = ask(server.host(), &format!("http://localhost:{ADMIN_PORT}/probe/app/readiness"))?;
    ensure!(loopback.starts_with("403"), "{loopback}");
    Ok(())
}
