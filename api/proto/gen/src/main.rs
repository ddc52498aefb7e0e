//! Writes the generated code of each [`Wire`] from its `.proto` files, or with `--check` tells whether what is checked in
//! is current. It is a crate of its own so that nothing else has to compile a protobuf compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

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
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => bail!("expected nothing or --check, not {other:?}"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).context("the crate lies in api/proto/gen")?;
    for wire in &WIRES {
        let (wanted, target) = (generated(wire, root)?, root.join(wire.target));
        if check { compare(wire, &wanted, &target)? } else { write(&wanted, &target)? }
    }
    Ok(())
}

/// The generated files by their names.
fn generated(wire: &Wire, root: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut compiler = protox::Compiler::new([root.join(wire.protos)]).context("opening the folder of .proto files")?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(wire.files).context("compiling the .proto files")?;
    let out = tempfile::tempdir().context("making a folder for the generated code")?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .skip_debug(wire.without_debug)
        .compile_fds(compiler.file_descriptor_set())
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
