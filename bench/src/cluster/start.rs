//! How much longer a pod takes from its creation until it is ready with a proxy than without one.
//!
//! One pod at a time, with and without in turn, so that what the machine does meanwhile does to both alike.

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod, PodStatus};
use kube::api::DeleteParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::eventually;
use super::objects::create;
use crate::figure::Samples;

/// Flags of `start`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Pods of each sort.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pods: u32,
}

const NAMESPACES: [(&str, &str); 2] = [("weft-start-with", "enabled"), ("weft-start-without", "disabled")];

/// Measures it.
pub(super) async fn run(options: &Options, client: &Client) -> anyhow::Result<()> {
    for (name, inject) in NAMESPACES {
        let namespace = json!({"metadata": {"name": name, "labels": {"weft.dev/inject": inject}}});
        create(&Api::<Namespace>::all(client.clone()), namespace).await?;
    }
    let measured = Box::pin(measure(options, client)).await;
    for (name, _) in NAMESPACES {
        Api::<Namespace>::all(client.clone()).delete(name, &DeleteParams::default()).await?;
    }
    measured
}

/// What it is called, and whether a pod with this status is past it.
type Stage = (&'static str, fn(&PodStatus) -> bool);

/// What a pod goes through, as the API server tells it.
const STAGES: [Stage; 5] = [
    ("weft-init ended", |status| {
        init(status, "weft-init").is_some_and(|it| it.state.as_ref().is_some_and(|state| state.terminated.is_some()))
    }),
    ("weft-proxy runs", |status| init(status, "weft-proxy").is_some_and(is_running)),
    ("weft-proxy is ready", |status| init(status, "weft-proxy").is_some_and(|it| it.started == Some(true))),
    ("the application runs", |status| status.container_statuses.iter().flatten().any(is_running)),
    ("ready", |status| {
        status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }),
];

fn init<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    status.init_container_statuses.iter().flatten().find(|it| it.name == name)
}

fn is_running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

async fn measure(options: &Options, client: &Client) -> anyhow::Result<()> {
    let mut took: [[Samples; STAGES.len()]; 2] = Default::default();
    // The first of each finds what is cached from then on.
    for n in 0..=options.pods {
        for ((namespace, _), samples) in NAMESPACES.iter().zip(&mut took) {
            let seconds = Box::pin(once(client, namespace, &format!("app-{n}"))).await?;
            for (seconds, samples) in seconds.into_iter().zip(samples).filter(|_| n > 0) {
                if let Some(seconds) = seconds {
                    samples.add(seconds);
                }
            }
        }
    }
    for ((name, _), samples) in NAMESPACES.iter().zip(&took) {
        for ((stage, _), samples) in STAGES.iter().zip(samples) {
            if let Some(median) = samples.median() {
                println!("{name}: {stage} after {median:.2} s");
            }
        }
    }
    let [with, without] = took.map(|samples| samples.last().and_then(Samples::median).unwrap_or(f64::NAN));
    println!(
        "from create to ready, median of {}: {with:.2} s with a proxy, {without:.2} s without, {:.2} s more \
         (at most 2.5; with the CNI plugin 1.5)",
        options.pods,
        with - without
    );
    Ok(())
}

/// Makes a pod, and tells after how many seconds it was past each stage.
async fn once(client: &Client, namespace: &str, name: &str) -> anyhow::Result<[Option<f64>; STAGES.len()]> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let probe = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    let container = json!({"name": "app", "image": "weft.test/app:1", "args": ["serve", "http", "8080"],
        "readinessProbe": probe});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container]});
    let pod = json!({"metadata": {"name": name}, "spec": spec});
    eventually("the namespace takes pods", async || create(&pods, pod.clone()).await.ok()).await?;
    let begun = Instant::now();
    let mut past = [None; STAGES.len()];
    eventually("a pod that is ready", async || {
        let status = pods.get_status(name).await.ok()?.status?;
        let now = begun.elapsed().as_secs_f64();
        for (past, (_, is_past)) in past.iter_mut().zip(STAGES) {
            if past.is_none() && is_past(&status) {
                *past = Some(now);
            }
        }
        past.last().copied().flatten()
    })
    .await?;
    pods.delete(name, &DeleteParams::default()).await.context("deleting a pod")?;
    eventually("the pod is gone", async || pods.get_opt(name).await.ok()?.is_none().then_some(())).await?;
    Ok(past)
}
