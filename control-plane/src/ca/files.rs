//! The authority's directory. Every write is a new file, synced and renamed over the old one, so that a reader or a crash
//! sees the old content or the new and never a part; files with a key are readable by their owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::CaError;

/// Who may read a file.
#[derive(Clone, Copy)]
pub(crate) enum Secrecy {
    /// Its owner alone.
    Private,
    /// Everybody.
    Public,
}

/// No file of ours is larger; one that is was put there by mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Processes that make one file at once, with those that crashed doing so; nobody starts so many control planes on one directory.
const DRAFTS_MAX: u32 = 1000;

/// A directory that is read and written as a whole. Only [`create`](Self::create) is for several processes at once.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens it, making it for its owner alone where it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, CaError> {
        use std::os::unix::fs::DirBuilderExt;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| CaError::Io { path: path.to_path_buf(), source })?;
        Ok(Self(path.to_path_buf()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file's content; `None` where there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CaError> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Ok(facts) if facts.len() > FILE_BYTES_MAX => Err(CaError::TooLarge { path }),
            Ok(_) => fs::read(&path).map(Some).map_err(|source| CaError::Io { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CaError::Io { path, source }),
        }
    }

    /// Replaces a file as a whole.
    pub(crate) fn write(&self, name: &str, content: &[u8], secrecy: Secrecy) -> Result<(), CaError> {
        let path = self.path(name);
        let temporary = self.path(&format!(".{name}.new"));
        let written = self.write_through(&temporary, &path, content, secrecy);
        written.map_err(|source| CaError::Io { path, source })
    }

    fn write_through(&self, temporary: &Path, path: &Path, content: &[u8], secrecy: Secrecy) -> io::Result<()> {
        // A left-over of a crash may have another mode, which opening would keep.
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode(secrecy)).open(temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        self.sync()
    }

    /// Makes a file that must not be there yet, and says whether it was us who made it: of several processes that try at once
    /// one does, and the others find its content, whole.
    pub(crate) fn create(&self, name: &str, content: &[u8], secrecy: Secrecy) -> Result<bool, CaError> {
        let path = self.path(name);
        let created = self.create_through(name, &path, content, secrecy);
        created.map_err(|source| CaError::Io { path, source })
    }

    fn create_through(&self, name: &str, path: &Path, content: &[u8], secrecy: Secrecy) -> io::Result<bool> {
        let (temporary, mut file) = self.draft(name, secrecy)?;
        // A link, other than a rename, replaces nothing.
        let linked =
            file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&temporary, path));
        fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => self.sync().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A new file that no other process has: its number would not tell them apart where they live in different containers.
    fn draft(&self, name: &str, secrecy: Secrecy) -> io::Result<(PathBuf, File)> {
        for number in 0..DRAFTS_MAX {
            let path = self.path(&format!(".{name}.{number}.new"));
            match OpenOptions::new().write(true).create_new(true).mode(mode(secrecy)).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => return opened.map(|file| (path, file)),
            }
        }
        Err(io::Error::other("too many drafts of it were left behind"))
    }

    /// Removes a file; fine if it is not there.
    pub(crate) fn remove(&self, name: &str) -> Result<(), CaError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync()).map_err(|source| CaError::Io { path, source }),
        }
    }

    /// Opens a file for appending, for its owner alone.
    pub(crate) fn append(&self, name: &str) -> Result<File, CaError> {
        let path = self.path(name);
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).and_then(|file| {
            self.sync()?;
            Ok(file)
        });
        opened.map_err(|source| CaError::Io { path, source })
    }

    /// Makes renames and removals last.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

fn mode(secrecy: Secrecy) -> u32 {
    match secrecy {
        Secrecy::Private => 0o600,
        Secrecy::Public => 0o644,
    }
}
