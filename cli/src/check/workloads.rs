//! What runs with a proxy, and what should.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_injector::patch::{Installation, Outcome, inject};
use weft_model::kubernetes::INJECTED_BY;
use weft_model::kubernetes::{PROXY_CONTAINER, TRUST_ANCHORS_KEY, TRUST_BUNDLE};
use weft_model::version::{Skew, Version};

use super::facts::{some, text};
use super::installed::certificates::Certificates;
use super::installed::{installed_version, uses_cni};
use super::{Facts, Labelled, Verdict};

pub(super) fn pod_security(facts: &Facts) -> Result<Verdict, Verdict> {
    if uses_cni(facts)? {
        return Ok(Verdict::good("with the CNI plugin pods with a proxy need no more than the level restricted gives"));
    }
    let enforced = |labelled: &&Labelled| {
        let level = text(&labelled.namespace, "/metadata/labels/pod-security.kubernetes.io~1enforce");
        matches!(level, "baseline" | "restricted")
    };
    let closed: Vec<String> = facts.namespaces()?.iter().filter(enforced).map(|it| it.name().to_owned()).collect();
    Ok(if closed.is_empty() {
        Verdict::good("labelled namespaces let the init container in")
    } else {
        Verdict::failure(
            format!(
                "the Pod Security level of these namespaces refuses NET_ADMIN, which weft-init needs: {}",
                some(&closed)
            ),
            "label them pod-security.kubernetes.io/enforce=privileged, and let another policy hold the applications",
        )
    })
}

pub(super) fn trust_bundle(facts: &Facts) -> Result<Verdict, Verdict> {
    let namespaces = facts.namespaces()?;
    let mut missing = Vec::new();
    let mut bundles = BTreeMap::<&str, Vec<String>>::new();
    for labelled in namespaces {
        let pem =
            labelled.bundle.known(TRUST_BUNDLE)?.map_or("", |map| text(map, &format!("/data/{TRUST_ANCHORS_KEY}")));
        match Certificates::read(pem.as_bytes()) {
            Some(_) => bundles.entry(pem).or_default().push(labelled.name().to_owned()),
            None => missing.push(labelled.name().to_owned()),
        }
    }
    let logs = "kubectl -n weft-system logs deployment/weft-control-plane says why; the leader writes each again within a minute";
    if !missing.is_empty() {
        let said =
            format!("namespaces have no ConfigMap {TRUST_BUNDLE} with certificates, and pods wait: {}", some(&missing));
        return Ok(Verdict::failure(said, logs));
    }
    let odd = bundles.values().min_by_key(|names| names.len()).filter(|_| bundles.len() > 1);
    Ok(match odd {
        Some(odd) => Verdict::failure(format!("namespaces trust different anchors; these differ: {}", some(odd)), logs),
        None if namespaces.is_empty() => Verdict::good("no namespace is labelled, so none needs one"),
        None => Verdict::good(format!("{} namespaces have the same one", namespaces.len())),
    })
}

pub(super) fn authority_expiry(facts: &Facts) -> Result<Verdict, Verdict> {
    let mut days = None::<i64>;
    let mut anchors = 0;
    for labelled in facts.namespaces()? {
        let pem =
            labelled.bundle.known(TRUST_BUNDLE)?.map_or("", |map| text(map, &format!("/data/{TRUST_ANCHORS_KEY}")));
        if let Some(certificates) = Certificates::read(pem.as_bytes()) {
            anchors = anchors.max(certificates.len());
            days = Some(certificates.days_left(facts.now_unix_s)).min(days.or(Some(i64::MAX)));
        }
    }
    let rotate = "rotate the trust anchor (docs/kubernetes.md): workloads take the new one without a restart";
    Ok(match days {
        None => Verdict::good("no namespace is labelled, so nobody was told of an authority"),
        Some(..0) => Verdict::failure("a trust anchor has expired: what it vouched for is refused", rotate),
        Some(days @ 0..30) => Verdict::warning(format!("a trust anchor expires in {days} days"), rotate),
        Some(days) => Verdict::good(format!("{anchors} trust anchors, good for {days} days or more")),
    })
}

