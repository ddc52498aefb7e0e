//! Who must not get in, and is told so: by openssl and curl.

use anyhow::{Context as _, ensure};
use weft_tests::echo::{self, Version};
use weft_tests::stage::{COMMAND, NAMESPACE, curl, pair, server};
use weft_tests::{Case, Scene};

pub(crate) const CASES: &[Case] = &[
    Case::new("refusals::mesh_tls_without_a_certificate_is_refused", no_certificate),
    Case::new("refusals::mesh_tls_with_a_foreign_certificate_is_refused", a_foreign_certificate),
    Case::new("refusals::strict_takes_no_plaintext_and_permissive_does", strict_and_permissive),
    Case::new("refusals::a_policy_denies_and_says_which", a_policy_denies),
    Case::new("refusals::another_identity_than_discovery_named_is_refused", another_identity),
];

/// Has openssl shake hands with the server's proxy, as a mesh client would; returns whether it succeeded, and what was said.
fn handshake(scene: &Scene, to: std::net::SocketAddr, more: &[String]) -> anyhow::Result<(bool, String)> {
    let stranger = scene.world.host("stranger")?;
    let shell = format!(
        "printf 'GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n' | timeout 10 openssl s_client -connect {to} -alpn weft/http1 -tls1_3 -ign_eof {}",
        more.join(" ")
    );
    let said = stranger.launch("openssl", "sh").args(["-c", &shell]).finish(COMMAND)?;
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), said.stderr);
    Ok((text.contains("200 OK"), text))
}

fn no_certificate(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let counts = echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let (answered, text) = handshake(scene, mesh.workload("server")?.socket(8080), &[])?;
    ensure!(!answered, "an answer without a certificate: {text}");
    ensure!(text.contains("alert"), "no alert: {text}");
    assert_eq!(counts.requests(), 0);
    let scrape = mesh.workload("server")?.scrape()?;
    ensure!(scrape.value("weft_tls_handshake_failures_total")? >= 1.0, "the refusal was not counted");
    Ok(())
}

fn a_foreign_certificate(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let counts = echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let directory = scene.world.directory();
    let (key, certificate) = (directory.join("foreign.key"), directory.join("foreign.pem"));
    // It claims to be the client, signed by itself.
    let shell = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj / -keyout {} -out {} \
         -addext subjectAltName=URI:spiffe://cluster.local/ns/{NAMESPACE}/sa/client",
        key.display(),
        certificate.display()
    );
    let stranger = mesh.workload("client")?.host();
    stranger.launch("openssl", "sh").args(["-c", &shell]).finish(COMMAND)?.success()?;
    let more = [format!("-key {}", key.display()), format!("-cert {}", certificate.display())];
    let (answered, text) = handshake(scene, mesh.workload("server")?.socket(8080), &more)?;
    ensure!(!answered, "an answer to a foreign certificate: {text}");
    ensure!(text.contains("alert"), "no alert: {text}");
    assert_eq!(counts.requests(), 0);
    Ok(())
}

fn strict_and_permissive(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let counts = echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    let stranger = scene.world.host("stranger")?;
    let to = format!("http://{}/", mesh.workload("server")?.socket(8080));
    let permitted = curl(&stranger).arg(&to).finish(COMMAND)?.success()?;
    assert_eq!(permitted, "server\n");

    mesh.apply("strict.yaml", STRICT)?;
    let refused = curl(&stranger).args(["--include"]).arg(&to).finish(COMMAND)?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    ensure!(!said.contains("200 OK"), "an answer in plaintext: {said}");
    // Who is not meshed is not told more than that.
    ensure!(!said.contains("weft-"), "{said}");
    assert_eq!(counts.requests(), 1);
    ensure!(mesh.workload("server")?.scrape()?.value("weft_plaintext_refused_total")? >= 1.0, "not counted");
    // Who is, still gets in.
    let client = mesh.workload("client")?.host();
    assert_eq!(curl(client).arg(format!("http://{}/", server(scene, 80))).finish(COMMAND)?.success()?, "server\n");
    Ok(())
}

const STRICT: &str = "apiVersion: weft.dev/v1alpha1
kind: MeshPolicy
metadata:
  namespace: weft-system
  name: strict
spec:
  mtls: {mode: Strict}
";

fn a_policy_denies(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let counts = echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    mesh.apply("deny.yaml", DENY)?;
    let client = mesh.workload("client")?.host();
    let ask = |path: &str| {
        curl(client).args(["--include"]).arg(format!("http://{}{path}", server(scene, 80))).finish(COMMAND)?.success()
    };
    let allowed = ask("/open")?;
    ensure!(allowed.starts_with("HTTP/1.1 200"), "{allowed}");
    for path in ["/admin", "/admin/keys", "/x/../admin", "//admin", "/%61dmin"] {
        let denied =
            curl(client).args(["--include", "--path-as-is"]).arg(format!("http://{}{path}", server(scene, 80)));
        let denied = denied.finish(COMMAND)?.success()?;
        ensure!(denied.starts_with("HTTP/1.1 403"), "{path}: {denied}");
        ensure!(denied.contains("weft-error: authorization\r\n"), "{path}: {denied}");
        ensure!(denied.contains(&format!("weft-policy: {POLICY}\r\n")), "{path}: {denied}");
    }
    assert_eq!(counts.requests(), 1);
    let scrape = mesh.workload("server")?.scrape()?;
    assert_eq!(scrape.count("weft_authorization_total", &[("verdict", "deny"), ("policy", POLICY)]), 5);
    Ok(())
}

const POLICY: &str = "AuthorizationPolicy/test/no-admin";

const DENY: &str = "apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  namespace: test
  name: no-admin
spec:
  targetRefs: [{kind: Service, name: server}]
  action: Deny
  rules:
  - to: [{paths: [{prefix: /admin}]}]
";

fn another_identity(scene: &Scene) -> anyhow::Result<()> {
    let mesh = pair(scene)?;
    let counts = echo::serve(mesh.workload("server")?.host(), 8080, Version::Http1, "server")?;
    // Discovery is told that somebody else lives at the server's address.
    let workload = mesh.workload("server")?;
    let address = workload.host().address(scene.family);
    mesh.remove("workload-server.yaml")?;
    let yaml = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata:\n  namespace: {NAMESPACE}\n  name: impostor\n  labels: {{app: server}}\n\
         spec:\n  address: \"{address}\"\n  serviceAccount: bank\n"
    );
    mesh.apply("workload-impostor.yaml", &yaml).context("the impostor's resource")?;
    let client = mesh.workload("client")?.host();
    let said =
        curl(client).args(["--include"]).arg(format!("http://{}/", server(scene, 80))).finish(COMMAND)?.success()?;
    ensure!(said.contains("weft-error: identity-mismatch\r\n"), "{said}");
    assert_eq!(counts.requests(), 0);
    ensure!(mesh.workload("client")?.scrape()?.value("weft_identity_mismatches_total")? >= 1.0, "not counted");
    Ok(())
}
