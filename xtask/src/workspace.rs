//! Where the checkout and its build output are, and how cargo is called.
//!
//! Build output lies outside the checkout, so that a fresh clone does not compile the world again. Cargo judges freshness by
//! modification times, which say nothing across two checkouts of different age: whoever finds that another checkout built
//! there last throws away what was built from our own crates and keeps the registry's.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The checkout together with the build output, held for this run alone.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// `${XDG_CACHE_HOME:-$HOME/.cache}/weft`.
    cache: PathBuf,
    /// Keeps a second run out until this value is dropped or the process is replaced.
    _lock: File,
}

/// A place for build output, with what is built there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output {
    /// The fuzz targets, instrumented.
    Fuzz,
    /// Programs that need no library, for images.
    Static,
    /// Everything else.
    Main,
}

impl Workspace {
    /// Takes the build output for this run, waiting for another run to end.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let root = root()?;
        let cache = cache(&root);
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        let lock = lock(&cache.join("lock"))?;
        let workspace = Self { root, cache, _lock: lock };
        workspace.claim(Output::Main)?;
        Ok(workspace)
    }

    /// Cargo, run in the checkout, with its output where it belongs.
    pub(crate) fn cargo(&self) -> Command {
        cargo_in(&self.root, &self.target(Output::Main))
    }

    /// Cargo, about to build every program, as the demo runs them. All at once and always the same choice: with another one
    /// dependencies get other features, and are compiled once more.
    pub(crate) fn cargo_build_programs(&self) -> Command {
        let mut cargo = self.cargo();
        cargo.args(["build", "--profile", "demo", "--workspace", "--exclude", "xtask", "--bins"]);
        cargo
    }

    /// Cargo, run in `fuzz/`.
    pub(crate) fn cargo_fuzz(&self) -> Command {
        cargo_in(&self.root.join("fuzz"), &self.target(Output::Fuzz))
    }

    /// Cargo, linking programs that run in any root file system. Kept apart: with other flags everything is compiled anew.
    pub(crate) fn cargo_static(&self) -> Command {
        let mut cargo = cargo_in(&self.root, &self.target(Output::Static));
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        cargo
    }

    /// Where [`Workspace::cargo_static`] leaves its programs.
    pub(crate) fn static_programs(&self, profile: &str) -> PathBuf {
        self.target(Output::Static).join(TRIPLE).join(profile)
    }

    /// Where `--profile demo` leaves its programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.target(Output::Main).join("demo")
    }

    /// Where things are kept for all checkouts.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Makes sure that what lies in the output was built from this very checkout, or from the registry.
    pub(crate) fn claim(&self, output: Output) -> anyhow::Result<()> {
        let target = self.target(output);
        fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
        let stamp = target.join("weft-checkout");
        let ours = stamp_of(&self.root)?;
        match fs::read_to_string(&stamp) {
            Ok(found) if found == ours => return Ok(()),
            Ok(found) => {
                let other = found.lines().next().unwrap_or_default();
                eprintln!("{}: last used by {other}; building our own crates anew", target.display());
            }
            Err(_) => eprintln!("{}: first use by this checkout", target.display()),
        }
        let (directory, profiles): (PathBuf, &[&str]) = match output {
            Output::Fuzz => (self.root.join("fuzz"), &["dev", "release"]),
            Output::Main => (self.root.clone(), &["dev", "demo"]),
            Output::Static => (self.root.clone(), &["dev", "demo", "release"]),
        };
        let lock_file = directory.join("Cargo.lock");
        let text = fs::read_to_string(&lock_file).with_context(|| format!("reading {}", lock_file.display()))?;
        for profile in profiles {
            let mut clean = cargo_in(&directory, &target);
            clean.args(["clean", "--quiet", "--profile", profile]);
            if matches!(output, Output::Fuzz | Output::Static) {
                clean.args(["--target", TRIPLE]);
            }
            for name in local_packages(&text) {
                clean.args(["--package", name]);
            }
            check(&mut clean)?;
        }
        fs::write(&stamp, ours).with_context(|| format!("writing {}", stamp.display()))
    }

    fn target(&self, output: Output) -> PathBuf {
        match output {
            Output::Fuzz => self.cache.join("fuzz-target"),
            Output::Static => self.cache.join("static-target"),
            Output::Main => self.cache.join("target"),
        }
    }
}

/// What the fuzz targets and the programs of images are built for; named, so that build scripts are built as usual.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The checkout this program belongs to.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    // What cargo says at run time comes first: a checkout may have been moved since this program was built.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let here = fs::canonicalize(&here).with_context(|| format!("looking for {}", here.display()))?;
    let root = here.parent().context("xtask lies in the root of the file system")?;
    Ok(root.to_owned())
}

/// Cargo in the checkout for commands that do not need the output for themselves.
pub(crate) fn cargo(root: &Path) -> Command {
    cargo_in(root, &cache(root).join("target"))
}

/// Runs a command to its end.
///
/// # Errors
/// It could not be started, or did not succeed; both name it.
pub(crate) fn check(command: &mut Command) -> anyhow::Result<()> {
    let name = describe(command);
    let status = command.status().with_context(|| format!("starting {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// The command line, for messages; cut where it gets long.
pub(crate) fn describe(command: &Command) -> String {
    let mut line = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    if line.chars().count() > 120 {
        line = line.chars().take(119).chain(['…']).collect();
    }
    line
}

fn cargo_in(directory: &Path, target: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(directory).env("CARGO_TARGET_DIR", target);
    // What incremental builds leave is of no use to the next checkout, and a compiler that trips over it fails the run.
    command.env("CARGO_INCREMENTAL", "0");
    command
}

/// `${XDG_CACHE_HOME:-$HOME/.cache}/weft`; without a home the checkout's own `target`.
pub(crate) fn cache(root: &Path) -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let parent = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    parent.map_or_else(|| root.join("target/cache"), |parent| parent.join("weft"))
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            eprintln!("another cargo xtask holds {}; waiting for it to end", path.display());
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("locking {}", path.display())),
    }
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// What tells one checkout from another: the path, and the directory itself, for a path is soon taken by the next clone.
fn stamp_of(root: &Path) -> anyhow::Result<String> {
    let metadata = fs::metadata(root).with_context(|| format!("looking at {}", root.display()))?;
    let born = metadata.created().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(format!(
        "{}\n{}:{} born {}\n",
        root.display(),
        metadata.dev(),
        metadata.ino(),
        born.unwrap_or_default().as_nanos()
    ))
}

/// The packages of a lock file that come from no registry: our own.
fn local_packages(lock_file: &str) -> Vec<&str> {
    let blocks = lock_file.split("[[package]]").skip(1).filter(|block| !block.contains("\nsource = "));
    blocks
        .filter_map(|block| block.lines().find_map(|line| line.strip_prefix("name = ")))
        .map(|name| name.trim_matches('"'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_without_a_source_are_our_own() {
        let text = "version = 4\n\n[[package]]\nname = \"anyhow\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\n\n\
                    [[package]]\nname = \"xtask\"\nversion = \"0.1.0\"\ndependencies = [\n \"anyhow\",\n]\n";
        assert_eq!(local_packages(text), ["xtask"]);
    }

    #[test]
    fn two_checkouts_have_two_stamps() {
        let here = root().unwrap();
        assert_eq!(stamp_of(&here).unwrap(), stamp_of(&here).unwrap());
        assert_ne!(stamp_of(&here).unwrap(), stamp_of(&here.join("xtask")).unwrap());
    }
}
