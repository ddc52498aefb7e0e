use super::*;

fn installation() -> Installation {
    Installation {
        image: "weft.test/weft:1".to_owned(),
        control_plane: "weft-control-plane.weft-system.svc:14010".to_owned(),
        trust_domain: "cluster.local".to_owned(),
    }
}

fn injected(yaml: &str) -> Injected {
    match text(yaml, &installation()) {
        Ok(injected) => injected,
        Err(refused) => panic!("{yaml}\n{}", refused.iter().map(ToString::to_string).collect::<String>()),
    }
}

fn refused(yaml: &str) -> String {
    let refused = text(yaml, &installation()).err().unwrap_or_else(|| panic!("{yaml}\nwas taken"));
    refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

const DEPLOYMENT: &str = "\
# The cart.
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}   # one line
spec:
  template:
    metadata:
      labels: {app: cart}
    spec:
      containers:
      - name: cart   # the only one
        image: \"cart:1\"
        command:
        - sh
        - -c
        - |
          echo hello
          # no comment

      volumes:
      # Written often.
      - name: data
        emptyDir: {}

      # The end of volumes.
      terminationGracePeriodSeconds: 0x1e
---
apiVersion: v1
kind: Service
metadata:   {name:   cart}
";

#[test]
fn what_is_added_is_added_and_every_other_line_stays_as_it_was() {
    let Injected { text, found } = injected(DEPLOYMENT);
    let mut lines = text.lines();
    for line in DEPLOYMENT.lines() {
        assert!(lines.any(|it| it == line), "{line:?} is gone or has moved:\n{text}");
    }
    // The added volume stands behind the one that was there, and before what follows.
    assert!(text.contains("        emptyDir: {}\n      - name: weft-trust\n"), "{text}");
    assert!(text.contains("    metadata:\n      annotations:\n        weft.dev/injected-by: "), "{text}");
    assert!(text.contains("    spec:\n      initContainers:\n      - name: weft-init\n"), "{text}");
    let fates: Vec<(&str, &Fate)> = found.iter().map(|found| (found.object.as_str(), &found.fate)).collect();
    assert_eq!(fates, [("Deployment shop/cart", &Fate::Injected), ("Service cart", &Fate::NoPods)]);
}

#[test]
fn twice_is_once() {
    let once = injected(DEPLOYMENT).text;
    let twice = injected(&once);
    assert_eq!(twice.text, once);
    assert!(matches!(twice.found[0].fate, Fate::LeftAlone(_)), "{:?}", twice.found);
}

