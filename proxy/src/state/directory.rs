//! The directory: that it lies in memory and is ours alone, and the few things that are done in it. Everything goes
//! through the descriptor that was checked, so nobody can put another directory in its place afterwards.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Uid, UnlinkatFlags, geteuid, unlinkat};
use zeroize::Zeroizing;

use super::StateError;
use super::file::Kind;

/// `RAMFS_MAGIC` of `linux/magic.h`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// What a file is called until it is whole.
const DRAFT_SUFFIX: &str = ".draft";

/// What others may do, of the bits of a mode.
const OTHERS: u32 = 0o077;

/// A directory in memory that only our user may enter.
#[derive(Debug)]
pub(super) struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// What is checked of a directory.
#[derive(Clone, Copy, Debug)]
struct Facts {
    file_system: FsType,
    owner: Uid,
    mode: u32,
}

impl Directory {
    /// Opens it, and makes it if only the last part of its path is missing: a volume of Kubernetes belongs to root, a
    /// directory in it can be ours.
    pub(super) fn open(path: &Path) -> Result<Self, DirectoryError> {
        let is_made = DirBuilder::new().mode(0o700).create(path).is_ok();
        let opened = Self::open_checked(path);
        if is_made && opened.is_err() {
            // Where we have nothing to keep we leave nothing.
            drop(fs::remove_dir(path));
        }
        opened
    }

    fn open_checked(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |errno: Errno| DirectoryError::Open { path: path.to_owned(), source: errno.into() };
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let descriptor = open(path, flags, Mode::empty()).map_err(failed)?;
        let status = fstat(&descriptor).map_err(failed)?;
        let facts = Facts {
            file_system: fstatfs(&descriptor).map_err(failed)?.filesystem_type(),
            owner: Uid::from_raw(status.st_uid),
            mode: status.st_mode & !SFlag::S_IFMT.bits(),
        };
        facts.check(path, geteuid())?;
        Ok(Self { descriptor, path: path.to_owned() })
    }

    /// Where a file lies, for people.
    pub(super) fn path_of(&self, kind: Kind) -> PathBuf {
        self.path.join(kind.name())
    }

    /// Puts a file in place of the former one, as a whole: whoever reads, after a crash too, finds one or the other.
    /// Nothing is flushed, because memory has nothing to be flushed to.
    pub(super) fn replace(&self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let draft = format!("{}{DRAFT_SUFFIX}", kind.name());
        // What a crash left; its mode is not known.
        self.unlink(&draft)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file = File::from(openat(&self.descriptor, draft.as_str(), flags, mode)?);
        let written = file
            .write_all(bytes)
            .and_then(|()| Ok(renameat(&self.descriptor, draft.as_str(), &self.descriptor, kind.name())?));
        if written.is_err() {
            self.unlink(&draft)?;
        }
        written
    }

