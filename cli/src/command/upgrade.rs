//! `weft upgrade`.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use kube::Client;
use weft_install::Layer;
use weft_install::objects::{RECORD, RECORD_VALUES};

use super::install::{ValueArgs, text_of};
use super::uninstall::no_longer;
use super::{Ends as _, Exit};
use crate::check::{self, Fact};
use crate::cluster::ClusterArgs;
use crate::rollout::{self, Asked};

/// Flags of `weft upgrade`.
#[derive(Debug, Args)]
#[command(after_help = "\
First the control plane, then the workloads; proxies one minor version older or newer than the control plane work:
  weft upgrade | kubectl apply -f -
  kubectl -n weft-system rollout status deployment
  weft upgrade --workloads

What was set is read from the ConfigMap weft-installation of weft-system. Who installed by Helm, Kustomize or Argo CD \
upgrades by the same, and uses --workloads of this.")]
pub(crate) struct Options {
    #[command(flatten)]
    values: ValueArgs,
    /// Restart the workloads whose proxies are of another version, wave by wave, each when the one before is ready.
    #[arg(long, conflicts_with_all = ["set", "files"])]
    workloads: bool,
    /// Only workloads of this namespace; may be repeated. Else those of every labelled one.
    #[arg(short, long, value_name = "NAME", requires = "workloads")]
    namespace: Vec<String>,
    /// Workloads with a proxy of this version too.
    #[arg(long, requires = "workloads")]
    all: bool,
    /// How many workloads are restarted at once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "N", requires = "workloads")]
    wave: u16,
    /// How long a wave may take, in seconds; then nothing more is restarted.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", requires = "workloads")]
    timeout: u32,
    /// Say what would be restarted, and restart nothing.
    #[arg(long, requires = "workloads")]
    dry_run: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

const RECORD_PATH: &str = "/api/v1/namespaces/weft-system/configmaps/weft-installation";
const CONTROL_PLANE_PATH: &str = "/apis/apps/v1/namespaces/weft-system/deployments/weft-control-plane";

/// Prints the objects of this version, or restarts workloads.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    options.cluster.run(async |client| {
        if options.workloads { workloads(options, client).await } else { objects(options, client).await }
    })?
}

async fn objects(options: &Options, client: Client) -> anyhow::Result<Exit> {
    let record = record(check::get(&client, RECORD_PATH).await).ends(Exit::Unavailable)?;
    let (before, was) = (record.layer()?, &record.version);
    let read = options.values.read(Some(before.clone()));
    let (values, set) = read.context("what was set before, with what is set now (--set KEY=null takes a key away)")?;
    let mut told = format!("from {was} to {}, keeping what was set: {set}\n", env!("CARGO_PKG_VERSION"));
    for object in no_longer(before, &values) {
        let text = |pointer: &str| object.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
        let delete = ["no longer part of it: kubectl delete ", text("/kind"), " ", text("/metadata/name")];
        told.extend(delete);
        let namespace = text("/metadata/namespace");
        told.extend(if namespace.is_empty() { ["", "", "\n"] } else { [" -n ", namespace, "\n"] });
    }
    std::io::stderr().write_all(told.as_bytes()).context("saying what was set")?;
    let text = text_of(&weft_install::installed(&values, &set));
    std::io::stdout().write_all(text.as_bytes()).context("printing")?;
    Ok(Exit::Done)
}

/// What was written down when this cluster was installed or upgraded last.
#[derive(Debug)]
struct Record {
    version: String,
    values: String,
}

impl Record {
    fn layer(&self) -> anyhow::Result<Layer> {
        Layer::file(&self.values).with_context(|| format!("the ConfigMap {RECORD} of weft-system"))
    }
}

fn record(fact: Fact) -> anyhow::Result<Record> {
    match fact {
        Fact::There(map) => {
            let text = |key: &str| map["data"][key].as_str().unwrap_or_default().to_owned();
            Ok(Record { version: text("version"), values: text(RECORD_VALUES) })
        }
        Fact::Missing => Err(anyhow!(
            "there is no ConfigMap {RECORD} in weft-system: weft install did not install this cluster; upgrade it by what did \
             (helm upgrade, kubectl apply -k, Argo CD), or say again what was set: weft install --set ..."
        )),
        Fact::Unknown(why) => Err(anyhow!("the ConfigMap {RECORD} of weft-system cannot be read: {why}")),
    }
}

async fn workloads(options: &Options, client: Client) -> anyhow::Result<Exit> {
    let (record, control_plane) =
        (check::get(&client, RECORD_PATH).await, check::get(&client, CONTROL_PLANE_PATH).await);
    let version = check::installed_version(&record, &control_plane).with_context(|| match (&record, &control_plane) {
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => {
            format!("which version is installed cannot be seen: {why}")
        }
        _ => "nothing says which version is installed: is the control plane there? weft check tells more".to_owned(),
    });
    let asked = Asked {
        version: version.ends(Exit::Unavailable)?.to_owned(),
        namespaces: options.namespace.clone(),
        all: options.all,
        wave: usize::from(options.wave),
        patience: Duration::from_secs(options.timeout.into()),
        dry_run: options.dry_run,
    };
    let say = |line: &str| std::io::stdout().write_all(format!("{line}\n").as_bytes()).context("printing");
    rollout::run(&client, &asked, say).await?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_of_another_version_is_refused_until_it_is_taken_away() {
        let before = || Some(Layer::set("gone.with.it=1").unwrap());
        assert!(ValueArgs::default().read(before()).unwrap_err().to_string().contains("the values"));
        let without = ValueArgs { set: vec!["gone=null".to_owned()], ..ValueArgs::default() };
        without.read(before()).unwrap();
        assert!(no_longer(before().unwrap(), &weft_install::Values::default()).is_empty());
    }

    #[test]
    fn what_was_written_down_is_read_and_its_absence_explained() {
        let set = json!({"controlPlane": {"replicas": 3}});
        let data = json!({"version": "0.0.9", RECORD_VALUES: weft_install::document(&set)});
        let record = record(Fact::There(json!({"data": data}))).unwrap();
        assert_eq!(record.version, "0.0.9");
        let values = ValueArgs::default().read(Some(record.layer().unwrap())).unwrap();
        assert_eq!((values.0.control_plane.replicas, values.1), (3, set));
        assert!(super::record(Fact::Missing).unwrap_err().to_string().contains("helm upgrade"));
        assert!(super::record(Fact::Unknown("no".to_owned())).is_err());
    }
}
