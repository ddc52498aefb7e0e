//! `cargo xtask cluster bench`: what Weft costs a cluster. The control plane in one that is large and never still, and what a proxy
//! adds to the start of a pod.

mod objects;
mod scale;
mod start;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use kube::Client;
use tokio::time::{Instant, sleep};

use crate::kernel;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often it is looked whether something has come about.
const GLANCE: Duration = Duration::from_millis(20);

/// Measures Weft in the cluster of KUBECONFIG, where it is installed unless it is.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster bench", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The control plane where Services have many endpoints, endpoints change all the time and pods are rolled.
    Scale(scale::Options),
    /// How much longer a pod takes from its creation until it is ready with a proxy than without.
    Start(start::Options),
}

/// Runs what these words, without the program's name, ask for.
pub(crate) fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let args = Args::parse_from(std::iter::once("bench".into()).chain(words));
    match run_async(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_async(args: &Args) -> anyhow::Result<()> {
    weft_tests_kubernetes::installed()?;
    kernel::raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("no cluster")?;
        match &args.what {
            What::Scale(options) => Box::pin(scale::run(options, &client)).await,
            What::Start(options) => Box::pin(start::run(options, &client)).await,
        }
    })
}

/// Asks until there is an answer.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        ensure!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(GLANCE).await;
    }
}
