//! Kubernetes itself.

use serde_json::Value;

use super::facts::{minor, some, text};
use super::installed::uses_native_sidecars;
use super::{Fact, Facts, Verdict};

/// The first one with native sidecars that are on unless turned off.
const OLDEST: (u32, u32) = (1, 29);

/// The oldest kernel whose nftables have all that the redirect asks for.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// The release of Gateway API that Weft is tested with.
const GATEWAY_API: (u32, u32) = (1, 6);

pub(super) fn api_server(facts: &Facts) -> Result<Verdict, Verdict> {
    Ok(match &facts.version {
        Fact::There(_) => Verdict::good("it answers"),
        Fact::Missing => Verdict::failure("what answers is no API server: it has no /version", KUBECONFIG),
        Fact::Unknown(why) => Verdict::failure(format!("it does not answer: {why}"), KUBECONFIG),
    })
}

const KUBECONFIG: &str =
    "see that KUBECONFIG, or --context, names the right cluster, and that kubectl version reaches it";

pub(super) fn kubernetes_version(facts: &Facts) -> Result<Verdict, Verdict> {
    let version = facts.version.known("the version")?.map_or("", |version| text(version, "/gitVersion"));
    Ok(match minor(version) {
        None => Verdict::warning(format!("{version:?} is no version"), "see what kubectl version says"),
        Some(found) if found < OLDEST && uses_native_sidecars(facts) => Verdict::failure(
            format!("{version} is older than 1.29, which has native sidecars"),
            "upgrade the cluster, or set injector.sidecar=ordinary and mind what docs/kubernetes.md says of it",
        ),
        Some(found) if found < OLDEST => Verdict::warning(
            format!("{version} has no native sidecars: proxies are ordinary containers, and Jobs do not complete"),
            "upgrade the cluster to 1.29 or later, then set injector.sidecar=native",
        ),
        Some(_) => Verdict::good(version),
    })
}

pub(super) fn nodes(facts: &Facts) -> Result<Verdict, Verdict> {
    let mut kubelets = Vec::new();
    let mut kernels = Vec::new();
    let mut count = 0;
    for node in facts.nodes.items("nodes")? {
        let info = |name: &str| text(node, &format!("/status/nodeInfo/{name}"));
        if info("operatingSystem") == "windows" {
            continue;
        }
        count += 1;
        let older = |version: &str, oldest| minor(version).is_some_and(|found| found < oldest);
        let tell = |what: &str| format!("{} ({what})", text(node, "/metadata/name"));
        if older(info("kubeletVersion"), OLDEST) {
            kubelets.push(tell(info("kubeletVersion")));
        }
        if older(info("kernelVersion"), OLDEST_KERNEL) {
            kernels.push(tell(info("kernelVersion")));
        }
    }
    if !kubelets.is_empty() && uses_native_sidecars(facts) {
        let said = format!("kubelets are older than 1.29 and start no native sidecar: {}", some(&kubelets));
        return Ok(Verdict::failure(said, "upgrade these nodes"));
    }
    if !kernels.is_empty() {
        let said = format!("kernels are older than 5.15: {}", some(&kernels));
        return Ok(Verdict::failure(said, "upgrade these nodes, or keep meshed pods off them by a node selector"));
    }
    Ok(Verdict::good(format!("{count} nodes of Linux, with kernels of 5.15 or later")))
}

pub(super) fn rights(facts: &Facts) -> Result<Verdict, Verdict> {
    let denied: Vec<String> =
        facts.rights.iter().filter(|(_, allowed)| *allowed == Ok(false)).map(|(what, _)| what.clone()).collect();
    if !denied.is_empty() {
        let said = format!("this account may not {}", some(&denied));
        return Ok(Verdict::failure(said, "install with an account that may, such as one bound to cluster-admin"));
    }
    match facts.rights.iter().find_map(|(_, allowed)| allowed.as_ref().err()) {
        Some(why) => Ok(Verdict::warning(
            format!("whether this account may install cannot be seen: {why}"),
            "ask kubectl auth can-i create clusterroles",
        )),
        None => Ok(Verdict::good("this account may install all of it")),
    }
}

pub(super) fn gateway_api(facts: &Facts) -> Result<Verdict, Verdict> {
    let install = "install Gateway API v1.6 yourself: Weft never installs or changes its definitions";
    let Some(definition) = facts.http_route.known("Gateway API")? else {
        return Ok(Verdict::warning("it is not installed: there are no HTTPRoutes, and Weft goes on without", install));
    };
    let annotation = |name: &str| text(definition, &format!("/metadata/annotations/gateway.networking.k8s.io~1{name}"));
    let (version, channel) = (annotation("bundle-version"), annotation("channel"));
    let served = |version: &&Value| version["name"] == "v1" && version["served"] == true;
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    if !versions.into_iter().flatten().any(|version| served(&version)) {
        let said = format!("{version} serves no HTTPRoute of version v1: none can be read");
        return Ok(Verdict::failure(said, install));
    }
    let whole = format!("{version}, channel {channel}");
    Ok(match minor(version) {
        None => Verdict::warning(format!("the definition of HTTPRoute says no version: {version:?}"), install),
        Some(found) if found > GATEWAY_API => Verdict::warning(
            format!("{whole}: newer than v1.6, which Weft is tested with; fields that are new in it are not read"),
            "look for a newer Weft",
        ),
        Some(found) if found < GATEWAY_API => Verdict::warning(
            format!("{whole}: older than v1.6; what it lacks cannot be written in an HTTPRoute"),
            install,
        ),
        Some(_) if channel == "experimental" => {
            Verdict::good(format!("{whole}: experimental fields may change with its next release"))
        }
        Some(_) => Verdict::good(whole),
    })
}
