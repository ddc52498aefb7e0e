//! What the cluster's network does to connections before the proxy sees them.
//!
//! Some networks put an endpoint's address in place of the Service's when an application connects, in the socket itself. The proxy then
//! sees an endpoint and no Service: no balancing, no routes, no retries.

use serde_json::Value;

use super::facts::text;
use super::installed::uses_cni;
use super::{Facts, Verdict};

pub(super) fn cilium_socket_lb(facts: &Facts) -> Result<Verdict, Verdict> {
    let Some(config) = facts.cilium.known("Cilium's configuration")? else {
        return Ok(Verdict::good("Cilium is not there"));
    };
    let setting = |name: &str| text(config, &format!("/data/{name}"));
    let replaces = matches!(setting("kube-proxy-replacement"), "true" | "strict" | "partial");
    let balances = match setting("bpf-lb-sock") {
        "true" => true,
        "false" => false,
        _ => replaces,
    };
    Ok(match (balances, setting("bpf-lb-sock-hostns-only")) {
        (false, _) => Verdict::good("Cilium leaves sockets alone"),
        (true, "true") => Verdict::good("Cilium balances in sockets of the host's namespace only"),
        (true, _) => Verdict::failure(
            "Cilium balances in the sockets of pods: proxies see endpoints and no Services",
            "set socketLB.hostNamespaceOnly=true in Cilium's Helm values, and restart its agents",
        ),
    })
}

pub(super) fn cilium_exclusive(facts: &Facts) -> Result<Verdict, Verdict> {
    let Some(config) = facts.cilium.known("Cilium's configuration")? else {
        return Ok(Verdict::good("Cilium is not there"));
    };
    Ok(match text(config, "/data/cni-exclusive") {
        "false" => Verdict::good("Cilium leaves other CNI configurations alone"),
        _ if uses_cni(facts)? => Verdict::failure(
            "Cilium puts other CNI plugins out of the way, and with them Weft's, which the injector relies on",
            "set cni.exclusive=false in Cilium's Helm values",
        ),
        // That is its default.
        _ => Verdict::warning(
            "Cilium puts other CNI plugins out of the way: one that is chained, Weft's among them, is never called",
            "nothing to do with the init container; for a CNI plugin set cni.exclusive=false in Cilium's Helm values",
        ),
    })
}

pub(super) fn calico_ebpf(facts: &Facts) -> Result<Verdict, Verdict> {
    let Some(felix) = facts.felix.known("Calico's FelixConfiguration")? else {
        return Ok(Verdict::good("Calico is not there"));
    };
    if felix.pointer("/spec/bpfEnabled").and_then(Value::as_bool) != Some(true) {
        return Ok(Verdict::good("Calico's eBPF data plane is off"));
    }
    // The older of the two settings is a switch; without any it is on.
    let older = felix.pointer("/spec/bpfConnectTimeLoadBalancingEnabled").and_then(Value::as_bool);
    let is_off = match text(felix, "/spec/bpfConnectTimeLoadBalancing") {
        "" => older == Some(false),
        setting => setting == "Disabled",
    };
    Ok(if is_off {
        Verdict::good("Calico's eBPF data plane leaves sockets alone")
    } else {
        Verdict::failure(
            "Calico balances in the sockets of pods: proxies see endpoints and no Services",
            "set bpfConnectTimeLoadBalancing: Disabled and bpfHostNetworkedNATWithoutCTLB: Enabled in its FelixConfiguration",
        )
    })
}

pub(super) fn kube_proxy(facts: &Facts) -> Result<Verdict, Verdict> {
    let Some(config) = facts.kube_proxy.known("kube-proxy's configuration")? else {
        return Ok(Verdict::good(
            "no configuration of kube-proxy is there: another part does its work, or the host starts it",
        ));
    };
    let config: Value = serde_saphyr::from_str(text(config, "/data/config.conf")).unwrap_or_default();
    let mode = Some(text(&config, "/mode")).filter(|mode| !mode.is_empty()).unwrap_or("iptables");
    let masquerades =
        |kind: &str| config.pointer(&format!("/{kind}/masqueradeAll")).and_then(Value::as_bool) == Some(true);
    Ok(if ["iptables", "ipvs", "nftables"].into_iter().any(masquerades) {
        Verdict::warning(
            format!("mode {mode}, and it hides who calls behind the node's address (masqueradeAll)"),
            "policies by identity are not touched; those by network, and access logs, see nodes: set masqueradeAll: false",
        )
    } else {
        Verdict::good(format!("mode {mode}"))
    })
}
