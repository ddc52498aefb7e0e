use super::*;

fn installation() -> Installation {
    Installation {
        image: "weft.test/weft:1".to_owned(),
        control_plane: "weft-control-plane.weft-system.svc:14010".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        ..Installation::default()
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
    assert!(text.contains("    spec:\n      initContainers:\n      - name: weft-proxy\n"), "{text}");
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

/// Writes a value down as somebody might: in blocks or braces, quoted or plain, with comments and gaps.
struct Hand(fastrand::Rng);

impl Hand {
    fn gap(&mut self, indent: usize) -> String {
        match self.0.u8(0..12) {
            0 => "\n".to_owned(),
            1 => format!("{}# A comment: - {{with}} signs.\n", " ".repeat(indent)),
            _ => String::new(),
        }
    }

    fn scalar(&mut self, value: &Value) -> String {
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase());
        match value.as_str() {
            Some(text) if is_plain(text) && self.0.bool() => text.to_owned(),
            Some(text) if self.0.bool() => format!("'{}'", text.replace('\'', "''")),
            _ => value.to_string(),
        }
    }

    /// It in braces.
    fn flow(&mut self, value: &Value) -> String {
        let comma = if self.0.bool() { ", " } else { " ,\n                " };
        match value {
            Value::Object(map) => {
                let entries = map.iter().map(|(name, value)| format!("{name}: {}", self.flow(value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(comma))
            }
            Value::Array(list) => {
                format!("[ {} ]", list.iter().map(|value| self.flow(value)).collect::<Vec<_>>().join(comma))
            }
            scalar => self.scalar(scalar),
        }
    }

    /// What stands behind a key or a dash.
    fn behind(&mut self, value: &Value, indent: usize, dash: bool) -> String {
        if let Value::String(text) = value
            && !dash
            && !text.is_empty()
            && self.0.u8(0..4) == 0
        {
            let head = ["|-", ">-  # folded"][self.0.usize(0..2)];
            return format!(" {head}\n{}{text}\n\n", " ".repeat(indent + 1));
        }
        let is_block = matches!(value, Value::Object(map) if !map.is_empty())
            || matches!(value, Value::Array(list) if !list.is_empty());
        if !is_block || self.0.u8(0..4) == 0 {
            return format!(" {}{}\n", self.flow(value), ["", "  # x"][self.0.usize(0..2)]);
        }
        let step = self.0.usize(if dash || value.is_object() { 1..4 } else { 0..4 });
        // On the dash's own line, behind as many blanks as the others will have.
        if dash && step > 1 && self.0.bool() {
            let block = self.block(value, indent + step);
            let bare = block.trim_start_matches(' ');
            if !bare.starts_with(['#', '\n']) {
                return format!("{}{bare}", " ".repeat(step - 1));
            }
        }
        format!("{}\n{}", ["", " # y"][self.0.usize(0..2)], self.block(value, indent + step))
    }

    fn block(&mut self, value: &Value, indent: usize) -> String {
        let pad = " ".repeat(indent);
        let mut parts = Vec::new();
        if let Value::Object(map) = value {
            for (name, value) in map {
                parts.push(format!("{}{pad}{name}:{}", self.gap(indent), self.behind(value, indent, false)));
            }
        }
        for value in value.as_array().into_iter().flatten() {
            parts.push(format!("{}{pad}-{}", self.gap(indent), self.behind(value, indent, true)));
        }
        parts.concat()
    }
}

#[test]
fn no_hand_is_misread() {
    let object = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "cart", "labels": {}},
        "spec": {"replicas": 2, "template": {
            "metadata": {"annotations": {"a": "b: c"}, "labels": {"app": "cart"}},
            "spec": {
                "containers": [
                    {"name": "cart", "args": ["a", "- b", "it's"], "env": [{"name": "X", "value": ""}]}, {"name": "other"},
                ],
                "initContainers": [{"name": "first", "command": ["sh", "-c", "exit 0"]}],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "end", "configMap": {"name": "end"}}],
            },
        }},
    });
    for seed in 0..300 {
        let yaml = Hand(fastrand::Rng::with_seed(seed)).block(&object, 0);
        assert_eq!(read(&yaml).as_ref(), Ok(&object), "{seed}: {yaml}");
        let once = injected(&yaml).text;
        assert_eq!(injected(&once).text, once, "{seed}: {yaml}");
        // Every character is still there, in its order.
        let mut chars = once.chars();
        assert!(yaml.chars().all(|c| chars.any(|it| it == c)), "{seed}: {yaml}\n---\n{once}");
    }
}

#[test]
fn keys_that_go_and_values_that_change_leave_the_rest_as_it_is() {
    let yaml = "\
a:  # first
  tcpSocket:
    port: 1
  text: |
    x

b:
- one  # kept
-  {c: 'd',  e: 1}
- two
c: 3   # last
";
    let old = read(yaml).unwrap();
    let new = serde_json::json!({"a": {"httpGet": {"port": 2}}, "b": ["one", {"c": "d", "e": [2]}, "two"], "c": "no"});
    let text = splice::spliced(yaml, &old, &new).unwrap();
    assert_eq!(read(&text).as_ref(), Ok(&new), "{text}");
    let want = "\
a:  # first
  httpGet:
    port: 2
b:
- one  # kept
-  {c: 'd',  e: [2]}
- two
c: \"no\"   # last
";
    assert_eq!(text, want);
}