/// The outcome is read again and compared with what the webhook makes of the same pod, whatever the way it is written in: see
/// `document`. A way that is not understood is an error, and so no text here may be refused.
#[test]
fn every_kind_and_every_way_of_writing_it() {
    let pod = "metadata: {labels: {a: b}}\nspec: {containers: [{name: a, image: a}]}\n";
    let nested = |indent: usize| pod.lines().map(|line| format!("{}{line}\n", " ".repeat(indent))).collect::<String>();
    let four = nested(4);
    for yaml in [
        format!("apiVersion: v1\nkind: Pod\n{pod}"),
        format!("apiVersion: apps/v1\nkind: StatefulSet\nspec:\n  template:\n{four}"),
        format!("apiVersion: apps/v1\nkind: DaemonSet\nspec:\n  template:\n{four}"),
        format!("apiVersion: apps/v1\nkind: ReplicaSet\nspec:\n  template:\n{four}"),
        format!("apiVersion: batch/v1\nkind: Job\nspec:\n  template:\n{four}"),
        format!("apiVersion: batch/v1\nkind: CronJob\nspec:\n  jobTemplate:\n    spec:\n      template:\n{}", nested(8)),
        format!("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n{}", nested(2)),
        format!("apiVersion: v1\nkind: List\nitems:\n  -\n    apiVersion: v1\n    kind: Pod\n{four}"),
        format!("apiVersion: v1\nkind: PodList\nitems:\n- # a comment - with a dash\n{}", nested(2)),
        // Without metadata; with empty ones; without an end of line.
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a}]}".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata:\nspec: {containers: [{name: a}]}\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata: ~\nspec: {containers: [{name: a}]}\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata: # none\nspec: {containers: [{name: a}]}\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {initContainers: [], containers: [{name: a}]}\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {}\nspec:\n  containers: [{name: a}]\n  volumes:\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    é: ü\nspec:\n  containers:\n    - name: a\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata: {annotations: {a: b}}\nspec:\n  volumes:\n  - name: v\n    configMap:\n      name: c # x".to_owned(),
        "apiVersion: v1\nkind: Pod\nspec:\n  containers: [{name: a}]\n  volumes:\n  - name: v\n    hostPath:\n      path: >-\n        /a\n        b\n\n\n# End.\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nspec:\n  containers: [{name: a}]\n  initContainers:\n  - name: first\n    args: [a,\n      b]\n  volumes: [{name: v, emptyDir: {}}]\n".to_owned(),
        // A shared piece that is not touched.
        "apiVersion: v1\nkind: Pod\nmetadata: {labels: &l {a: b}}\nspec: {containers: [{name: a}], nodeSelector: *l}\n".to_owned(),
        "\u{feff}apiVersion: v1\r\nkind: Pod\r\nmetadata:\r\n  name: a\r\nspec:\r\n  containers:\r\n  - name: a\r\n".to_owned(),
        "%YAML 1.2\n---\napiVersion: v1\nkind: Pod\nspec: {containers: [{name: a}]}\n...\n".to_owned(),
        "--- {apiVersion: v1, kind: Pod, spec: {containers: [{name: a}]}}\n--- # nothing\n---\n".to_owned(),
        // JSON.
        "{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Pod\",\n  \"metadata\": {\n    \"name\": \"a\"\n  },\n  \"spec\": {\n    \"containers\": [\n      {\"name\": \"a\"}\n    ]\n  }\n}\n".to_owned(),
    ] {
        let once = injected(&yaml);
        assert!(once.text.contains("weft-proxy"), "{yaml}\n{}", once.text);
        assert_eq!(once.found.iter().filter(|found| found.fate == Fate::Injected).count(), 1, "{yaml}\n{:?}", once.found);
        assert_eq!(injected(&once.text).text, once.text, "{yaml}");
        if yaml.starts_with('{') {
            serde_json::from_str::<Value>(&once.text).unwrap();
        }
    }
}

#[test]
fn what_is_not_ours_keeps_its_bytes() {
    for yaml in [
        "",
        "# Only a comment.\n",
        "---\n---\n# x\n",
        "apiVersion: v1\nkind: Service\nspec:   {a:   0x10}\n",
        "apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nspec: {tasks: []}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {labels: {weft.dev/inject:   disabled}}\nspec: {}\n",
        "apiVersion: v1\nkind: Pod\nspec: {hostNetwork:   true}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {namespace:   kube-system}\nspec: {}\n",
    ] {
        assert_eq!(injected(yaml).text, yaml);
    }
}

#[test]
fn a_bad_document_is_named_with_its_line_and_field() {
    let bad = "\
apiVersion: v1
kind: Service
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  template:
    metadata: {annotations: {config.weft.dev/drain-seconds: soon}}
    spec: {containers: [{name: a, securityContext: {runAsUser: 2140}}]}
---
a: [
---
kind: List
items: [{kind: Pod, apiVersion: v1, spec: []}, {}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: x}
--- 7
";
    let told = refused(bad);
    for want in [
        "document 2 (line 3): Deployment shop/cart: spec.template.metadata.annotations[config.weft.dev/drain-seconds]: \"soon\"",
        "document 3 (line 12): not YAML: unclosed",
        "document 4 (line 13): Pod without a name: items[0].spec: ",
        "document 4 (line 13): an object without a name: items[1].kind: missing",
        "document 5 (line 16): Deployment x: spec.template: missing",
        "document 6 (line 20): is no object",
    ] {
        assert!(told.lines().any(|line| line.starts_with(want)), "{want}\n{told}");
    }
}

#[test]
fn what_cannot_be_added_to_is_refused_and_not_mangled() {
    let shared =
        "apiVersion: v1\nkind: Pod\nmetadata: {labels: &a {x: y}, annotations: *a}\nspec: {containers: [{name: a}]}\n";
    assert!(
        refused(shared).contains("Pod without a name: metadata.annotations: is written in a way"),
        "{}",
        refused(shared)
    );
    let anchored =
        "apiVersion: v1\nkind: Pod\nmetadata: {annotations: &a {x: y}, labels: *a}\nspec: {containers: [{name: a}]}\n";
    assert!(refused(anchored).contains("is written in a way"));
}
