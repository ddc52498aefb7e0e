//! Writes the generated code of each [`Wire`] from its `.proto` files, or with `--check` tells whether what is checked in
//! is current. Either way it looks first whether released peers would understand what is generated, see [`compat`]; with
//! `--release` it remembers the present wire as that of this version. It is a crate of its own so that nothing else has to
//! compile a protobuf compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use protox::prost_reflect::prost_types::FileDescriptorSet;

// What must stay as it was released.
mod compat;

/// The folder that holds a folder of `.proto` files for each version that was released.
const RELEASED: &str = "api/proto/released";

/// A folder of `.proto` files and where their code goes.
struct Wire {
    /// The folder that imports are relative to, itself relative to the checkout.
    protos: &'static str,
    /// Every file that is compiled, relative to that folder.
    files: &'static [&'static str],
    /// Where the code goes, relative to the checkout.
    target: &'static str,
    /// Messages for which no `Debug` is derived.
    without_debug: &'static [&'static str],
}

const WIRES: [Wire; 2] = [
    Wire {
        protos: "api/proto/proto",
        files: &["weft/identity/v1/identity.proto", "weft/proxy/v1/mesh.proto", "weft/replica/v1/replica.proto"],
        target: "api/proto/src/gen",
        // A request to certify carries a token, and what derives Debug ends in a log one day.
        without_debug: &[".weft.identity.v1.CertifyRequest"],
    },
    Wire {
        protos: "examples/shop/proto",
        files: &["grpc/health/v1/health.proto", "shop/payment/v1/payment.proto"],
        target: "examples/shop/src/gen",
        without_debug: &[],
    },
];

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let root = root()?;
    let [ours, ..] = &WIRES;
    match words.as_slice() {
        ["--release"] => return release(ours, root, env!("CARGO_PKG_VERSION")),
        [] | ["--check"] => understood(ours, root)?,
        other => bail!("expected nothing, --check or --release, not {other:?}"),
    }
    for wire in &WIRES {
        let (wanted, target) = (generated(wire, root)?, root.join(wire.target));
        if words.is_empty() { write(&wanted, &target)? } else { compare(wire, &wanted, &target)? }
    }
    Ok(())
}

fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).context("the crate lies in api/proto/gen")
}

/// Fails where a peer of a release would not understand the present wire; names everything that is in its way.
fn understood(wire: &Wire, root: &Path) -> anyhow::Result<()> {
    let now = compiled(&root.join(wire.protos), wire.files)?;
    let mut broken = String::new();
    for (version, folder) in releases(root)? {
        let files = protos(&folder, Path::new(""))?;
        let released = compiled(&folder, &files).with_context(|| format!("the wire of {version}"))?;
        for one in compat::breaks(&released, &now) {
            broken.extend(["\n- as released in ", &version, ": ", &one.to_string()]);
        }
    }
    ensure!(broken.is_empty(), "released proxies and control planes would not understand this wire:{broken}");
    Ok(())
}

/// The versions that were released, each with its folder.
fn releases(root: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let folder = root.join(RELEASED);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        found.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
    }
    // What is compared with nothing holds.
    ensure!(!found.is_empty(), "{} is empty: no release is compared with", folder.display());
    Ok(found)
}

/// The `.proto` files at and below a place of a folder, relative to the folder: a release has those that there were then.
fn protos(folder: &Path, at: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join(at)).with_context(|| format!("reading {}", folder.join(at).display()))? {
        let entry = entry?;
        let name = at.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            found.extend(protos(folder, &name)?);
        } else if name.extension().is_some_and(|extension| extension == "proto") {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Remembers the present wire as that of a version. What was released before is never changed.
fn release(wire: &Wire, root: &Path, version: &str) -> anyhow::Result<()> {
    understood(wire, root)?;
    for name in wire.files {
        let (from, to) = (root.join(wire.protos).join(name), root.join(RELEASED).join(version).join(name));
        let text = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        match fs::read(&to) {
            Ok(before) if before == text => continue,
            Ok(_) => {
                bail!("{} was released and differs from {}: raise the version first", to.display(), from.display())
            }
            Err(_) => {}
        }
        let folder = to.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        fs::write(&to, text).with_context(|| format!("writing {}", to.display()))?;
    }
    Ok(())
}

fn compiled(folder: &Path, files: &[impl AsRef<Path>]) -> anyhow::Result<FileDescriptorSet> {
    let mut compiler = protox::Compiler::new([folder]).with_context(|| format!("opening {}", folder.display()))?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files).with_context(|| format!("compiling the .proto files of {}", folder.display()))?;
    Ok(compiler.file_descriptor_set())
}

/// The generated files by their names.
fn generated(wire: &Wire, root: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let set = compiled(&root.join(wire.protos), wire.files)?;
    let out = tempfile::tempdir().context("making a folder for the generated code")?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .skip_debug(wire.without_debug)
        .compile_fds(set)
        .context("generating code")?;
    files(wire, out.path())
}

/// What lies in a folder, each file under its head if it was not yet there.
fn files(wire: &Wire, folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let head = format!("// Made by `cargo xtask gen` from {}. Never edited.\n", wire.protos);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let text = if text.starts_with(&head) { text } else { format!("{head}{text}") };
        found.insert(PathBuf::from(path.file_name().unwrap_or_default()), text);
    }
    Ok(found)
}

fn compare(wire: &Wire, wanted: &BTreeMap<PathBuf, String>, target: &Path) -> anyhow::Result<()> {
    let there = files(wire, target)?;
    for (name, text) in wanted {
        if there.get(name) != Some(text) {
            bail!("{} is not current: run `cargo xtask gen`", target.join(name).display());
        }
    }
    match there.keys().find(|name| !wanted.contains_key(*name)) {
        Some(left_over) => bail!("{} is made from nothing: remove it", target.join(left_over).display()),
        None => Ok(()),
    }
}

fn write(wanted: &BTreeMap<PathBuf, String>, target: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    for (name, text) in wanted {
        let path = target.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_understands_the_present_wire() {
        understood(&WIRES[0], root().unwrap()).unwrap();
    }

    #[test]
    fn a_release_is_remembered_once_and_then_held_against_what_changes() {
        let checkout = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = checkout.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let wire = Wire { protos: "now", files: &["a.proto"], target: "", without_debug: &[] };
        let text = "syntax = \"proto3\"; package a; message A { uint32 b = 1; }";
        write("now/a.proto", text);
        assert!(understood(&wire, checkout.path()).is_err(), "compared with nothing");
        write("api/proto/released/0.1.0/a.proto", text);
        release(&wire, checkout.path(), "0.1.0").unwrap();
        release(&wire, checkout.path(), "0.2.0").unwrap();
        write("now/a.proto", &text.replace("= 1;", "= 1; uint32 c = 2;"));
        let error = release(&wire, checkout.path(), "0.2.0").unwrap_err().to_string();
        assert!(error.contains("raise the version first"), "{error}");
        release(&wire, checkout.path(), "0.3.0").unwrap();
        write("now/a.proto", text);
        // A file that came later is no part of a release before it.
        write("now/b.proto", "syntax = \"proto3\"; package b; message B { uint32 b = 1; }");
        let wire = Wire { files: &["a.proto", "b.proto"], ..wire };
        let error = understood(&wire, checkout.path()).unwrap_err().to_string();
        assert!(error.contains("as released in 0.3.0: a.proto: a.A.c (number 2) is gone"), "{error}");
    }
}
