//! `examples/shop/gitops`, and the autoscaler of the shop: whether they build, agree with each other, and are answered by Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use weft_tests_kubernetes::{eventually, get, kubectl};

use crate::SHOP;
use crate::prometheus::Prometheus;

/// The environments, and what each gives to the old and to the new version.
const ENVIRONMENTS: [(&str, [u64; 2]); 2] = [("production", [90, 10]), ("staging", [50, 50])];

/// What runs; everything else has to be there before.
const RUNS: [&str; 2] = ["Deployment", "HorizontalPodAutoscaler"];

#[test]
fn each_environment_has_its_weights() {
    let names = fs::read_dir(root().join("overlays")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: BTreeSet<_> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(names.iter().eq(ENVIRONMENTS.map(|(name, _)| name)), "not all of {names:?} are tested");
    for (environment, want) in ENVIRONMENTS {
        let objects = built(environment).unwrap();
        let route = find(&objects, "HTTPRoute", "product-canary").unwrap();
        let readers = &route["spec"]["rules"][1];
        assert!(readers["matches"].is_null(), "{environment}: not the rule of the catalogue's readers: {readers}");
        let shares = readers["backendRefs"].as_array().unwrap().iter();
        let shares: Vec<_> = shares.map(|to| (to["name"].as_str().unwrap(), to["weight"].as_u64().unwrap())).collect();
        assert_eq!(shares, [("product-v1", want[0]), ("product-v2", want[1])], "{environment}");
        for (service, _) in shares {
            find(&objects, "Service", service).unwrap();
            find(&objects, "Deployment", service).unwrap();
        }
    }
}

#[test]
fn policies_come_before_pods_and_after_services() {
    for (environment, _) in ENVIRONMENTS {
        let objects = built(environment).unwrap();
        let waves = |kinds: &[&str]| -> Vec<i64> {
            let of_kind = objects.iter().filter(|object| kinds.iter().any(|kind| object["kind"] == *kind));
            of_kind.map(wave).collect::<anyhow::Result<_>>().unwrap()
        };
        let services = waves(&["Namespace", "Service", "ServiceAccount"]);
        let policies = waves(&["AuthorizationPolicy", "HTTPRoute", "TrafficPolicy"]);
        let runs = waves(&RUNS);
        assert_eq!(
            services.len() + policies.len() + runs.len(),
            objects.len(),
            "{environment}: a kind without a place"
        );
        assert!(services.iter().max() < policies.iter().min(), "{environment}: {services:?} {policies:?}");
        assert!(policies.iter().max() < runs.iter().min(), "{environment}: {policies:?} {runs:?}");
    }
}

#[test]
fn argo_cd_has_an_application_for_each_environment() {
    let root_application = &read(&root().join("argocd/root.yaml")).unwrap()[0];
    let applications = in_repository(root_application["spec"]["source"]["path"].as_str().unwrap());
    for (environment, _) in ENVIRONMENTS {
        let file = applications.join(format!("shop-{environment}.yaml"));
        let application = &read(&file).unwrap()[0];
        let path = in_repository(application["spec"]["source"]["path"].as_str().unwrap());
        assert_eq!(path.canonicalize().unwrap(), overlay(environment).canonicalize().unwrap(), "{}", file.display());
        let source = |field: &str| (&application["spec"]["source"][field], &root_application["spec"]["source"][field]);
        for (own, roots) in ["repoURL", "targetRevision"].map(source) {
            assert_eq!(own, roots, "{}", file.display());
        }
        // Who counts replicas in the cluster is not contradicted, and nobody else is let go.
        let objects = built(environment).unwrap();
        let scaled: Vec<_> = objects.iter().filter_map(target).collect();
        let ignored = application["spec"]["ignoreDifferences"].as_array().into_iter().flatten();
        let ignored: Vec<_> =
            ignored.map(|one| (one["kind"].as_str().unwrap(), one["name"].as_str().unwrap())).collect();
        assert_eq!(ignored, scaled, "{}", file.display());
    }
    let adapter = &read(&applications.join("prometheus-adapter.yaml")).unwrap()[0];
    let values = adapter["spec"]["sources"][0]["helm"]["valueFiles"][0].as_str().unwrap();
    let values = in_repository(values.strip_prefix("$weft/").unwrap());
    assert_eq!(values.canonicalize().unwrap(), adapter_values().canonicalize().unwrap());
}

#[test]
fn flux_applies_everything_once_and_what_runs_last() {
    for (environment, _) in ENVIRONMENTS {
        let objects = built(environment).unwrap();
        let kinds: BTreeSet<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let file = root().join(format!("flux/{environment}.yaml"));
        let [first, second] = &read(&file).unwrap()[..] else { panic!("not two documents in {}", file.display()) };
        assert_eq!(second["spec"]["dependsOn"][0]["name"], first["metadata"]["name"], "{}", file.display());
        let applied = [first, second].map(|kustomization| {
            let path = in_repository(kustomization["spec"]["path"].as_str().unwrap());
            assert_eq!(
                path.canonicalize().unwrap(),
                overlay(environment).canonicalize().unwrap(),
                "{}",
                file.display()
            );
            let patch = &kustomization["spec"]["patches"][0];
            assert!(patch["patch"].as_str().unwrap().starts_with("{$patch: delete,"), "{patch}");
            let left_out: Vec<_> = patch["target"]["kind"].as_str().unwrap().split('|').collect();
            kinds.iter().filter(|kind| !left_out.contains(kind)).copied().collect::<BTreeSet<_>>()
        });
        let runs: BTreeSet<_> = kinds.iter().filter(|kind| RUNS.contains(kind)).copied().collect();
        assert_eq!(applied[1], runs, "{}", file.display());
        assert_eq!(applied[0], kinds.difference(&runs).copied().collect(), "{}", file.display());
    }
}

#[test]
fn the_autoscaler_scales_what_may_be_several_by_what_the_adapter_tells() {
    let objects = built("production").unwrap();
    let autoscaler = find(&objects, "HorizontalPodAutoscaler", "storefront").unwrap();
    let (kind, name) = target(autoscaler).unwrap();
    let scaled = find(&objects, kind, name).unwrap();
    assert_eq!(scaled["apiVersion"], autoscaler["spec"]["scaleTargetRef"]["apiVersion"]);
    assert!(scaled["spec"]["replicas"].is_null(), "each apply would set {} replicas", scaled["spec"]["replicas"]);
    assert_eq!(scaled["spec"]["strategy"]["type"], "RollingUpdate");
    let told: BTreeSet<_> = rules().unwrap().into_iter().map(|rule| rule.metric).collect();
    let asked = autoscaler["spec"]["metrics"].as_array().unwrap().iter();
    let asked: BTreeSet<_> =
        asked.map(|metric| metric["pods"]["metric"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(asked, told);
}

/// Whether the API server takes every overlay in place of the shop that runs.
pub(crate) fn overlays_are_taken() -> anyhow::Result<()> {
    for (environment, _) in ENVIRONMENTS {
        kubectl(&["apply", "--dry-run=server", "--kustomize", &overlay(environment).display().to_string()])
            .with_context(|| environment.to_owned())?;
    }
    Ok(())
}

/// Whether the adapter's queries tell something of every pod that the autoscaler counts.
pub(crate) fn autoscaler_is_answered(prometheus: &Prometheus) -> anyhow::Result<()> {
    let objects = built("production")?;
    let (kind, name) = target(find(&objects, "HorizontalPodAutoscaler", "storefront")?).context("no target")?;
    let pods = pods_of(kind, name)?;
    for rule in rules()? {
        eventually("series for the adapter", || rule_is_answered(prometheus, &rule, &pods))?;
    }
    Ok(())
}

/// Whether a rule's query tells something of each of these pods, and nothing of others.
fn rule_is_answered(prometheus: &Prometheus, rule: &Rule, pods: &BTreeSet<String>) -> anyhow::Result<()> {
    let discovered = prometheus.query(&rule.series_query)?;
    let labelled = discovered.iter().any(|(labels, _)| labels["namespace"] == "shop" && labels["pod"].is_string());
    ensure!(labelled, "{}: {discovered:?}", rule.series_query);
    let query = rule.query("shop", pods);
    let told = prometheus.query(&query)?;
    let of: BTreeSet<_> = told.iter().filter_map(|(labels, _)| labels["pod"].as_str()).collect();
    ensure!(of.len() == told.len() && of.iter().eq(pods), "{query} tells of {told:?}, not of {pods:?}");
    ensure!(told.iter().all(|(_, value)| value.is_finite()), "{query}: {told:?}");
    // The probes alone are half a request a second; the customer makes more.
    let busy = rule.series != "weft_requests_total" || told.iter().map(|(_, rate)| rate).sum::<f64>() > 1.0;
    ensure!(busy, "{query} does not tell of the customer: {told:?}");
    Ok(())
}

/// The names of the pods that run for something with a selector, in order.
fn pods_of(kind: &str, name: &str) -> anyhow::Result<BTreeSet<String>> {
    let scaled = get("shop", kind, name)?;
    let labels = scaled["spec"]["selector"]["matchLabels"].as_object().context("no selector")?;
    let labels: Vec<_> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let selector = labels.join(",");
    let pods = kubectl(&["--namespace", "shop", "get", "pods", "--output", "json", "--selector", &selector])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
    let names: BTreeSet<_> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "no pod of {kind} {name}");
    Ok(names)
}

/// One rule of the adapter.
#[derive(Debug)]
struct Rule {
    /// What the autoscaler asks for.
    metric: String,
    /// The Prometheus metric that it is made of.
    series: String,
    /// By which the adapter finds out which objects have it.
    series_query: String,
    /// A template in the adapter's own words.
    metrics_query: String,
}

impl Rule {
    /// What the adapter asks Prometheus when it is asked about these pods.
    fn query(&self, namespace: &str, pods: &BTreeSet<String>) -> String {
        let pods = pods.iter().map(String::as_str).collect::<Vec<_>>().join("|");
        self.metrics_query
            .replace("<<.Series>>", &self.series)
            .replace("<<.LabelMatchers>>", &format!("namespace=\"{namespace}\",pod=~\"{pods}\""))
            .replace("<<.GroupBy>>", "pod")
    }
}

/// The rules that the adapter is given.
fn rules() -> anyhow::Result<Vec<Rule>> {
    let values = read(&adapter_values())?;
    let rules = values[0]["rules"]["custom"].as_array().context("no rules.custom")?;
    rules
        .iter()
        .map(|rule| {
            let text =
                |path: &str| rule.pointer(path).and_then(Value::as_str).with_context(|| format!("no {path} in {rule}"));
            for resource in ["namespace", "pod"] {
                ensure!(text(&format!("/resources/overrides/{resource}/resource"))? == resource, "{rule}");
            }
            let series_query = text("/seriesQuery")?;
            let series = series_query.split('{').next().unwrap_or_default();
            ensure!(
                text("/name/matches")? == format!("^{series}$"),
                "{series} is not what the name is made of: {rule}"
            );
            let metrics_query = text("/metricsQuery")?;
            for field in ["<<.Series>>", "<<.LabelMatchers>>", "<<.GroupBy>>"] {
                ensure!(metrics_query.contains(field), "no {field} in {metrics_query}");
            }
            Ok(Rule {
                metric: text("/name/as")?.to_owned(),
                series: series.to_owned(),
                series_query: series_query.to_owned(),
                metrics_query: metrics_query.to_owned(),
            })
        })
        .collect()
}

/// What an autoscaler scales: kind and name.
fn target(object: &Value) -> Option<(&str, &str)> {
    let of = object["spec"].get("scaleTargetRef")?;
    Some((of["kind"].as_str()?, of["name"].as_str()?))
}

/// The wave in which Argo CD applies an object.
fn wave(object: &Value) -> anyhow::Result<i64> {
    match &object["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] {
        Value::Null => Ok(0),
        wave => wave.as_str().and_then(|wave| wave.parse().ok()).with_context(|| format!("no wave: {wave}")),
    }
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> anyhow::Result<&'a Value> {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.with_context(|| format!("no {kind} {name}"))
}

/// The objects of an environment.
fn built(environment: &str) -> anyhow::Result<Vec<Value>> {
    let text = kubectl(&["kustomize", &overlay(environment).display().to_string()])?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("what kubectl makes of {environment} is no YAML"))
}

/// The documents of a file.
fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_saphyr::from_multiple(&text).with_context(|| file.display().to_string())
}

fn overlay(environment: &str) -> PathBuf {
    root().join("overlays").join(environment)
}

fn adapter_values() -> PathBuf {
    Path::new(SHOP).join("autoscaling/prometheus-adapter.yaml")
}

fn root() -> PathBuf {
    in_repository("examples/shop/gitops")
}

/// Where a path lies that starts at the root of the repository.
fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
