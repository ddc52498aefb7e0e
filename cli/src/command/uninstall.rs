//! `weft uninstall`.

use std::io::Write as _;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use weft_install::{Layer, Values};
use weft_model::kubernetes::TRUST_BUNDLE;

use super::Exit;
use super::install::ValueArgs;

/// Flags of `weft uninstall`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, in this order:
  kubectl label namespace shop weft.dev/inject-
  kubectl -n shop rollout restart deployment
  weft uninstall | kubectl delete --ignore-not-found -f -

Pods that keep their proxy go on with the certificate that they have, for its lifetime. Everything that can have been \
installed is among it, whatever was set; a priority class of your own only if its name is given by --set or --values as it \
was installed.")]
pub(crate) struct Options {
    /// Delete the definitions of Weft's kinds too, and with them every policy of the cluster.
    #[arg(long)]
    crds: bool,
    #[command(flatten)]
    values: ValueArgs,
}

/// Prints the names of the objects, and says what stays.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let (values, _) = options.values.read(None)?;
    let text: Vec<String> = deleted(values, options.crds).iter().map(weft_install::document).collect();
    std::io::stderr().write_all(stays(options.crds).as_bytes()).context("saying what stays")?;
    std::io::stdout().write_all(text.join("---\n").as_bytes()).context("printing")?;
    Ok(Exit::Done)
}

/// The names of everything that is deleted. The webhook goes first, so that no pod waits for an injector that is gone, and the
/// namespace last.
fn deleted(mut values: Values, crds: bool) -> Vec<Value> {
    values.control_plane.autoscaling.enabled = true;
    values.disruption_budgets.enabled = true;
    values.cni.enabled = true;
    values.crds.enabled = crds;
    let mut objects: Vec<Value> =
        weft_install::installed(&values, &json!({})).iter().map(|manifest| name_of(&manifest.object)).collect();
    objects.reverse();
    objects.sort_by_key(|object| match object["kind"].as_str() {
        Some("MutatingWebhookConfiguration") => 0,
        Some("Namespace") => 2,
        _ => 1,
    });
    objects
}

/// An object without all but its name.
pub(super) fn name_of(object: &Value) -> Value {
    let mut metadata = json!({"name": object["metadata"]["name"]});
    if let Some(namespace) = object["metadata"].get("namespace") {
        metadata["namespace"] = namespace.clone();
    }
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata})
}

fn stays(crds: bool) -> String {
    let mut stays = vec![
        format!(
            "the ConfigMap {TRUST_BUNDLE} of every namespace that was labelled: kubectl delete configmap -A --field-selector metadata.name={TRUST_BUNDLE}"
        ),
        "the label weft.dev/inject of namespaces and workloads".to_owned(),
        "proxies of pods that are not restarted".to_owned(),
        "Gateway API, with its routes".to_owned(),
    ];
    if !crds {
        stays.push("the definitions of Weft's kinds, with every policy (--crds deletes them too)".to_owned());
    }
    let gone = "what goes with weft-system: the certificate authority (Secret weft-authority); an installation after this one has another";
    format!("What stays:\n- {}\n{gone}\n", stays.join("\n- "))
}

/// The names of what was installed by `before` and is not by what is set now. Nothing where `before` is of a version whose keys are
/// gone.
pub(super) fn no_longer(before: Layer, now: &Values) -> Vec<Value> {
    let Ok((before, _)) = Values::read([before]) else { return Vec::new() };
    let names = |values: &Values| -> Vec<Value> {
        weft_install::installed(values, &json!({})).iter().map(|manifest| name_of(&manifest.object)).collect()
    };
    let now = names(now);
    names(&before).into_iter().filter(|object| !now.contains(object)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhook_goes_first_the_namespace_last_and_policies_only_when_asked() {
        let objects = deleted(Values::default(), false);
        let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        assert_eq!((kinds.first(), kinds.last()), (Some(&"MutatingWebhookConfiguration"), Some(&"Namespace")));
        assert!(
            kinds.contains(&"HorizontalPodAutoscaler") && !kinds.contains(&"CustomResourceDefinition"),
            "{kinds:?}"
        );
        let with = deleted(Values::default(), true);
        assert_eq!(with.iter().filter(|object| object["kind"] == "CustomResourceDefinition").count(), 4);
        assert!(stays(false).contains("--crds") && !stays(true).contains("--crds"));
        let role = objects.iter().find(|object| object["kind"] == "Role").unwrap();
        assert_eq!(role.as_object().unwrap().len(), 3, "{role}");
    }

    #[test]
    fn what_was_turned_off_is_named() {
        let before = Layer::set("controlPlane.autoscaling.enabled=true").unwrap();
        let gone = no_longer(before, &Values::default());
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0]["kind"], "HorizontalPodAutoscaler");
    }
}
