//! Processes inside a host: started, watched, signalled, and never left behind.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::enter::INTERNAL_EXEC;
use super::{Host, wait_for};

/// A process about to be started. It has no standard input, the environment of this process without `WEFT_*`, a process
/// group of its own, and writes to a log.
#[derive(Debug)]
pub struct Launch<'a> {
    host: &'a Host,
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    user: Option<u32>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(host: &'a Host, name: &str, program: &Path) -> Self {
        let name = format!("{}.{name}", host.name);
        let (args, environment) = (Vec::new(), Vec::new());
        Self { host, name, program: program.to_owned(), args, environment, directory: None, user: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the directory it starts in.
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Runs it as another user, without any right. Inside a user namespace no other user exists, and it is not started.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// It could not be started. That its program does not exist shows later: it ends at once with code 126, its log says why.
    pub fn start(self) -> anyhow::Result<Process> {
        let shared = &self.host.shared;
        let log = unused(shared.directory.path(), &self.name, "log")?;
        let (out, err) = split(create(&log)?)?;
        let name = self.name.clone();
        let child = self.spawn(out, err)?;
        shared.logs.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), log.clone()));
        Ok(Process { name, child, log })
    }

    /// Runs it to its end and returns what it said.
    ///
    /// # Errors
    /// It could not be started, or ran for longer than `within` and was killed.
    pub fn finish(self, within: Duration) -> anyhow::Result<Finished> {
        let directory = self.host.shared.directory.path().to_owned();
        let (log, log_err) = (unused(&directory, &self.name, "out")?, unused(&directory, &self.name, "err")?);
        let name = self.name.clone();
        let child = self.spawn(create(&log)?, create(&log_err)?)?;
        let mut process = Process { name, child, log };
        let status = process.wait(within);
        let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let stderr = String::from_utf8_lossy(&read(&log_err)?).into_owned();
        let status = status.with_context(|| stderr.clone())?;
        Ok(Finished { status, stdout: read(&process.log)?, stderr })
    }

    fn spawn(self, out: File, err: File) -> anyhow::Result<Child> {
        let name = self.name.clone();
        let namespace = Arc::clone(&self.host.namespace);
        namespace.start(|keeper| self.command(keeper, out, err)).with_context(|| format!("starting {name}"))
    }

    /// This very program, started again, first sees to it that the process dies with us, then becomes the other.
    fn command(self, keeper: Pid, out: File, err: File) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg(INTERNAL_EXEC).arg(std::process::id().to_string()).arg(keeper.to_string());
        command.arg(self.user.map_or_else(|| "-".to_owned(), |id| id.to_string())).arg(&self.program).args(&self.args);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WEFT_")) {
            command.env_remove(variable);
        }
        command.envs(self.environment).process_group(0);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// What it said, if it succeeded.
    ///
    /// # Errors
    /// It did not succeed; the error holds its status and what it said.
    pub fn success(self) -> anyhow::Result<String> {
        let stdout = String::from_utf8_lossy(&self.stdout).into_owned();
        if !self.status.success() {
            bail!("{}\n{stdout}\n{}", self.status, self.stderr);
        }
        Ok(stdout)
    }
}

/// A running process. Dropping it kills it and its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Host and name, as logs show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// The system could not tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().with_context(|| format!("asking for {}", self.name))?.is_none())
    }

    /// Sends a signal to it and its process group.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        // Asked first: once its end has been seen, its number may be somebody else's.
        if !self.is_running()? {
            bail!("{} has ended", self.name);
        }
        killpg(self.group()?, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// The system could not tell.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if self.is_running()? {
            match killpg(self.group()?, Signal::SIGKILL) {
                // It may end by itself just now, which is as good.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("killing {}", self.name)),
            }
            self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        }
        Ok(())
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// It has not ended in time.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        wait_for(&format!("the end of {}", self.name), within, || self.child.try_wait().transpose())?
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// Waits until its log holds a text.
    ///
    /// # Errors
    /// It does not within the time, or the process ended; the error holds the log.
    pub fn wait_for_log(&mut self, text: &str, within: Duration) -> anyhow::Result<()> {
        let what = format!("{text:?} in the log of {}", self.name);
        let seen = wait_for(&what, within, || {
            if self.log().contains(text) {
                return Some(true);
            }
            self.is_running().is_ok_and(|running| !running).then_some(false)
        });
        match seen {
            Ok(true) => Ok(()),
            Ok(false) => bail!("{what}: it ended first:\n{}", self.log()),
            Err(error) => Err(error.context(self.log())),
        }
    }

    fn group(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id()).context("a process id is out of range")?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to be told; the kernel kills it with our thread at the latest.
        drop(self.kill());
    }
}

/// A file in the world's directory that does not exist yet: a process of the same name may have been started before.
fn unused(directory: &Path, name: &str, extension: &str) -> anyhow::Result<PathBuf> {
    let names = (1..10_000).map(|number| directory.join(format!("{name}.{number}.{extension}")));
    let mut free = names.filter(|path| !path.exists());
    free.next().context("too many processes of one name")
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::options().append(true).create_new(true).open(path).with_context(|| format!("creating {}", path.display()))
}

fn split(file: File) -> anyhow::Result<(File, File)> {
    let other = file.try_clone().context("sharing a log")?;
    Ok((file, other))
}
