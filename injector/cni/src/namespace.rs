//! Network namespaces: entering one, and finding a pod's. Invariant: what is done here to a pod's namespace is never done to the
//! node's own, whatever a path or an annotation says.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Why nothing was done in a namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// It cannot be opened or entered.
    #[error("the network namespace {} cannot be entered", path.display())]
    Enter {
        /// Where it was looked for.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is the one that we are in, or the node's.
    #[error("{} is the network of the node itself, which is nobody's to redirect", .0.display())]
    Own(PathBuf),
}

/// Does something in a network namespace, on a thread of its own: the caller's stays where it is.
pub(crate) fn within<T: Send>(path: &Path, act: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    let failed = |source| NamespaceError::Enter { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    let number = namespace.metadata().map_err(failed)?.ino();
    // The first process' is not visible everywhere, and the plugin's own is the node's.
    let is_own = |own: &str| fs::metadata(own).is_ok_and(|own| own.ino() == number);
    if is_own("/proc/self/ns/net") || is_own("/proc/1/ns/net") {
        return Err(NamespaceError::Own(path.to_owned()));
    }
    let entered = thread::scope(|scope| {
        let work = move || setns(&namespace, CloneFlags::CLONE_NEWNET).map(|()| act());
        thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work).map(|thread| thread.join())
    });
    match entered {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(errno))) => Err(failed(errno.into())),
        Ok(Err(_)) => Err(failed(io::Error::other("the thread that entered it has panicked"))),
        Err(error) => Err(failed(error)),
    }
}

/// The network namespace of a pod: that of any process in the pod's cgroup. Meant for pods of which no container of the application
/// runs yet, so that nobody has made another inside.
pub(crate) fn of_pod(proc: &Path, uid: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        // A process may end while it is looked at.
        if is_process && fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|text| is_of_pod(&text, uid)) {
            return Ok(Some(entry.path().join("ns/net")));
        }
    }
    Ok(None)
}

/// Whether a process with these cgroups is of the pod: the kubelet names them `pod<uid>`, or for systemd `…-pod<uid>.slice` with
/// underscores.
fn is_of_pod(cgroups: &str, uid: &str) -> bool {
    let (plain, slice) = (format!("pod{uid}"), format!("-pod{}.slice", uid.replace('-', "_")));
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).any(|part| part == plain || part.ends_with(&slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-0000-4000-8000-00000000000f";

    #[test]
    fn a_pods_processes_are_told_by_their_cgroup() {
        let check = |text: &str, expected: bool| assert_eq!(is_of_pod(text, UID), expected, "{text}");
        check("0::/kubepods/burstable/pod0a1b2c3d-0000-4000-8000-00000000000f/5d9f\n", true);
        check("0::/../../pod0a1b2c3d-0000-4000-8000-00000000000f/5d9f\n", true);
        check(
            "12:cpu:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a1b2c3d_0000_4000_8000_00000000000f.slice/cri-1.scope\n",
            true,
        );
        check("0::/kubepods/pod0a1b2c3d-0000-4000-8000-0000000000ff/5d9f\n", false);
        check("0::/system.slice/kubelet.service\n1:name=systemd:/\n", false);
        check("", false);
    }

    #[test]
    fn a_pod_is_found_among_processes() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: &str, cgroup: &str| {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("cgroup"), cgroup).unwrap();
        };
        process("1", "0::/init.scope\n");
        process("self", &format!("0::/kubepods/pod{UID}/1\n"));
        assert_eq!(of_pod(proc.path(), UID).unwrap(), None);
        process("4711", &format!("0::/kubepods/pod{UID}/1\n"));
        assert_eq!(of_pod(proc.path(), UID).unwrap(), Some(proc.path().join("4711/ns/net")));
    }

    #[test]
    fn the_nodes_own_namespace_is_never_entered() {
        let done = within(Path::new("/proc/self/ns/net"), || panic!("it was entered"));
        assert!(matches!(done, Err(NamespaceError::Own(_))));
        let done = within(Path::new("/nowhere"), || panic!("it was entered"));
        assert!(matches!(done, Err(NamespaceError::Enter { .. })));
    }
}
