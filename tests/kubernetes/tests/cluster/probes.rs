//! What the kubelet and scrapers get to see under strict and default deny.

use serde_json::Value;
use weft_tests_kubernetes::{Namespace, eventually, get, kubectl};

const CLOSED: &str = "\
apiVersion: weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: closed}
spec: {mtls: {mode: Strict}, defaultAuthorization: Deny}
";

/// Serves HTTP on 8080, HTTPS by nobody's certificate on 8443, and on 9000 a gRPC health check that says SERVING: the frames of
/// HTTP/2 that it takes, by hand, once a request is complete.
const SERVERS: &str = r"
      cd /tmp
      echo ok >/www/metrics; echo hello >/www/index.html
      httpd -p 8080 -h /www
      printf '[req]\ndistinguished_name=d\n[d]\n' >req
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=nobody -keyout key -out cert -config req
      openssl s_server -accept 8443 -key key -cert cert -www -quiet &
      cat >health <<'END'
      #!/bin/sh
      dd bs=1 count=24 >/dev/null 2>&1
      printf '\0\0\0\4\0\0\0\0\0'
      while set -- $(dd bs=1 count=9 2>/dev/null | od -An -tu1); [ $# = 9 ]; do
        dd bs=1 count=$(($1 * 65536 + $2 * 256 + $3)) >/dev/null 2>&1
        [ $4 != 0 ] || break
      done
      printf '\0\0\23\1\4\0\0\0\1\210\137\20application/grpc'
      printf '\0\0\7\0\0\0\0\0\1\0\0\0\0\2\10\1'
      printf '\0\0\17\1\5\0\0\0\1\100\13grpc-status\0010'
      cat >/dev/null
      END
      chmod +x health
      exec nc -ll -p 9000 -e /tmp/health
";

fn pod(name: &str, more: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  annotations: {{prometheus.io/scrape: \"true\", prometheus.io/port: \"8080\"}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: weft.test/toolbox:1
    env: [{{name: OPENSSL_CONF, value: /tmp/req}}]
    command:
    - sh
    - -c
    - |{SERVERS}
    {more}
"
    )
}

fn is_ready(namespace: &Namespace, pod: &str) -> bool {
    let pod = get(namespace.name(), "pod", pod).unwrap();
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|it: &Value| it["type"] == "Ready" && it["status"] == "True")
}

#[test]
fn every_kind_of_probe_asks_the_application_and_policy_does_not_matter() {
    let (namespace, outside) = (Namespace::meshed("probes").unwrap(), Namespace::plain("probes-out").unwrap());
    namespace.apply(CLOSED).unwrap();
    outside.serve("client").unwrap();
    // One of each kind that would not get through as it is, and one that does.
    let well = "\
startupProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 5}
    readinessProbe: {httpGet: {path: \"/?full=1\", port: 8443, scheme: HTTPS}, periodSeconds: 1, timeoutSeconds: 5}
    livenessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1, failureThreshold: 60}";
    namespace.apply(&pod("well", well)).unwrap();
    let closed = "readinessProbe: {tcpSocket: {port: 9999}, periodSeconds: 1}";
    namespace.apply(&pod("closed", closed)).unwrap();
    let plain = "readinessProbe: {httpGet: {path: \"/?full=1\", port: 8080}, periodSeconds: 1}";
    namespace.apply(&pod("plain", plain)).unwrap();
    namespace.ready("well").unwrap();
    namespace.ready("plain").unwrap();

    // The kubelet has asked by now, and was told.
    let events = ["--namespace", namespace.name(), "get", "events", "--field-selector", "involvedObject.name=closed"];
    eventually("the kubelet says that the probe fails", || {
        let events = kubectl(&events)?;
        anyhow::ensure!(events.contains("Readiness probe failed") && events.contains("503"), "{events}");
        Ok(())
    })
    .unwrap();
    assert!(!is_ready(&namespace, "closed"), "nobody listens there");
    assert!(is_ready(&namespace, "well"));

    // What is scraped stays open, and nothing beside it.
    let ip = get(namespace.name(), "pod", "well").unwrap()["status"]["podIP"].as_str().unwrap().to_owned();
    for (url, want) in [(format!("http://{ip}:8080/metrics"), "200 ok"), (format!("http://{ip}:8080/"), "403")] {
        let said = outside.curl("client", &url).unwrap();
        assert!(said.starts_with(want), "{url}: {said}");
    }
}
