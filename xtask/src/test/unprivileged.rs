//! Runs programs as a user with no rights at all, and without the programs that set firewall rules and addresses.
//!
//! The build output may lie in a home that nobody else may enter, so the programs are first put where everybody may run them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::packages;

/// Debian's `nobody`: owns nothing, is allowed nothing.
const NOBODY: u32 = 65534;

/// A directory with programs, a search path and a home for the unprivileged user; removed on drop.
#[derive(Debug)]
pub(super) struct Stage {
    directory: PathBuf,
}

impl Stage {
    /// Puts programs where everybody may run them.
    pub(super) fn new(programs: &[PathBuf]) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("weft-unprivileged-{}", std::process::id()));
        let stage = Self { directory };
        for name in ["bin", "path", "home"] {
            let path = stage.directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        fs::set_permissions(&stage.directory, fs::Permissions::from_mode(0o755))
            .context("opening the directory to all")?;
        if packages::is_root()? {
            chown(stage.directory.join("home"), Some(NOBODY), Some(NOBODY)).context("giving away the home")?;
        }
        for program in programs {
            let to = stage.staged(program)?;
            // A link costs nothing, but only works within one file system.
            if fs::hard_link(program, &to).is_err() {
                fs::copy(program, &to).with_context(|| format!("copying {}", program.display()))?;
            }
        }
        stage.link_path()?;
        Ok(stage)
    }

    /// One of the programs, to be run as the unprivileged user.
    pub(super) fn command(&self, program: &Path) -> anyhow::Result<Command> {
        let home = self.directory.join("home");
        let mut command = Command::new(self.staged(program)?);
        command.current_dir(&home).env_clear();
        command.env("HOME", &home).env("TMPDIR", &home).env("PATH", self.directory.join("path"));
        for kept in ["CI", "NO_COLOR", "RUST_BACKTRACE", "TERM"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if packages::is_root()? {
            command.uid(NOBODY).gid(NOBODY);
        }
        Ok(command)
    }

    fn staged(&self, program: &Path) -> anyhow::Result<PathBuf> {
        let name = program.file_name().with_context(|| format!("{} names no file", program.display()))?;
        Ok(self.directory.join("bin").join(name))
    }

    /// A search path that holds all that ours holds, but what would set rules or addresses.
    fn link_path(&self) -> anyhow::Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        for directory in std::env::split_paths(&path) {
            // Directories of the PATH that do not exist are nobody's fault.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let link = self.directory.join("path").join(entry.file_name());
                if !is_withheld(&entry.file_name()) && !link.is_symlink() {
                    symlink(entry.path(), &link).with_context(|| format!("linking {}", link.display()))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("removing {}: {error}", self.directory.display());
        }
    }
}

fn is_withheld(program: &OsStr) -> bool {
    let name = program.to_string_lossy();
    name == "ip"
        || ["nft", "iptables", "ip6tables", "xtables", "ebtables", "arptables"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sets_rules_or_addresses_is_withheld() {
        for name in ["ip", "nft", "iptables", "iptables-legacy-restore", "ip6tables-save", "xtables-nft-multi"] {
            assert!(is_withheld(OsStr::new(name)), "{name}");
        }
        for name in ["ipcs", "sh", "curl", "redis-server"] {
            assert!(!is_withheld(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_stage_leaves_nothing_behind() {
        let stage = Stage::new(&[PathBuf::from("/proc/self/exe").canonicalize().unwrap()]).unwrap();
        let directory = stage.directory.clone();
        assert!(directory.join("path/sh").is_symlink() && !directory.join("path/nft").is_symlink());
        drop(stage);
        assert!(!directory.exists());
    }
}
