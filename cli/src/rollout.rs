//! Restarts workloads so that their pods get another proxy: in waves, each when the one before is ready. Which ones is decided from
//! what was gathered; the rest asks the API server and waits.

// Which workloads, and whether one is ready.
mod plan;

use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use weft_model::kubernetes::{ENABLED, INJECT_LABEL};

use crate::check::{self, Fact, told};
use plan::{Gathered, Plan, Progress, Workload, plan, progress};

/// How often it is looked how far a wave is.
const EVERY: Duration = Duration::from_secs(1);

/// The annotation that kubectl restarts by, too: it is where people look for the time.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// What is to be restarted.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The version that proxies should have.
    pub(crate) version: String,
    /// Only these; every labelled one where it is empty.
    pub(crate) namespaces: Vec<String>,
    /// Whatever version its proxy has.
    pub(crate) all: bool,
    /// How many at once.
    pub(crate) wave: usize,
    /// How long a wave may take.
    pub(crate) patience: Duration,
    /// Only say it.
    pub(crate) dry_run: bool,
}

/// Restarts them, and says what it does.
pub(crate) async fn run(
    client: &Client,
    asked: &Asked,
    say: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Plan { restarted, left } = plan(&gather(client, asked).await?, asked);
    for (what, why) in &left {
        say(&format!("left alone: {what}: {why}"))?;
    }
    let waves = restarted.len().div_ceil(asked.wave.max(1));
    for (i, wave) in restarted.chunks(asked.wave.max(1)).enumerate() {
        let names = wave.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        say(&format!("wave {} of {waves}: {names}", i + 1))?;
        if asked.dry_run {
            continue;
        }
        for workload in wave {
            restart(client, workload).await?;
        }
        wait(client, wave, asked.patience)
            .await
            .with_context(|| format!("wave {} of {waves}; what comes after it was not restarted", i + 1))?;
    }
    let done = if asked.dry_run { "would be restarted" } else { "restarted" };
    say(&format!("{} workloads {done}, {} left alone", restarted.len(), left.len()))
}

async fn gather(client: &Client, asked: &Asked) -> anyhow::Result<Vec<Gathered>> {
    let names = if asked.namespaces.is_empty() {
        let namespaces = items(client, "/api/v1/namespaces").await?;
        let label = format!("/metadata/labels/{}", INJECT_LABEL.replace('/', "~1"));
        let labelled = namespaces.iter().filter(|it| it.pointer(&label).and_then(Value::as_str) == Some(ENABLED));
        labelled.filter_map(|it| it.pointer("/metadata/name")?.as_str().map(str::to_owned)).collect()
    } else {
        asked.namespaces.clone()
    };
    let mut all = Vec::new();
    for namespace in names {
        let apps = |kind: &str| format!("/apis/apps/v1/namespaces/{namespace}/{kind}");
        let mut workloads = Vec::new();
        for kind in plan::KINDS {
            for object in items(client, &apps(kind.plural())).await? {
                workloads.push((kind, object));
            }
        }
        all.push(Gathered {
            pods: items(client, &format!("/api/v1/namespaces/{namespace}/pods")).await?,
            replica_sets: items(client, &apps("replicasets")).await?,
            workloads,
            namespace,
        });
    }
    Ok(all)
}

async fn items(client: &Client, path: &str) -> anyhow::Result<Vec<Value>> {
    match check::list(client, path).await {
        Fact::There(mut list) => Ok(match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        }),
        Fact::Missing => bail!("{path}: there is none"),
        Fact::Unknown(why) => bail!("{path}: {why}"),
    }
}

async fn restart(client: &Client, workload: &Workload) -> anyhow::Result<()> {
    let now = k8s_openapi::jiff::Timestamp::from_second(
        i64::try_from(weft_runtime::clock::WallClock::system().unix_seconds()).unwrap_or_default(),
    );
    let now = now.map(|now| now.to_string()).unwrap_or_default();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}});
    let request = http::Request::patch(workload.path())
        .header("content-type", "application/strategic-merge-patch+json")
        .body(patch.to_string().into_bytes())
        .context("a request")?;
    let patched = client.request::<Value>(request).await;
    patched.map(drop).map_err(|error| anyhow::anyhow!("restarting {workload}: {}", told(&error)))
}

/// Waits until all of a wave are ready.
async fn wait(client: &Client, wave: &[Workload], patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let mut waiting: Vec<(&Workload, String)> = wave.iter().map(|workload| (workload, String::new())).collect();
    loop {
        let mut still = Vec::new();
        for (workload, _) in waiting {
            match check::get(client, &workload.path()).await {
                Fact::There(object) => match progress(workload.kind, &object) {
                    Progress::Ready => {}
                    Progress::Stuck(why) => bail!("{workload}: {why}"),
                    Progress::Waiting(why) => still.push((workload, why)),
                },
                Fact::Missing => {}
                // The API server may be away for a moment; the deadline is for that too.
                Fact::Unknown(why) => still.push((workload, why)),
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let names =
                still.iter().map(|(workload, why)| format!("{workload} ({why})")).collect::<Vec<_>>().join(", ");
            bail!("not ready after {} s: {names}", patience.as_secs());
        }
        waiting = still;
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests;
