//! Weft's own parts.

use serde_json::{Value, json};
use weft_install::objects;

use super::facts::{minor, some, text};
use super::{Fact, Facts, Verdict};
use certificates::{Certificates, from_base64};

pub(super) mod certificates;

const INSTALL: &str = "weft install | kubectl apply -f -";

pub(super) fn definitions(facts: &Facts) -> Result<Verdict, Verdict> {
    let ours = objects::definitions();
    let (mut missing, mut other) = (Vec::new(), Vec::new());
    for (name, fact) in &facts.definitions {
        let want = ours.iter().find(|definition| text(definition, "/metadata/name") == name);
        match (fact.known(name)?, want) {
            (None, _) => missing.push(name.clone()),
            (Some(found), Some(want)) if !holds(&found["spec"], &want["spec"]) => other.push(name.clone()),
            (Some(_), _) => {}
        }
    }
    Ok(if !missing.is_empty() {
        Verdict::failure(format!("they are missing: {}", some(&missing)), INSTALL)
    } else if other.is_empty() {
        Verdict::good(format!("{} kinds, as this version has them", facts.definitions.len()))
    } else {
        Verdict::warning(
            format!("they are of another version than this weft: {}", some(&other)),
            "weft upgrade | kubectl apply -f -",
        )
    })
}

/// Whether everything that is wanted is found; the API server adds what it knows better.
fn holds(found: &Value, want: &Value) -> bool {
    match (found, want) {
        (Value::Object(found), Value::Object(want)) => {
            want.iter().all(|(name, want)| holds(found.get(name).unwrap_or(&Value::Null), want))
        }
        (Value::Array(found), Value::Array(want)) => {
            found.len() == want.len() && found.iter().zip(want).all(|(found, want)| holds(found, want))
        }
        (Value::Number(found), Value::Number(want)) => found.as_f64() == want.as_f64(),
        // What is false or empty may be left out.
        (Value::Null, want) => [Value::Null, false.into(), "".into(), json!([]), json!({})].contains(want),
        _ => found == want,
    }
}

pub(super) fn control_plane(facts: &Facts) -> Result<Verdict, Verdict> {
    ready(&facts.control_plane, "weft-control-plane", "traffic goes on as it was configured, and new pods wait")
}

pub(super) fn injector(facts: &Facts) -> Result<Verdict, Verdict> {
    ready(&facts.injector, "weft-injector", "pods of labelled namespaces cannot be created")
}

/// Whether the injector leaves the redirect to the CNI plugin.
pub(super) fn uses_cni(facts: &Facts) -> Result<bool, Verdict> {
    Ok(facts.injector.known("weft-injector")?.is_some_and(|injector| is_set(injector, "WEFT_REDIRECT", "cni")))
}

/// Whether proxies are native sidecars, or will be for all that is known.
pub(super) fn uses_native_sidecars(facts: &Facts) -> bool {
    let Fact::There(injector) = &facts.injector else { return true };
    !is_set(injector, "WEFT_SIDECAR", "ordinary")
}

/// Whether a Deployment's program has this in a variable.
fn is_set(deployment: &Value, name: &str, value: &str) -> bool {
    variable(deployment, name) == Some(value)
}

/// What a Deployment's program has in a variable.
fn variable<'a>(deployment: &'a Value, name: &str) -> Option<&'a str> {
    let env = deployment.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
    env.into_iter().flatten().find(|it| it["name"] == name)?["value"].as_str()
}

pub(super) fn cni(facts: &Facts) -> Result<Verdict, Verdict> {
    let look = "kubectl -n weft-cni get pods -o wide, and their logs: they say what is wrong with the node's CNI configuration";
    let set = facts.cni.known("the DaemonSet weft-cni")?;
    let Some(set) = set else {
        return Ok(if uses_cni(facts)? {
            let said = "the injector leaves the redirect to the CNI plugin, and there is no DaemonSet weft-cni: new pods with a proxy do not start";
            Verdict::failure(said, INSTALL)
        } else {
            Verdict::good("it is not used: an init container sets the redirect")
        });
    };
    if !uses_cni(facts)? {
        let said = "the DaemonSet weft-cni is there, and the injector does not use it: pods set their own redirect";
        return Ok(Verdict::warning(said, "set cni.enabled=true, or remove the DaemonSet"));
    }
    let count = |field: &str| set.pointer(&format!("/status/{field}")).and_then(Value::as_u64).unwrap_or(0);
    let (want, have, updated) =
        (count("desiredNumberScheduled"), count("numberReady"), count("updatedNumberScheduled"));
    Ok(if want == 0 {
        Verdict::failure(
            "it is wanted on no node: new pods with a proxy do not start",
            "see cni.nodeSelector and cni.tolerations",
        )
    } else if have < want {
        let said = format!("it is ready on {have} of {want} nodes: on the others pods with a proxy may not start");
        Verdict::failure(said, look)
    } else if updated < want {
        Verdict::warning(format!("{updated} of {want} nodes have it as it was last applied"), look)
    } else {
        Verdict::good(format!("it is in the CNI configuration of {have} nodes"))
    })
}

