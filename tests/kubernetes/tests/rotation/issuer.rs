//! The issuer of a Secret, as cert-manager would keep it there. OpenSSL stands in: what cert-manager is about is when it writes, and what
//! the control plane sees of it is a Secret that changed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use weft_tests_kubernetes::{
    Namespace, Said, apply, eventually, install_with, installed, kubectl, kubectl_reading, weft,
};

use super::{Admin, LEAF_LIFETIME, SYSTEM, anchor_replaced_under_load, hears_the_other, replicas};

const NAME: &str = "weft-issuer";

/// Where certificates and keys are made.
struct Workshop(PathBuf);

impl Workshop {
    fn open() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("weft-issuer-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// The certificate of an authority, and its key in PKCS #8: one that signs itself, or is signed `by` another.
    fn authority(&self, name: &str, days: &str, by: Option<&str>) -> anyhow::Result<()> {
        let (certificate, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", days]);
        openssl.args(["-subj", &format!("/CN={name}"), "-addext", "basicConstraints=critical,CA:TRUE"]);
        openssl.args(["-addext", "keyUsage=critical,keyCertSign", "-keyout", &key, "-out", &certificate]);
        if let Some(above) = by {
            openssl.args(["-CA", &self.path(&format!("{above}.crt")), "-CAkey", &self.path(&format!("{above}.key"))]);
        }
        let output = openssl.output().context("starting openssl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Puts an issuer, a key and an anchor into the Secret.
    fn issue(&self, issuer: &str, key: &str, anchor: &str) -> anyhow::Result<()> {
        let field = |field: &str, file: String| format!("--from-file={field}={}", self.path(&file));
        let (certificate, key) = (field("tls.crt", format!("{issuer}.crt")), field("tls.key", format!("{key}.key")));
        let anchor = field("ca.crt", format!("{anchor}.crt"));
        let made =
            ["create", "secret", "generic", NAME, "--type", "kubernetes.io/tls", "--dry-run=client", "-o", "yaml"];
        let secret = kubectl(&[&SYSTEM[..], &made, &[&certificate, &key, &anchor]].concat())?;
        apply("weft-system", &secret)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // Whatever is left lies among what is temporary.
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// Puts a Weft in the place of what there is that takes its issuer from the Secret, which is not there yet.
fn install_without_an_issuer(args: &[&str]) -> anyhow::Result<()> {
    kubectl(&["delete", "namespace", "weft-system", "--timeout", "240s"])?;
    let objects = weft(&[&["install"], args].concat(), None)?.done()?;
    kubectl_reading(&["apply", "--filename", "-"], &objects).map(drop)
}

/// Whether the control plane says on its page what it waits for.
fn waits() -> anyhow::Result<()> {
    let list = ["get", "pods", "--selector", "app=weft-control-plane", "--output", "name"];
    let pods = kubectl(&[&SYSTEM[..], &list].concat())?;
    let pod = pods.lines().find_map(|line| line.strip_prefix("pod/")).context("there is no pod yet")?;
    let ready = Admin::of(pod)?.ask(&[], "/ready")?;
    ensure!(ready.contains("there is no Secret weft-issuer"), "{ready}");
    Ok(())
}

/// What `weft check` says of the Secret.
fn checked(mark: &str, part: &str) -> anyhow::Result<()> {
    let Said { out, err, .. } = weft(&["check", "--colour", "never"], None)?;
    let line = out.lines().find(|line| line.split_whitespace().nth(1) == Some("issuer-secret"));
    let line = line.with_context(|| format!("{out}{err}"))?;
    ensure!(line.split_whitespace().next() == Some(mark) && line.contains(part), "{line}");
    Ok(())
}

#[test]
fn the_issuer_of_a_secret_is_followed() {
    installed().unwrap();
    let workshop = Workshop::open().unwrap();
    for (name, days, by) in [
        ("first-root", "30", None),
        ("first", "10", Some("first-root")),
        ("renewed", "20", Some("first-root")),
        ("second-root", "30", None),
        ("second", "10", Some("second-root")),
    ] {
        workshop.authority(name, days, by).unwrap();
    }
    let lifetime = format!("controlPlane.leafLifetime={LEAF_LIFETIME}");
    let args = ["--set", lifetime.as_str(), "--set", "controlPlane.issuerSecret=weft-issuer"];
    install_without_an_issuer(&args).unwrap();
    eventually("it waits for its issuer", waits).unwrap();
    workshop.issue("first", "first", "first-root").unwrap();
    install_with(&args).unwrap();

    let namespace = Namespace::meshed("issuer").unwrap();
    eventually("a pod with a proxy", || namespace.serve("server")).unwrap();
    namespace.serve("client").unwrap();
    let asks = || {
        let said = namespace.curl("client", "http://server.issuer/")?;
        ensure!(said == "200 this is server", "{said}");
        Ok(())
    };
    eventually("an answer", asks).unwrap();
    let replicas = replicas().unwrap();
    let admins = [Admin::of(&replicas[0]).unwrap(), Admin::of(&replicas[1]).unwrap()];
    admins.iter().for_each(|admin| hears_the_other(admin).unwrap());
    checked("ok", "comes from the Secret weft-issuer").unwrap();
    for path in ["/rotate-issuer", "/rotate-anchor"] {
        let refused = admins[0].post(path).unwrap_err().to_string();
        assert!(refused.contains("that of the Secret weft-issuer"), "{refused}");
    }

    // Under the same anchor it signs at once, on both.
    let before = admins[0].get("/rotation").unwrap();
    workshop.issue("renewed", "renewed", "first-root").unwrap();
    for admin in &admins {
        eventually("the renewed issuer signs", || {
            let now = admin.get("/rotation")?;
            ensure!(now["issuerNotAfterUnixSeconds"] != before["issuerNotAfterUnixSeconds"], "{now}");
            ensure!(now["anchors"] == before["anchors"] && now["state"] == "Steady", "{now}");
            Ok(())
        })
        .unwrap();
    }
    workshop.issue("renewed", "first", "first-root").unwrap();
    eventually("a key that does not fit is told of", || checked("FAIL", "tls.key is another key than tls.crt names"))
        .unwrap();
    asks().unwrap();

    let replace = || workshop.issue("second", "second", "second-root");
    anchor_replaced_under_load(&admins[0], &namespace, "client", replace).unwrap();
    checked("ok", "comes from the Secret weft-issuer").unwrap();
}
