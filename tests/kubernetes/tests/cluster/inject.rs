//! Which pods get a proxy, and how they run with it.

use weft_tests_kubernetes::{Namespace, eventually, get, kubectl, refusal};

const SLEEPER: &str = "containers: [{name: app, image: \"weft.test/toolbox:1\", command: [sleep, \"1000000\"]}]";

fn names(pod: &serde_json::Value) -> Vec<&str> {
    let lists = [&pod["spec"]["initContainers"], &pod["spec"]["containers"]];
    lists.into_iter().filter_map(|list| list.as_array()).flatten().filter_map(|it| it["name"].as_str()).collect()
}

#[test]
fn a_label_on_the_namespace_or_on_the_pod_decides() {
    let (on, off) = (Namespace::meshed("label-on").unwrap(), Namespace::plain("label-off").unwrap());
    let pod = |name: &str, label: &str| {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{{label}}}}}, spec: {{{SLEEPER}}}}}")
    };
    for (namespace, name, label, has) in [
        (&on, "plain", "", true),
        (&on, "disabled", "weft.dev/inject: disabled", false),
        (&off, "plain", "", false),
        (&off, "enabled", "weft.dev/inject: enabled", true),
    ] {
        namespace.apply(&pod(name, label)).unwrap();
        let made = get(namespace.name(), "pod", name).unwrap();
        let want: &[&str] = if has { &["weft-proxy", "weft-init", "app"] } else { &["app"] };
        assert_eq!(names(&made), want, "{}/{name}", namespace.name());
    }
    off.ready("enabled").unwrap();
    let host =
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: host}}, spec: {{hostNetwork: true, {SLEEPER}}}}}");
    on.apply(&host).unwrap();
    assert_eq!(names(&get(on.name(), "pod", "host").unwrap()), ["app"], "the node's network is not redirected");
}

#[test]
fn a_job_with_a_proxy_completes() {
    let namespace = Namespace::meshed("job").unwrap();
    namespace
        .apply(
            "\
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: app, image: \"weft.test/toolbox:1\", command: [echo, done]}]
",
        )
        .unwrap();
    eventually("the job is complete", || {
        let job = get("job", "job", "once")?;
        anyhow::ensure!(job["status"]["succeeded"] == 1, "{}", job["status"]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_by_name() {
    let namespace = Namespace::meshed("nonsense").unwrap();
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a, annotations: {{config.weft.dev/proxy-cpu-limit: much}}}}, spec: {{{SLEEPER}}}}}"
    );
    let said = refusal(namespace.name(), &pod).unwrap();
    assert!(said.contains("config.weft.dev/proxy-cpu-limit") && said.contains("\"much\""), "{said}");
}

#[test]
fn a_pod_without_a_proxy_is_told_why() {
    let namespace = Namespace::plain("late-label").unwrap();
    let pod = |name: &str, spec: &str| {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{spec}{SLEEPER}}}}}")
    };
    namespace.apply(&pod("older", "")).unwrap();
    kubectl(&["label", "namespace", namespace.name(), "--overwrite", "weft.dev/inject=enabled"]).unwrap();
    namespace.apply(&pod("host", "hostNetwork: true, ")).unwrap();
    for (name, kind, want) in [("older", "Warning", "restart it"), ("host", "Normal", "its node's network")] {
        let told = eventually("an event", || {
            let of = format!("reason=NotInjected,involvedObject.name={name}");
            let as_text = "jsonpath={range .items[*]}{.type} {.message}{end}";
            let told = kubectl(&[
                "--namespace",
                namespace.name(),
                "get",
                "events",
                "--field-selector",
                &of,
                "--output",
                as_text,
            ])?;
            anyhow::ensure!(!told.is_empty(), "no event of {name}");
            Ok(told)
        });
        let told = told.unwrap();
        assert!(told.starts_with(kind) && told.contains(want), "{name}: {told}");
    }
}