pub(super) fn injection(facts: &Facts) -> Result<Verdict, Verdict> {
    let (mut with, mut started_before, mut wanted) = (0_usize, Vec::new(), BTreeMap::<&str, usize>::new());
    let mut unfit = Vec::new();
    for labelled in facts.namespaces()? {
        for pod in labelled.pods.items("pods of labelled namespaces")?.iter().filter(|pod| is_running(pod)) {
            let name = || format!("{}/{}", labelled.name(), text(pod, "/metadata/name"));
            match inject(pod, &nowhere()) {
                _ if has_proxy(pod) => with += 1,
                Ok(Outcome::Skipped(skip)) => *wanted.entry(skip.message()).or_default() += 1,
                Ok(Outcome::Injected(_)) => started_before.push(name()),
                Err(problems) => unfit.push(format!(
                    "{} ({})",
                    name(),
                    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                )),
            }
        }
    }
    let alone: String = wanted.iter().map(|(why, count)| format!("; {count} left alone: {why}")).collect();
    if !unfit.is_empty() {
        let said =
            format!("these started before the label, and make no sense to the injector: {}{alone}", some(&unfit));
        return Ok(Verdict::warning(said, "set that right in their templates, and restart their workloads"));
    }
    Ok(if started_before.is_empty() {
        Verdict::good(format!("{with} pods have a proxy{alone}"))
    } else {
        let said = format!(
            "{} pods have none, because they started before the label or before the webhook: {}{alone}",
            started_before.len(),
            some(&started_before)
        );
        Verdict::warning(said, "kubectl -n NAMESPACE rollout restart deployment, or weft upgrade --workloads")
    })
}

/// What only matters to what is added.
fn nowhere() -> Installation {
    Installation::default()
}

/// Whether a pod is there to stay.
pub(crate) fn is_running(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
        && pod.pointer("/metadata/deletionTimestamp").is_none()
}

/// Whether a pod has a proxy.
pub(crate) fn has_proxy(pod: &Value) -> bool {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod.pointer(&format!("/spec/{list}")));
    lists.filter_map(Value::as_array).flatten().any(|container| text(container, "/name") == PROXY_CONTAINER)
}

pub(super) fn proxy_version(facts: &Facts) -> Result<Verdict, Verdict> {
    let Some(installed) = installed_version(&facts.record, &facts.control_plane) else {
        return Ok(Verdict::warning("nothing says which version the control plane has", "see the check version"));
    };
    let (mut same, mut near, mut far) = (0_usize, Vec::new(), Vec::new());
    for labelled in facts.namespaces()? {
        for pod in
            labelled.pods.items("pods of labelled namespaces")?.iter().filter(|pod| is_running(pod) && has_proxy(pod))
        {
            let version = version_of(pod);
            let name = format!("{}/{} ({version})", labelled.name(), text(pod, "/metadata/name"));
            if version == installed {
                same += 1;
            } else if is_next(version, installed) {
                near.push(name);
            } else {
                far.push(name);
            }
        }
    }
    let restart = "weft upgrade --workloads restarts them in waves";
    Ok(if !far.is_empty() {
        let said =
            format!("proxies are more than one minor version from the control plane's {installed}: {}", some(&far));
        Verdict::failure(said, restart)
    } else if near.is_empty() {
        Verdict::good(format!("{same} proxies, of the control plane's version {installed}"))
    } else {
        Verdict::warning(
            format!("{} proxies are not of the control plane's version {installed}: {}", near.len(), some(&near)),
            restart,
        )
    })
}

/// The version of a pod's proxy: that of who added it.
pub(crate) fn version_of(pod: &Value) -> &str {
    text(pod, &format!("/metadata/annotations/{}", INJECTED_BY.replace('/', "~1")))
}

/// Whether two versions work together.
fn is_next(one: &str, other: &str) -> bool {
    let both = Version::read(one).zip(Version::read(other));
    both.is_some_and(|(one, other)| one.skew(other) != Skew::Far)
}
