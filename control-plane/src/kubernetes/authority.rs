//! The certificate authority's files, kept in a Secret: the directory that the authority works in is this replica's copy of it, on a
//! tmpfs. The Secret is made by whoever comes first, written by the replica that holds the Lease, and read by the others.
//!
//! Every write names the version that was read, so that two replicas never write over each other.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;
use weft_runtime::drain::Drain;

/// The Secret's name, in the control plane's own namespace.
pub(crate) const NAME: &str = weft_model::kubernetes::AUTHORITY_SECRET;

/// How often both sides are compared. A rotation waits for every proxy; a few seconds are nothing to it.
const EVERY: Duration = Duration::from_secs(5);

/// Content of files, by name. Keys among them: never logged.
type Files = BTreeMap<String, Vec<u8>>;

/// A directory and its Secret.
pub(crate) struct Mirror {
    api: Api<Secret>,
    directory: PathBuf,
    /// What both had when they were the same last.
    agreed: Files,
}

impl Mirror {
    /// Puts the Secret's files into the directory. `made` makes them where there is no Secret yet, and is then the first; where it
    /// says that it could not yet, another replica may have been able to.
    ///
    /// # Errors
    /// The API server or the directory cannot be used, or the files cannot be made.
    pub(crate) async fn open<E: From<MirrorError>>(
        client: &Client,
        namespace: &str,
        directory: &Path,
        mut made: impl AsyncFnMut() -> Result<bool, E>,
    ) -> Result<Self, E> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let mut mirror = Self { api, directory: directory.to_owned(), agreed: Files::new() };
        loop {
            let found = mirror.api.get_opt(NAME).await.map_err(MirrorError::from)?;
            if let Some(secret) = found {
                mirror.take(files_of(&secret)).map_err(MirrorError::from)?;
                return Ok(mirror);
            }
            if !made().await? {
                continue;
            }
            let files = read(&mirror.directory).map_err(MirrorError::from)?;
            match mirror.api.create(&PostParams::default(), &secret(files.clone(), None)).await {
                Ok(_made) => {
                    mirror.agreed = files;
                    return Ok(mirror);
                }
                // Another replica was faster: its authority is the one.
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => return Err(MirrorError::from(error).into()),
            }
        }
    }

    /// Keeps both the same until the drain is over. Whoever `leads` writes what its authority did.
    pub(crate) async fn keep(mut self, leads: watch::Receiver<bool>, drain: Drain) {
        loop {
            // Nothing is lost: what was not compared now is compared in a while.
            tokio::select! {
                () = drain.cut() => return,
                () = sleep(EVERY) => {}
            }
            let is_leading = *leads.borrow();
            if let Err(error) = self.compare(is_leading).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the authority's Secret cannot be kept current"
                );
            }
        }
    }

    async fn compare(&mut self, leads: bool) -> Result<(), MirrorError> {
        let secret_now = self.api.get_opt(NAME).await?;
        let version = secret_now.as_ref().and_then(|secret| secret.metadata.resource_version.clone());
        let theirs = secret_now.as_ref().map(files_of).unwrap_or_default();
        let ours = read(&self.directory)?;
        if theirs != self.agreed && !theirs.is_empty() {
            tracing::info!("the authority's Secret was changed; taking it");
            self.take(theirs)?;
        } else if ours != self.agreed && leads {
            let written = secret(ours.clone(), version.clone());
            match version {
                Some(_) => self.api.replace(NAME, &PostParams::default(), &written).await?,
                None => self.api.create(&PostParams::default(), &written).await?,
            };
            self.agreed = ours;
        }
        Ok(())
    }

    /// Makes the directory what `files` says. Each file is replaced as a whole.
    fn take(&mut self, files: Files) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let before = read(&self.directory)?;
        for (name, content) in files.iter().filter(|(name, content)| before.get(*name) != Some(*content)) {
            let temporary = self.directory.join(format!(".{name}.taken"));
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            fs::rename(&temporary, self.directory.join(name))?;
        }
        for name in before.keys().filter(|name| !files.contains_key(*name)) {
            fs::remove_file(self.directory.join(name))?;
        }
        self.agreed = files;
        Ok(())
    }
}

/// The authority's own files; what join tokens leave there concerns this replica alone, and drafts nobody.
fn read(directory: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_file() && !name.starts_with('.') && !name.starts_with("join") {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(files)
}

fn files_of(secret: &Secret) -> Files {
    // A name that leads out of the directory is none.
    let is_plain = |name: &str| !name.starts_with('.') && !name.contains('/');
    let data = secret.data.iter().flatten().filter(|(name, _)| is_plain(name));
    data.map(|(name, content)| (name.clone(), content.0.clone())).collect()
}

fn secret(files: Files, version: Option<String>) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), resource_version: version, ..ObjectMeta::default() },
        data: Some(files.into_iter().map(|(name, content)| (name, ByteString(content))).collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// Why the authority's files are not at hand.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The directory.
    #[error("the authority's directory cannot be used")]
    Directory(#[from] io::Error),
    /// The Secret.
    #[error("the authority's Secret ({NAME}) cannot be read or written")]
    Secret(#[from] Box<kube::Error>),
}

impl From<kube::Error> for MirrorError {
    fn from(error: kube::Error) -> Self {
        Self::Secret(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn only_the_authoritys_own_files_are_kept() {
        let directory = TempDir::new().unwrap();
        for name in ["issuer.pem", "anchor.key", "join.key", "join-used.log", ".issuer.pem.new"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let files = read(directory.path()).unwrap();
        assert_eq!(files.keys().map(String::as_str).collect::<Vec<_>>(), ["anchor.key", "issuer.pem"]);
        let mut secret = secret(files.clone(), Some("7".to_owned()));
        assert_eq!(files_of(&secret), files);
        for bad in ["..", ".hidden", "../escape"] {
            secret.data.get_or_insert_default().insert(bad.to_owned(), ByteString(Vec::new()));
        }
        assert_eq!(files_of(&secret), files);
    }
}