fn ready(deployment: &Fact, name: &str, without: &str) -> Result<Verdict, Verdict> {
    let Some(deployment) = deployment.known(name)? else {
        return Ok(Verdict::failure(format!("there is no Deployment {name}"), INSTALL));
    };
    let count = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_u64);
    let (want, have) = (count("/spec/replicas").unwrap_or(1), count("/status/readyReplicas").unwrap_or(0));
    let updated = count("/status/updatedReplicas").unwrap_or(0);
    let look = format!("kubectl -n weft-system describe pods -l app={name}");
    Ok(match have {
        0 => Verdict::failure(format!("none of {want} is ready: {without}"), look),
        have if have < want || updated < want => {
            Verdict::warning(format!("{have} of {want} are ready, {updated} as they were last applied"), look)
        }
        1 => Verdict::warning("1 is ready: while it restarts there is none", "have two replicas or more"),
        have => Verdict::good(format!("{have} are ready")),
    })
}

/// The webhooks, each with the field of it that must say `Fail`.
fn webhooks(facts: &Facts) -> Result<&[Value], Verdict> {
    let Some(configuration) = facts.webhook.known("the webhook's configuration")? else {
        return Err(Verdict::failure(
            "there is no MutatingWebhookConfiguration weft-injector: no pod gets a proxy",
            INSTALL,
        ));
    };
    let hooks = configuration.get("webhooks").and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    if hooks.is_empty() {
        return Err(Verdict::failure("the MutatingWebhookConfiguration weft-injector has no webhooks", INSTALL));
    }
    Ok(hooks)
}

pub(super) fn webhook(facts: &Facts) -> Result<Verdict, Verdict> {
    let hooks = webhooks(facts)?;
    let name = |hook: &Value| text(hook, "/name").to_owned();
    let open: Vec<String> = hooks.iter().filter(|hook| hook["failurePolicy"] != "Fail").map(name).collect();
    if !open.is_empty() {
        let said = format!("while the injector is away pods start without a proxy, in the clear: {}", some(&open));
        return Ok(Verdict::failure(said, format!("set failurePolicy: Fail, or {INSTALL}")));
    }
    let bare: Vec<String> =
        hooks.iter().filter(|hook| text(hook, "/clientConfig/caBundle").is_empty()).map(name).collect();
    Ok(if bare.is_empty() {
        Verdict::good(format!("{} webhooks, which fail closed", hooks.len()))
    } else {
        let said = format!("the API server was not told the injector's authority (caBundle): {}", some(&bare));
        let remedy = "kubectl -n weft-system logs deployment/weft-injector says why; a GitOps controller that sets it back does this too";
        Verdict::failure(said, remedy)
    })
}

pub(super) fn webhook_certificate(facts: &Facts) -> Result<Verdict, Verdict> {
    let hooks = webhooks(facts)?;
    let Some(secret) = facts.webhook_secret.known("the Secret weft-injector-tls")? else {
        let remedy = "kubectl -n weft-system logs deployment/weft-injector says why it was not made";
        return Ok(Verdict::failure("there is no Secret weft-injector-tls", remedy));
    };
    let again = "kubectl -n weft-system delete secret weft-injector-tls: the injector makes another within a minute";
    let shown = from_base64(text(secret, "/data/tls.crt")).and_then(|pem| Certificates::read(&pem));
    let Some(shown) = shown else {
        return Ok(Verdict::failure("the Secret weft-injector-tls holds no certificate", again));
    };
    for hook in hooks {
        let believed = from_base64(text(hook, "/clientConfig/caBundle")).and_then(|pem| Certificates::read(&pem));
        if !believed.is_some_and(|believed| shown.first_is_signed_by(&believed)) {
            let said = format!(
                "the caBundle of {} does not vouch for the certificate that the injector shows",
                text(hook, "/name")
            );
            return Ok(Verdict::failure(said, again));
        }
    }
    let days = shown.days_left(facts.now_unix_s);
    Ok(match days {
        ..0 => Verdict::failure("the injector's certificate has expired", again),
        // It is renewed 30 days before.
        0..25 => {
            Verdict::warning(format!("the injector's certificate expires in {days} days and was not renewed"), again)
        }
        _ => Verdict::good(format!("the API server can verify it; it is good for {days} days")),
    })
}