    /// A file's bytes, if it is there.
    pub(super) fn read(&self, kind: Kind) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        // Not blocking: somebody might have put a pipe there.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.descriptor, kind.name(), flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(StateError::Read(errno.into())),
        };
        let max = kind.bytes_max();
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if size > max {
            return Err(StateError::TooLarge { max });
        }
        // Large enough at once: growing would leave a copy of the key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
        // Nobody else writes here, but the bound must not depend on that.
        let limit = u64::try_from(size).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, kind: Kind) -> io::Result<()> {
        self.unlink(kind.name())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Facts {
    fn check(self, path: &Path, user: Uid) -> Result<(), DirectoryError> {
        let path = path.to_owned();
        if self.file_system != TMPFS_MAGIC && self.file_system != RAMFS_MAGIC {
            return Err(DirectoryError::NotInMemory { path });
        }
        if self.owner != user {
            return Err(DirectoryError::OtherOwner { path, owner: self.owner, user });
        }
        if self.mode & OTHERS != 0 {
            return Err(DirectoryError::OpenToOthers { path, mode: self.mode });
        }
        Ok(())
    }
}

/// Why a directory is not one for state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// A disk would see the key.
    #[error(
        "{} does not lie in memory, and a private key must not touch a disk: mount a tmpfs there \
         (Kubernetes: an emptyDir with `medium: Memory`), or do without",
        path.display()
    )]
    NotInMemory {
        /// Which.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("{} cannot be opened: it must be a directory on a tmpfs, of the proxy's user, with mode 0700", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else could read what is in it.
    #[error("{0} has mode {mode:04o}, which lets others in: chmod 700 {0}", path.display())]
    OpenToOthers {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("{0} belongs to user {owner} and not to user {user}, who runs the proxy: chown {user} {0}", path.display())]
    OtherOwner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: Uid,
        /// Who we are.
        user: Uid,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::state::testing::in_memory;

    #[test]
    fn only_a_directory_in_memory_that_is_ours_alone_is_taken() {
        let ours = Facts { file_system: TMPFS_MAGIC, owner: Uid::from_raw(7), mode: 0o700 };
        for (facts, want) in [
            (ours, ""),
            (Facts { file_system: RAMFS_MAGIC, ..ours }, ""),
            (Facts { file_system: FsType(0xef53), ..ours }, "/s does not lie in memory"),
            (Facts { owner: Uid::from_raw(8), ..ours }, "/s belongs to user 8 and not to user 7"),
            (Facts { mode: 0o710, ..ours }, "/s has mode 0710, which lets others in: chmod 700 /s"),
            (Facts { mode: 0o704, ..ours }, "/s has mode 0704"),
        ] {
            let said = facts.check(Path::new("/s"), Uid::from_raw(7)).err().map(|error| error.to_string());
            assert!(
                said.as_deref().unwrap_or_default().starts_with(want) && said.is_some() != want.is_empty(),
                "{said:?}"
            );
        }
    }

    #[test]
    fn what_the_kernel_says_is_what_is_checked() {
        let there = in_memory();
        Directory::open(there.path()).unwrap();
        fs::set_permissions(there.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let refused = Directory::open(there.path());
        assert!(matches!(refused, Err(DirectoryError::OpenToOthers { mode: 0o750, .. })), "{refused:?}");
        let refused = Directory::open(Path::new("/proc"));
        assert!(matches!(refused, Err(DirectoryError::NotInMemory { .. })), "{refused:?}");
        fs::write(there.path().join("file"), "").unwrap();
        for missing in ["no/such", "file"] {
            let refused = Directory::open(&there.path().join(missing));
            assert!(matches!(refused, Err(DirectoryError::Open { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_missing_directory_is_made_for_us_alone() {
        let there = in_memory();
        let path = there.path().join("state");
        Directory::open(&path).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn files_are_ours_alone_and_replaced_as_a_whole() {
        let there = in_memory();
        let directory = Directory::open(there.path()).unwrap();
        assert!(directory.read(Kind::Credentials).unwrap().is_none());
        // As a crash in the middle leaves it.
        fs::write(there.path().join("credentials.draft"), "left").unwrap();
        for content in ["first", "2nd"] {
            directory.replace(Kind::Credentials, content.as_bytes()).unwrap();
            assert_eq!(**directory.read(Kind::Credentials).unwrap().unwrap(), *content.as_bytes());
        }
        let path = there.path().join("credentials");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 1, "no draft is left");
        directory.remove(Kind::Credentials).unwrap();
        directory.remove(Kind::Credentials).unwrap();
        assert!(directory.read(Kind::Credentials).unwrap().is_none());
    }

    #[test]
    fn a_file_beyond_its_bound_is_not_read() {
        let there = in_memory();
        let directory = Directory::open(there.path()).unwrap();
        let max = Kind::Credentials.bytes_max();
        fs::write(there.path().join("credentials"), vec![0; max + 1]).unwrap();
        assert!(matches!(directory.read(Kind::Credentials), Err(StateError::TooLarge { .. })));
        fs::write(there.path().join("credentials"), vec![0; max]).unwrap();
        assert_eq!(directory.read(Kind::Credentials).unwrap().unwrap().len(), max);
    }

    #[test]
    fn what_was_checked_is_what_is_used() {
        let there = in_memory();
        let path = there.path().join("state");
        let directory = Directory::open(&path).unwrap();
        fs::rename(&path, there.path().join("moved")).unwrap();
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        directory.replace(Kind::Credentials, b"secret").unwrap();
        assert!(there.path().join("moved/credentials").exists());
        // A link in place of a file is not followed.
        fs::remove_file(there.path().join("moved/credentials")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", there.path().join("moved/credentials")).unwrap();
        assert!(matches!(directory.read(Kind::Credentials), Err(StateError::Read(_))));
    }
}
