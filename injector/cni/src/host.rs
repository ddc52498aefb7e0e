//! The node's files: the program in the CNI directory of programs, and we in the chain of the CNI configuration that the runtime uses,
//! which is the first by name.
//!
//! Every change is one rename, so that a runtime sees the configuration before or after and never half of one, and at no moment none.
//! What was there before is kept beside it under a name that runtimes do not look at, and comes back as it was.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::chain::{self, ChainError, PLUGIN, Shape};

/// After the name of what we have changed: as it was.
const SAVED: &str = ".weft-saved";
/// After the name of what is not all written yet.
const NEW: &str = ".weft-new";
/// Configurations are short; what is longer is none.
const CONFIGURATION_BYTES_MAX: u64 = 1024 * 1024;

/// The node's two directories.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) programs: PathBuf,
    pub(crate) configurations: PathBuf,
}

/// What became of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The file that has us in its chain.
    pub(crate) file: String,
    /// Whether it had to be written.
    pub(crate) is_new: bool,
}

/// Why the node is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// Two files of one name, which of them counts being the runtime's secret.
    #[error("{single} and {list} are both there: remove the one that does not count")]
    Ambiguous {
        /// The one that comes first.
        single: String,
        /// The other, in whose place a chain would have to come.
        list: String,
    },
    /// The first configuration cannot have us in its chain.
    #[error("{file} cannot have weft-cni in its chain")]
    Chain {
        /// The file.
        file: String,
        /// Why.
        source: ChainError,
    },
    /// A file cannot be read or written.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The cluster's own network is not there yet.
    #[error("there is no CNI configuration in {} yet: the cluster's network is not installed, or keeps it elsewhere", .0.display())]
    None(PathBuf),
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostError {
    let path = path.to_owned();
    move |source| HostError::File { attempt, path, source }
}

impl Host {
    /// Puts the program where the runtime looks for it, unless it is there. Says whether it had to.
    pub(crate) fn put_program(&self, program: &Path) -> Result<bool, HostError> {
        let (wanted, path) = (fs::read(program).map_err(failed("read", program))?, self.programs.join(PLUGIN));
        if fs::read(&path).is_ok_and(|found| found == wanted) {
            return Ok(false);
        }
        replace(&path, &wanted, fs::Permissions::from_mode(0o755))?;
        Ok(true)
    }

    /// Sees to it that we are in the chain of the first configuration.
    pub(crate) fn join(&self) -> Result<Joined, HostError> {
        let Some((file, shape)) = self.first()? else {
            return Err(HostError::None(self.configurations.clone()));
        };
        let (path, text) = (self.configurations.join(&file), self.read(&file)?);
        let joined = chain::joined(&text, shape);
        let Some(joined) = joined.map_err(|source| HostError::Chain { file: file.clone(), source })? else {
            return Ok(Joined { file, is_new: false });
        };
        let permissions = fs::metadata(&path).map_err(failed("read", &path))?.permissions();
        let saved = self.configurations.join(format!("{file}{SAVED}"));
        match shape {
            Shape::List => {
                replace(&saved, &text, permissions.clone())?;
                replace(&path, joined.as_bytes(), permissions)?;
                Ok(Joined { file, is_new: true })
            }
            Shape::Single => {
                let list = list_of(&file);
                let target = self.configurations.join(&list);
                if target.exists() && !self.has_us(&list) {
                    return Err(HostError::Ambiguous { single: file, list });
                }
                replace(&target, joined.as_bytes(), permissions)?;
                // As long as both are there the old one counts, or already the new one: by their ends.
                fs::rename(&path, &saved).map_err(failed("put aside", &path))?;
                Ok(Joined { file: list, is_new: true })
            }
        }
    }

