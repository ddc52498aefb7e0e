//! The two things that must happen before this process has a second thread: becoming another program on behalf of
//! [`Launch`](super::Launch), and entering a user namespace.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, fexecve, getegid, geteuid, getppid, setgid, setgroups, setuid};

use super::PROXY_USER;

/// First argument of a process that is about to become another.
pub(super) const INTERNAL_EXEC: &str = "internal-exec";

/// Linux's numbers of the capabilities that a world needs, from `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// How this process came to its rights over network namespaces. Had only from [`enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privilege {
    user_namespace: bool,
}

impl Privilege {
    /// Whether only one user id exists here, so that the redirect must know the proxy by its socket mark.
    pub fn is_user_namespace(self) -> bool {
        self.user_namespace
    }
}

/// Enters a user namespace unless this process may make network namespaces as it is. To be called while there is one thread.
///
/// # Errors
/// The system forbids user namespaces; the error names the remedy.
pub fn enter() -> anyhow::Result<Privilege> {
    if geteuid().is_root() && has_capabilities()? {
        // We may have been started inside a user namespace that somebody else has entered.
        let map = fs::read_to_string("/proc/self/uid_map").context("reading /proc/self/uid_map")?;
        return Ok(Privilege { user_namespace: !is_mapped(&map, PROXY_USER) });
    }
    let (uid, gid) = (geteuid(), getegid());
    become_root_inside(uid, gid).map_err(|error| error.context(remedy()))?;
    Ok(Privilege { user_namespace: true })
}

/// Has this process become what [`Launch`](super::Launch) asked for, if it was started for that. The first line of `main`.
///
/// Returns nothing where the process was started for something else, and an exit code where becoming the other failed.
pub fn run_internal() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != INTERNAL_EXEC {
        return None;
    }
    let Err(error) = become_other(args);
    // Its standard error is the log of the process that it should have become.
    drop(io::Write::write_fmt(&mut io::stderr(), format_args!("not started: {error:#}\n")));
    Some(ExitCode::from(126))
}

fn become_root_inside(uid: Uid, gid: Gid) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).context("entering a user namespace")?;
    // One id is all that an unprivileged user may map. As root inside, programs that are started keep their rights here.
    let write = |file: &str, text: &str| fs::write(file, text).with_context(|| format!("writing {text:?} to {file}"));
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    // Some systems let anybody make one, but without rights in it.
    std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET))
        .join()
        .unwrap_or(Err(nix::errno::Errno::EPERM))
        .context("making a network namespace inside a user namespace")
}

/// Whether a user id exists in a user namespace. Each line of its map has the first id inside, the first outside, and how many
/// they are (`user_namespaces(7)`).
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

/// What an administrator can do where user namespaces are forbidden, as far as this system tells.
fn remedy() -> String {
    let read = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).map(|text| text.trim().to_owned());
    let knobs = [
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("user/max_net_namespaces", "0", "sysctl user.max_net_namespaces=10000"),
    ];
    let advice = knobs.iter().find(|(name, value, _)| read(name).is_ok_and(|found| found == *value));
    let advice = advice.map_or("allow user namespaces in this container or sandbox", |(_, _, command)| command);
    format!("this user may not make network namespaces: run it as root, or have an administrator do: {advice}")
}

fn has_capabilities() -> anyhow::Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
    let effective =
        effective.and_then(|text| u64::from_str_radix(text, 16).ok()).context("/proc/self/status has no CapEff")?;
    let wanted = (1 << CAP_NET_ADMIN) | (1 << CAP_SYS_ADMIN);
    Ok(effective & wanted == wanted)
}

/// `PARENT KEEPER USER PROGRAM ARGS…`: the process and the thread to die with; the user is `-` for the one that we are.
fn become_other(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<Infallible> {
    let mut next = || args.next().context("an argument is missing");
    let (parent, keeper, user, program) = (next()?, next()?, next()?, next()?);
    let program = search(&program)?;
    // Opened before the user changes: the build output may lie where only its owner may go.
    let file = File::open(&program).with_context(|| format!("opening {}", program.display()))?;
    if user != "-" {
        let id: u32 =
            user.to_str().and_then(|text| text.parse().ok()).with_context(|| format!("{user:?} is no user id"))?;
        setgroups(&[]).context("leaving all groups")?;
        setgid(Gid::from_raw(id)).context("changing the group")?;
        setuid(Uid::from_raw(id)).context("changing the user")?;
    }
    // After the change of user, which would undo it.
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to die with the parent")?;
    // It may have ended before it was asked to take us with it.
    let keeper = Path::new("/proc").join(&parent).join("task").join(keeper);
    if parent.to_str() != Some(&getppid().to_string()) || !keeper.exists() {
        bail!("the parent is gone");
    }
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).with_context(|| format!("{text:?} holds a NUL"));
    let argv =
        std::iter::once(Ok(program.into_os_string())).chain(args.map(Ok)).map(|arg: anyhow::Result<_>| c_string(&arg?));
    let argv = argv.collect::<anyhow::Result<Vec<_>>>()?;
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        c_string(&name)
    });
    let environment = environment.collect::<anyhow::Result<Vec<_>>>()?;
    fexecve(&file, &argv, &environment).context("starting the program")
}

/// Where a program lies: its path, or a file of that name on the PATH.
fn search(program: &OsStr) -> anyhow::Result<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{} is not on the PATH", program.display()))
}

#[cfg(test)]
mod tests {
    use super::is_mapped;

    #[test]
    fn ids_outside_of_the_map_do_not_exist() {
        assert!(is_mapped("         0          0 4294967295\n", 2140));
        assert!(!is_mapped("         0      65534          1\n", 2140));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 2140) && !is_mapped("0 1000 1\n2141 100000 65536\n", 2140));
        assert!(!is_mapped("", 2140) && !is_mapped("x y z\n0 0\n", 2140));
    }
}