/// The Secret that the control plane was told to take the issuer from.
fn secret_of_issuer(facts: &Facts) -> Option<&str> {
    let Fact::There(deployment) = &facts.control_plane else { return None };
    variable(deployment, "WEFT_ISSUER_SECRET").filter(|name| !name.is_empty())
}

pub(super) fn issuer_secret(facts: &Facts) -> Result<Verdict, Verdict> {
    facts.control_plane.known("weft-control-plane")?;
    let Some(name) = secret_of_issuer(facts) else {
        return Ok(Verdict::good("it is not used: the control plane makes its own issuer"));
    };
    let logs = "kubectl -n weft-system logs deployment/weft-control-plane says more";
    let page = facts.issuer_secret.known("what the control plane says of it (pods/proxy)")?;
    let Some(page) = page.filter(|page| page["name"] == name) else {
        return Ok(Verdict::warning(format!("no control plane says whether it can use the Secret {name}"), logs));
    };
    Ok(match page["problem"].as_str() {
        Some(problem) => {
            let remedy = "kubectl -n weft-system describe certificate says what cert-manager waits for, and docs/kubernetes.md \
                          has a Certificate that works";
            Verdict::failure(format!("the issuer is not replaced, or there is none: {problem}"), remedy)
        }
        None => Verdict::good(format!("the issuer comes from the Secret {name}")),
    })
}

pub(super) fn issuer_expiry(facts: &Facts) -> Result<Verdict, Verdict> {
    let logs = if secret_of_issuer(facts).is_some() {
        "kubectl -n weft-system describe certificate says why cert-manager did not renew it"
    } else {
        "kubectl -n weft-system logs deployment/weft-control-plane says why it was not replaced"
    };
    let found = facts.issuer_expiry.known("the control plane's figures (pods/proxy)")?;
    let date = |name: &str| found.and_then(|found| found[name].as_f64()).filter(|seconds| *seconds > 0.0);
    let Some(end) = date("end") else {
        return Ok(Verdict::warning("no control plane says until when its issuer is valid", logs));
    };
    let now = facts.now_unix_s as f64;
    // An older control plane makes its own, for a year, and does not say this.
    let overdue = date("overdue").unwrap_or(end - 60.0 * 86_400.0);
    let left = span(end - now);
    Ok(if end < now {
        Verdict::failure("the issuer has expired: no certificate is made or renewed", logs)
    } else if now > overdue {
        Verdict::warning(format!("the issuer expires in {left} and was not replaced"), logs)
    } else {
        Verdict::good(format!("the issuer is good for {left}"))
    })
}

/// A span of time in days, or in hours where it is short: an issuer of cert-manager's may live for two days.
fn span(seconds: f64) -> String {
    let hours = (seconds / 3600.0).floor();
    if hours < 72.0 { format!("{hours} hours") } else { format!("{} days", (hours / 24.0).floor()) }
}

/// The version that was installed: as it was written down, else by the control plane's image.
pub(crate) fn installed_version<'a>(record: &'a Fact, control_plane: &'a Fact) -> Option<&'a str> {
    let Fact::There(record) = record else {
        let Fact::There(deployment) = control_plane else { return None };
        let image = text(deployment, "/spec/template/spec/containers/0/image");
        let (_, tag) = image.rsplit_once(':')?;
        return minor(tag).map(|_| tag);
    };
    Some(text(record, &format!("/data/{}", objects::RECORD_VERSION))).filter(|version| !version.is_empty())
}

pub(super) fn version(facts: &Facts) -> Result<Verdict, Verdict> {
    let ours = env!("CARGO_PKG_VERSION");
    Ok(match installed_version(&facts.record, &facts.control_plane) {
        None => Verdict::warning(
            "neither a record nor the control plane's image says which version is installed",
            format!("this weft is {ours}; give the image a tag that says its version"),
        ),
        Some(installed) if installed == ours => Verdict::good(format!("{ours}, as this weft is")),
        Some(installed) => Verdict::warning(
            format!("{installed} is installed, and this weft is {ours}"),
            "use the weft of that version, or weft upgrade | kubectl apply -f -",
        ),
    })
}