    /// Takes us out of every chain. The program stays: a runtime may call it once more for pods that it made with us.
    pub(crate) fn part(&self) -> Result<Vec<String>, HostError> {
        let mut changed = Vec::new();
        for (file, shape) in self.configurations()? {
            if shape == Shape::List && self.has_us(&file) {
                self.part_from(&file)?;
                changed.push(file);
            }
        }
        // What is left of configurations that somebody has replaced.
        for file in self.files()?.into_iter().filter(|file| file.ends_with(SAVED) || file.ends_with(NEW)) {
            let path = self.configurations.join(file);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(changed)
    }

    fn part_from(&self, file: &str) -> Result<(), HostError> {
        let path = self.configurations.join(file);
        for single in singles_of(file) {
            let (single, saved) =
                (self.configurations.join(&single), self.configurations.join(format!("{single}{SAVED}")));
            if saved.exists() {
                if !single.exists() {
                    fs::rename(&saved, &single).map_err(failed("bring back", &single))?;
                }
                return fs::remove_file(&path).map_err(failed("remove", &path));
            }
        }
        let text = self.read(file)?;
        let saved = self.configurations.join(format!("{file}{SAVED}"));
        // As it was to the letter, if nobody has changed it since.
        let before = fs::read(&saved).ok().and_then(|before| chain::joined(&before, Shape::List).ok().flatten());
        if before.is_some_and(|with| chain::is_same(with.as_bytes(), &text)) {
            return fs::rename(&saved, &path).map_err(failed("bring back", &path));
        }
        let parted = chain::parted(&text).map_err(|source| HostError::Chain { file: file.to_owned(), source })?;
        let permissions = fs::metadata(&path).map_err(failed("read", &path))?.permissions();
        parted.map_or(Ok(()), |parted| replace(&path, parted.as_bytes(), permissions))
    }

    /// The configuration that the runtime uses, or would if we had not made a chain of it: its owner may have written it again, and one
    /// whose name ends in `.json` comes after our chain.
    fn first(&self) -> Result<Option<(String, Shape)>, HostError> {
        let Some((file, shape)) = self.configurations()?.into_iter().next() else { return Ok(None) };
        let there = |file: &str| self.configurations.join(file).exists();
        let again = singles_of(&file).into_iter().find(|single| there(single) && there(&format!("{single}{SAVED}")));
        match again {
            Some(single) if shape == Shape::List && self.has_us(&file) => Ok(Some((single, Shape::Single))),
            _ => Ok(Some((file, shape))),
        }
    }

    fn has_us(&self, list: &str) -> bool {
        self.read(list).is_ok_and(|text| matches!(chain::parted(&text), Ok(Some(_))))
    }

    /// Every configuration, in the order in which runtimes look.
    fn configurations(&self) -> Result<Vec<(String, Shape)>, HostError> {
        let files = self.files()?.into_iter();
        Ok(files.filter_map(|file| chain::shape(&file).map(|shape| (file, shape))).collect())
    }

    fn files(&self) -> Result<Vec<String>, HostError> {
        let refused = || failed("list", &self.configurations);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.configurations).map_err(refused())? {
            let entry = entry.map_err(refused())?;
            // Not of the entry: it may be a link.
            if entry.path().is_file() {
                files.extend(entry.file_name().into_string());
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, HostError> {
        use io::Read as _;
        let path = self.configurations.join(file);
        let mut text = Vec::new();
        let opened = File::open(&path).map_err(failed("read", &path))?;
        opened.take(CONFIGURATION_BYTES_MAX).read_to_end(&mut text).map_err(failed("read", &path))?;
        Ok(text)
    }
}

/// The chain that a lone plugin's file becomes.
fn list_of(file: &str) -> String {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    format!("{stem}.conflist")
}

/// The lone plugins' files that could have become this chain.
fn singles_of(list: &str) -> [String; 2] {
    let stem = list.rsplit_once('.').map_or(list, |(stem, _)| stem);
    ["conf", "json"].map(|end| format!("{stem}.{end}"))
}

/// Writes a file whole or not at all.
fn replace(path: &Path, content: &[u8], permissions: fs::Permissions) -> Result<(), HostError> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    let new = PathBuf::from(new);
    let mut file = File::create(&new).map_err(failed("create", &new))?;
    file.set_permissions(permissions).map_err(failed("set the permissions of", &new))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write", &new))?;
    drop(file);
    fs::rename(&new, path).map_err(failed("put in place", path))?;
    // The rename too must outlive a crash of the node.
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write", directory))
}

#[cfg(test)]
mod tests;
