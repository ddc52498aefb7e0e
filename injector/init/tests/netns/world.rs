//! Worlds for the tests: each is a process of its own in a new network namespace, once as real root and once as an
//! unprivileged user who is root only in a new user namespace. Inside, a "pod" (the process) has a neighbour (a thread
//! in yet another namespace) behind a veth pair. Everything goes away with the process.

use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gettid};

/// Set inside a world.
const INSIDE: &str = "WEFT_TEST_WORLD";
/// The user `nobody` of Debian.
const NOBODY: u32 = 65_534;
/// Longer than anything that succeeds takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `body` in each world. `test` is the calling test's name: it is run again there.
pub(crate) fn each(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    let place = Place::new(test);
    let program = place.copy(&std::env::current_exe().unwrap(), "test");
    place.copy(Path::new(env!("CARGO_BIN_EXE_weft-init")), "weft-init");
    if geteuid().is_root() {
        run(Command::new("unshare").args(["-n", "--"]), &program, test, "root");
        run(Command::new("unshare").args(["-Urn", "--"]).uid(NOBODY).gid(NOBODY), &program, test, "unprivileged");
    } else {
        run(Command::new("unshare").args(["-Urn", "--"]), &program, test, "unprivileged");
    }
}

/// Whether this world's user is root everywhere.
pub(crate) fn is_real_root() -> bool {
    std::env::var_os(INSIDE).is_some_and(|kind| kind == "root")
}

/// The program under test.
pub(crate) fn weft_init() -> Command {
    Command::new(std::env::current_exe().unwrap().with_file_name("weft-init"))
}

/// A run that does not happen is a failure, be it that namespaces are forbidden or that the name is wrong.
fn run(unshare: &mut Command, program: &Path, test: &str, kind: &str) {
    let world = unshare.arg(program).args(["--exact", test, "--nocapture"]).env(INSIDE, kind).current_dir("/");
    let output = world.output().expect("the program unshare of util-linux");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let ran = output.status.success() && text.contains("1 passed");
    assert!(ran, "{test}, in the {kind} world (needs namespaces: see `man unshare`): {}\n{text}", output.status);
}

/// A directory that everybody can read: the build's own may be closed to others.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-init-{}-{test}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, open).unwrap();
        Self(path)
    }

    fn copy(&self, file: &Path, name: &str) -> PathBuf {
        let to = self.0.join(name);
        std::fs::copy(file, &to).unwrap();
        to
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The pod's addresses, and the neighbour's.
pub(crate) const POD_V4: &str = "10.77.0.1";
pub(crate) const POD_V6: &str = "fd77::1";
pub(crate) const NEIGHBOUR_V4: &str = "10.77.0.2";
pub(crate) const NEIGHBOUR_V6: &str = "fd77::2";

/// One per address family: the pod's address, and the neighbour's.
pub(crate) fn families() -> [(IpAddr, IpAddr); 2] {
    let pair = |pod: &str, neighbour: &str| (pod.parse().unwrap(), neighbour.parse().unwrap());
    [pair(POD_V4, NEIGHBOUR_V4), pair(POD_V6, NEIGHBOUR_V6)]
}

type Job = Box<dyn FnOnce() + Send>;

/// The pod's neighbour, who has the pod as its router, and the other way round.
pub(crate) struct Neighbour {
    jobs: mpsc::SyncSender<Job>,
}

impl Neighbour {
    /// Makes it and wires it up.
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let (born, birth) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            born.send(gettid()).unwrap();
            for job in queue {
                job();
            }
        });
        let thread = birth.recv_timeout(PATIENCE).expect("a second network namespace");
        ip("link set lo up");
        ip("link add pod type veth peer name neighbour");
        ip(&format!("link set neighbour netns {thread}"));
        wire("pod", [POD_V4, POD_V6, "fe80::1"], [NEIGHBOUR_V4, NEIGHBOUR_V6]);
        let neighbour = Self { jobs };
        neighbour.run(|| {
            ip("link set lo up");
            wire("neighbour", [NEIGHBOUR_V4, NEIGHBOUR_V6, "fe80::2"], [POD_V4, POD_V6]);
        });
        neighbour
    }

    /// Runs a piece of the test in the neighbour's namespace.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || drop(done.send(work())));
        self.jobs.send(job).unwrap();
        result.recv_timeout(PATIENCE).expect("the neighbour's work")
    }
}

fn wire(interface: &str, addresses: [&str; 3], gateways: [&str; 2]) {
    let [v4, v6, link_local] = addresses;
    ip(&format!("link set {interface} addrgenmode none"));
    ip(&format!("addr add {v4}/24 dev {interface}"));
    ip(&format!("addr add {v6}/64 dev {interface} nodad"));
    ip(&format!("addr add {link_local}/64 dev {interface} nodad"));
    ip(&format!("link set {interface} up"));
    for gateway in gateways {
        ip(&format!("route add default via {gateway}"));
    }
}

/// Runs `ip`, which need not be on the search path.
pub(crate) fn ip(arguments: &str) {
    let mut command = system_program("ip", "iproute2");
    let output = command.args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `nft` with this input and gives what it prints.
pub(crate) fn nft(arguments: &[&str]) -> String {
    let output = system_program("nft", "nftables").args(arguments).output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn system_program(name: &str, package: &str) -> Command {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|place| Path::new(place).join(name));
    let program = found.into_iter().find(|path| path.exists());
    Command::new(program.unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}")))
}
