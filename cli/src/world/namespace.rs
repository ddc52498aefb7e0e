//! One network namespace: held by a descriptor, and by a thread that starts processes in it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Pid, gettid};

/// A network namespace of this process. The kernel removes it, and all links in it, after this value and the last process in
/// it are gone.
#[derive(Debug)]
pub(super) struct Namespace {
    handle: File,
    /// Nothing after drop has begun.
    keeper: Option<Keeper>,
}

/// The thread whose children live in the namespace. They ask the kernel to be killed when it ends, so it must outlive each of them
/// that is wanted: a thread that was made just to start a process would take the process with it.
#[derive(Debug)]
struct Keeper {
    /// The kernel's number of the thread.
    id: Pid,
    orders: SyncSender<Order>,
    thread: JoinHandle<()>,
}

struct Order {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

impl Namespace {
    /// Makes an empty namespace, its loopback still down.
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let (made, handle) = sync_channel(1);
        let (orders, inbox) = sync_channel(1);
        // The kernel shows 15 bytes of a thread's name.
        let thread = thread::Builder::new().name(format!("net {name}"));
        let thread = thread.spawn(move || {
            let ours = make().map(|handle| (handle, gettid()));
            let failed = ours.is_err();
            if made.send(ours).is_ok() && !failed {
                keep(&inbox);
            }
        });
        let thread = thread.context("starting a thread")?;
        let (handle, id) = handle.recv().context("the thread of a namespace ended")??;
        Ok(Self { handle, keeper: Some(Keeper { id, orders, thread }) })
    }

    /// The descriptor that names it to the kernel.
    pub(super) fn handle(&self) -> &File {
        &self.handle
    }

    /// Runs a function on a thread inside; a panic goes on in the caller.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let inside = || {
            setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            Ok(work())
        };
        thread::scope(|scope| {
            let worker = thread::Builder::new().spawn_scoped(scope, inside).context("starting a thread")?;
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a process inside, as a child of the keeper, whose number goes into the command.
    pub(super) fn start(&self, command: impl FnOnce(Pid) -> Command) -> anyhow::Result<Child> {
        let (answer, started) = sync_channel(1);
        let keeper = self.keeper.as_ref().context("the namespace is being removed")?;
        let command = command(keeper.id);
        keeper.orders.send(Order { command, answer }).ok().context("the keeper of the namespace is gone")?;
        let child = started.recv().context("the keeper of the namespace is gone")?;
        child.context("starting a process")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(Keeper { orders, thread, .. }) = self.keeper.take() {
            drop(orders);
            // It does nothing that could panic.
            drop(thread.join());
        }
    }
}

fn make() -> anyhow::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    File::open("/proc/thread-self/ns/net").context("opening the network namespace")
}

fn keep(inbox: &Receiver<Order>) {
    while let Ok(Order { mut command, answer }) = inbox.recv() {
        if let Err(unwanted) = answer.send(command.spawn()) {
            // Whoever asked is gone; the child would be nobody's.
            drop(unwanted.0.and_then(|mut child| child.kill().and_then(|()| child.wait())));
        }
    }
}
