//! `cargo xtask cluster conformance`: Gateway API's own suite, its profiles for meshes, against Weft in the cluster that runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::cluster::Cluster;
use crate::workspace::check;

/// Everything that the suite's tests for meshes ask for, so that none of them is skipped.
const FEATURES: &[&str] = &[
    "Mesh",
    "HTTPRoute",
    "GRPCRoute",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteNamedRouteRule",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteParentRefPort",
];

/// The suite's report, named as Gateway API's repository names those of implementations.
const REPORT: &str = concat!("standard-", env!("CARGO_PKG_VERSION"), "-sidecar-report.yaml");

const PROFILES: &str = "MESH-HTTP,MESH-GRPC";

/// All that the suite has for meshes (v1.6.3).
const TESTS: usize = 22;

/// Runs the suite with its own timeouts. Returns the file of its report.
///
/// # Errors
/// Something that it asks for does not hold, or it passed over a test.
pub(crate) fn run(cluster: &Cluster, root: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    check(&mut cluster.script("conformance.sh"))?;
    cluster.put(&[cluster.echo_image()])?;
    install(cluster, root)?;
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let report = directory.join(REPORT);
    let mut suite = cluster.command("conformance")?;
    suite.args(["-test.run", "^TestConformance$", "-test.timeout", "20m", "-test.v"]);
    suite.arg(format!("--conformance-profiles={PROFILES}"));
    suite.arg(format!("--supported-features={}", FEATURES.join(",")));
    suite.arg("--namespace-labels=weft.dev/inject=enabled");
    suite.args(["--organization=weft", "--project=weft", "--url=https://weft.dev", "--contact=https://weft.dev"]);
    suite.args([concat!("--version=v", env!("CARGO_PKG_VERSION")), "--mode=sidecar"]);
    suite.arg(format!("--report-output={}", report.display()));
    println!("running the suite: half a minute where everything passes");
    let output = suite.output().context("starting the suite")?;
    let told = String::from_utf8_lossy(&output.stdout);
    let passed = passed(&told);
    if !output.status.success() || passed.len() != TESTS {
        eprintln!("{told}{}", String::from_utf8_lossy(&output.stderr));
        bail!("{} of {TESTS} tests passed ({}): {}", passed.len(), output.status, passed.join(", "));
    }
    println!("{TESTS} of {TESTS} tests passed: {}", passed.join(", "));
    let text = fs::read_to_string(&report).with_context(|| format!("reading {}", report.display()))?;
    is_whole(&text).with_context(|| format!("{}:\n{text}", report.display()))?;
    Ok(report)
}

/// The tests that passed. One that is skipped fails nothing, and a feature that is not listed skips.
fn passed(told: &str) -> Vec<&str> {
    let lines = told.lines().filter_map(|line| line.strip_prefix("    --- PASS: TestConformance/"));
    lines.filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with("Mesh")).collect()
}

fn install(cluster: &Cluster, root: &Path) -> anyhow::Result<()> {
    check(cluster.command("kubectl")?.args(["apply", "--kustomize"]).arg(root.join("deploy/base")))?;
    for deployment in ["weft-control-plane", "weft-injector"] {
        let args = ["--namespace", "weft-system", "rollout", "status", "--timeout", "90s", "deployment", deployment];
        check(cluster.command("kubectl")?.args(args))?;
    }
    Ok(())
}

/// The suite takes a test that it passed over for no failure.
fn is_whole(report: &str) -> anyhow::Result<()> {
    let counts = |name: &str| {
        let lines = report.lines().filter_map(move |line| line.trim().strip_prefix(name));
        lines.map(|count| count.trim().parse::<u32>()).collect::<Result<Vec<_>, _>>().context("a count is no number")
    };
    let (passed, failed, skipped) = (counts("Passed:")?, counts("Failed:")?, counts("Skipped:")?);
    ensure!(passed.len() >= PROFILES.split(',').count(), "a profile is missing from the report");
    ensure!(passed.iter().all(|count| *count > 0), "a profile in which nothing passed");
    ensure!(failed.iter().chain(&skipped).all(|count| *count == 0), "tests failed or were skipped");
    for word in ["result: failure", "result: partial", "skippedTests", "unsupportedFeatures"] {
        ensure!(!report.contains(word), "the report has {word:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_passed_are_those_of_meshes_that_ran() {
        let told = "--- PASS: TestConformance (2.00s)\n    --- PASS: TestConformance/MeshBasic (0.10s)\n        \
                    --- PASS: TestConformance/MeshBasic/0 (0.10s)\n    --- SKIP: TestConformance/MeshPorts (0.00s)\n";
        assert_eq!(passed(told), ["MeshBasic"]);
    }

    #[test]
    fn a_report_with_a_gap_is_none() {
        let profile = |passed: u32, skipped: u32| {
            format!(
                "- core:\n    result: success\n    statistics:\n      Failed: 0\n      Passed: {passed}\n      \
                 Skipped: {skipped}\n"
            )
        };
        assert!(is_whole(&[profile(8, 0), profile(2, 0)].concat()).is_ok());
        for report in [
            profile(8, 0),
            [profile(8, 0), profile(0, 0)].concat(),
            [profile(8, 0), profile(2, 1)].concat(),
            [profile(8, 0), profile(2, 0), "    skippedTests:\n".to_owned()].concat(),
        ] {
            assert!(is_whole(&report).is_err(), "{report}");
        }
    }
}
