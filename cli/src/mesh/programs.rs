//! Where the mesh's programs lie: beside this one, as a build or an installation leaves them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// A directory with programs in it.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Those beside the running program.
    ///
    /// # Errors
    /// The system does not tell where that is.
    pub fn beside() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("asking where this program lies")?;
        let directory = program.parent().context("this program lies nowhere")?;
        // Cargo puts the programs of tests one directory further down.
        let inner = directory.file_name().is_some_and(|name| name == "deps");
        let directory = if inner { directory.parent().unwrap_or(directory) } else { directory };
        Ok(Self::of(directory))
    }

    /// Those of a directory.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Where one of them lies.
    ///
    /// # Errors
    /// There is no such file; the error says how to make it.
    pub fn find(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "{name} is not in {}: build it with `cargo build --profile demo --bins`, or begin with `cargo demo`",
            self.directory.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Programs;

    #[test]
    fn a_missing_program_names_the_remedy() {
        let error = Programs::beside().unwrap().find("no-such-program").unwrap_err().to_string();
        assert!(error.contains("no-such-program is not in") && error.contains("cargo demo"), "{error}");
    }
}
