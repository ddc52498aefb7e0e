//! The table of steps, in the order they run: what fails soonest comes first.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use super::unprivileged::Stage;
use super::{Step, fuzz, programs};
use crate::cluster::Cluster;
use crate::workspace::{Workspace, check};
use crate::{bench, conformance, r#gen, packages, tidy};

pub(super) const ALL: &[Step] = &[
    Step {
        name: "packages",
        needs: "root and Debian's packages, or the programs in place",
        claim: "the programs that the tests talk to are installed",
        run: |_| packages::install(packages::TESTS),
    },
    Step { name: "fmt", needs: "nothing", claim: "the code is formatted", run: format },
    Step {
        name: "tidy",
        needs: "nothing",
        claim: "modules keep their order, files their size, the lock file its crates",
        run: |workspace| tidy::run(&workspace.root),
    },
    Step { name: "gen", needs: "nothing", claim: "generated code is current", run: |_| r#gen::run(true) },
    Step { name: "clippy", needs: "nothing", claim: "no lint is broken", run: clippy },
    Step { name: "doc", needs: "nothing", claim: "documentation builds and its links hold", run: doc },
    Step { name: "unit", needs: "nothing", claim: "unit, documentation and integration tests pass", run: unit },
    Step {
        name: "counterparts",
        needs: "Go, and its modules' registry or a filled cache",
        claim: "the peers that no package holds are built",
        run: |workspace| programs::counterparts(workspace).map(drop),
    },
    Step {
        name: "helm",
        needs: "Go, and its modules' registry or a filled cache",
        claim: "the chart gives what weft install gives",
        run: helm,
    },
    Step { name: "netns", needs: "root", claim: "the real kernel and real programs agree, as root", run: netns },
    Step {
        name: "netns-unprivileged",
        needs: "user namespaces",
        claim: "the same as an unprivileged user, with nft, iptables and ip off the PATH",
        run: netns_unprivileged,
    },
    Step {
        name: "kubernetes",
        needs: "root, Go and its modules' registry or a filled cache; or KUBECONFIG",
        claim: "Weft holds on a real Kubernetes, and Gateway API's suite for meshes passes",
        run: kubernetes,
    },
    Step {
        name: "fuzz",
        needs: "a C++ compiler",
        claim: "the corpora replay, and no parser falls in 30 s",
        run: fuzz::run,
    },
    Step {
        name: "bench",
        needs: "root",
        claim: "every figure of the benchmark can be measured",
        run: |workspace| bench::smoke(workspace),
    },
    Step { name: "demo", needs: "root", claim: "every step of the demo holds, as root", run: demo },
    Step {
        name: "demo-unprivileged",
        needs: "user namespaces",
        claim: "the same as an unprivileged user, with nft, iptables and ip off the PATH",
        run: demo_unprivileged,
    },
];

fn format(workspace: &Workspace) -> anyhow::Result<()> {
    check(workspace.cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> anyhow::Result<()> {
    let deny = ["--", "--deny", "warnings"];
    check(workspace.cargo().args(["clippy", "--workspace", "--all-targets"]).args(deny))?;
    // Tests that need a cluster are no part of all targets, or `cargo test` would run them.
    let mut cargo = workspace.cargo();
    cargo.args(["clippy", "--package", programs::CLUSTER_PACKAGE]);
    for test in programs::CLUSTER_TESTS {
        cargo.args(["--test", test]);
    }
    check(cargo.args(deny))
}

fn doc(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo();
    check(
        cargo
            .args(["doc", "--no-deps", "--workspace", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

fn unit(workspace: &Workspace) -> anyhow::Result<()> {
    check(workspace.cargo().args(["test", "--profile", "demo", "--workspace", "--exclude", "weft-tests"]))
}

fn helm(workspace: &Workspace) -> anyhow::Result<()> {
    let helm = programs::helm(workspace)?;
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--profile", "demo", "--package", "weft-install", "--test", "helm"]);
    check(cargo.env("WEFT_HELM", helm))
}

fn netns(workspace: &Workspace) -> anyhow::Result<()> {
    need_root("netns")?;
    programs::build(workspace)?;
    programs::counterparts(workspace)?;
    check(workspace.cargo().args(["test", "--profile", "demo", "--package", "weft-tests"]))
}

fn netns_unprivileged(workspace: &Workspace) -> anyhow::Result<()> {
    let mut files = programs::build(workspace)?;
    files.extend(programs::counterparts(workspace)?);
    let tests = programs::tests(workspace)?;
    files.extend(tests.iter().cloned());
    let stage = Stage::new(&files)?;
    for test in &tests {
        check(&mut stage.command(test)?)?;
    }
    Ok(())
}

fn demo(workspace: &Workspace) -> anyhow::Result<()> {
    need_root("demo")?;
    programs::build(workspace)?;
    check(Command::new(workspace.programs().join("weft")).args(["demo", "--plain"]))
}

fn demo_unprivileged(workspace: &Workspace) -> anyhow::Result<()> {
    let files = programs::build(workspace)?;
    let stage = Stage::new(&files)?;
    check(stage.command(&workspace.programs().join("weft"))?.args(["demo", "--plain"]))
}

fn kubernetes(workspace: &Workspace) -> anyhow::Result<()> {
    let tests: Vec<PathBuf> =
        programs::CLUSTER_TESTS.iter().map(|name| programs::cluster_test(workspace, name)).collect::<Result<_, _>>()?;
    let [all, cni, golden, install, operations, outage, rights, rollout, rotation] = &tests[..] else {
        bail!("there are other tests of the cluster than this step runs");
    };
    let cluster = Cluster::for_tests(&workspace.root, workspace.cache());
    // What a run that was cut off has left.
    cluster.down()?;
    cluster.up()?;
    let test = |program: &Path, threads: &str| check(cluster.command(&program.to_string_lossy())?.arg(threads));
    let tested = cluster.load(workspace).and_then(|()| {
        // Each waits for Kubernetes most of its time.
        test(all, "--test-threads=4")?;
        test(rollout, "--test-threads=3")?;
        test(golden, "--test-threads=1")?;
        // These take from all what all need.
        test(operations, "--test-threads=1")?;
        test(outage, "--test-threads=1")?;
        conformance::run(&cluster, &workspace.root, &workspace.cache().join("kubernetes"))?;
        if Cluster::is_anothers() {
            println!("what Weft does to a node, and which rights it needs, is not looked at: a cluster of somebody else shows neither");
        } else {
            test(cni, "--test-threads=1")?;
            test(rights, "--test-threads=1")?;
        }
        // It installs anew.
        test(rotation, "--test-threads=1")?;
        // It takes Weft away, and its rights before its last pods: nothing that looks at these comes after it.
        test(install, "--test-threads=1")
    });
    if tested.is_err() {
        cluster.tell_logs();
    }
    tested.and(cluster.down())
}

fn need_root(step: &str) -> anyhow::Result<()> {
    if !packages::is_root()? {
        bail!(
            "this part runs as root only, to show that the user id excludes the proxy: sudo -E cargo xtask test --only {step}"
        );
    }
    Ok(())
}
