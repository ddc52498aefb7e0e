//! Databases and a message broker, each with its own client: in two of the three the server speaks first.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_cli::mesh::Mesh;
use weft_cli::mesh::workload::App;
use weft_cli::world::{Stopwatch, wait_for};
use weft_tests::stage::{COMMAND, file, hash, installed, pair, server};
use weft_tests::{Case, Scene, echo};

pub(crate) const CASES: &[Case] = &[
    Case::new("databases::postgresql_works_in_the_clear_and_in_tls_of_its_own", postgresql_works),
    Case::new("databases::mariadb_greets_at_once_and_works", mariadb_works),
    Case::new("databases::nats_greets_at_once_and_delivers", nats_works),
];

const SOON: Duration = Duration::from_secs(10);

/// Declared as bytes, and undeclared, where the proxies have to find out.
const PORTS: [u16; 2] = [6379, 7000];

/// Longest that a server's first word may take. Generous for a busy machine: the first connection also asks discovery and shakes
/// hands. Far below what a client would wait for before it spoke.
const GREETING: Duration = Duration::from_secs(3);

/// Who PostgreSQL runs as, for it refuses root: the same user under another number, which needs no second user and so exists in a
/// user namespace too. Its shared memory is its own, so that none is left when it is killed.
const NOT_ROOT: [&str; 5] = ["--user", "--map-user=1000", "--map-group=1000", "--ipc", "--"];

fn postgresql_works(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    let upload: String = (0..20_000).map(|number| format!("{number}\tweft {number:0100}\n")).collect();
    let upload = file(scene, "upload.tsv", upload.as_bytes())?;
    for (port, sslmode) in PORTS.into_iter().zip(["disable", "require"]) {
        let data = scene.world.directory().join(format!("postgresql-{port}"));
        start_postgresql(&mut mesh, &data, port)?;
        let to = server(scene, port);
        let client = mesh.workload("client")?.host();
        let psql = |commands: &[&str]| {
            let launch = client.launch("psql", installed("psql")?).args(["--no-psqlrc", "--no-align", "--tuples-only"]);
            let launch = launch.args(["--quiet", "--set", "ON_ERROR_STOP=1", "--username", "weft", "--no-password"]);
            let launch = launch.args(["--host", &to.ip().to_string(), "--port", &port.to_string()]);
            let launch = launch.env("PGSSLMODE", sslmode).arg("--dbname=postgres");
            let launch = commands.iter().fold(launch, |launch, command| launch.args(["--command", command]));
            launch.finish(COMMAND)?.success().with_context(|| format!("port {port}: {commands:?}"))
        };
        let said = psql(&[
            "create table cloth (id int primary key, name text)",
            "insert into cloth values (-1, 'warp'), (-2, 'weft')",
            "select name from cloth order by id",
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
        ])?;
        assert_eq!(said, format!("weft\nwarp\n{}\n", if sslmode == "require" { "t" } else { "f" }));
        let said = psql(&[
            &format!("\\copy cloth from '{}'", upload.display()),
            "select count(*), sum(length(name)) from cloth where id >= 0",
        ])?;
        assert_eq!(said, format!("20000|{}\n", 20_000 * 105));
        let said = psql(&["copy (select id, name from cloth where id >= 0 order by id) to stdout"])?;
        assert_eq!(hash(said.as_bytes()), hash(&std::fs::read(&upload)?), "{} bytes came", said.len());
        authenticated(&mesh, 3, 2_000_000).with_context(|| format!("port {port}"))?;
        mesh.workload_mut("server")?.app(&format!("postgresql-{port}")).context("no server")?.kill()?;
    }
    authenticated(&mesh, 6, 4_000_000)
}

fn start_postgresql(mesh: &mut Mesh<'_>, data: &Path, port: u16) -> anyhow::Result<()> {
    let host = mesh.workload("server")?.host();
    let init = host.launch("initdb", "unshare").args(NOT_ROOT).arg(installed("initdb")?).arg("--pgdata").arg(data);
    let init = init.args(["--username=weft", "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-sync"]);
    init.finish(COMMAND)?.success()?;
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    let openssl = host.launch("openssl", "openssl").args(["req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/"]);
    let openssl = openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-days", "1"]);
    openssl.arg("-keyout").arg(key).arg("-out").arg(certificate).finish(COMMAND)?.success()?;
    // The tables do not outlive the test, so nothing waits for the disk.
    let options =
        ["ssl=on", "fsync=off", "listen_addresses=*", "unix_socket_directories=", "dynamic_shared_memory_type=mmap"];
    let mut access = std::fs::OpenOptions::new().append(true).open(data.join("pg_hba.conf"))?;
    access.write_all(b"host all all all trust\n")?;
    let program = installed("postgres")?;
    let mut args: Vec<String> = NOT_ROOT.map(str::to_owned).into();
    args.extend([program.display().to_string(), "-D".to_owned(), data.display().to_string()]);
    args.extend(["-p".to_owned(), port.to_string()]);
    args.extend(options.into_iter().flat_map(|option| ["-c".to_owned(), option.to_owned()]));
    start(mesh, App::new(&format!("postgresql-{port}"), "unshare", args), "ready to accept connections")
}

fn mariadb_works(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    let data = scene.world.directory().join("mariadb");
    std::fs::create_dir(&data).context("a directory for MariaDB")?;
    let directory = data.display();
    let mut args: Vec<String> =
        ["--no-defaults", "--user=root", "--bind-address=*", "--skip-name-resolve"].map(str::to_owned).into();
    // Nobody's rights are at stake, and tables of users take seconds to be made.
    args.push("--skip-grant-tables".to_owned());
    args.extend([format!("--datadir={directory}"), format!("--socket={directory}/socket")]);
    args.push(format!("--pid-file={directory}/pid"));
    args.extend([format!("--port={}", PORTS[0]), format!("--extra-port={}", PORTS[1])]);
    start(&mut mesh, App::new("mariadb", installed("mariadbd")?, args), "ready for connections")?;

    for port in PORTS {
        for number in 0..3 {
            let mut greeting = Vec::new();
            let (mut stream, took) = greeted(&mesh, scene, port, |stream| {
                // Three bytes of length, a number, the version of the protocol, and the server's up to a NUL.
                stream.by_ref().take(5).read_to_end(&mut greeting)?;
                stream.read_until(0, &mut greeting)
            })?;
            assert_eq!(greeting.get(3..5), Some(&[0, 10][..]), "port {port}: {greeting:?}");
            ensure!(greeting.windows(7).any(|window| window == b"MariaDB"), "port {port}: {greeting:?}");
            ensure!(took < GREETING, "port {port}, number {number}: {took:?}");
            stream.get_mut().write_all(b"x")?;
        }
        let to = server(scene, port);
        let client = mesh.workload("client")?.host();
        let mariadb = |sql: &str| {
            let launch = client.launch("mariadb", "mariadb").args(["--no-defaults", "--batch", "--skip-column-names"]);
            let launch = launch.args(["--protocol=tcp", "--user=root", "--host", &to.ip().to_string()]);
            let launch = launch.args(["--port", &port.to_string(), "--execute", sql]);
            launch.finish(COMMAND)?.success().with_context(|| format!("port {port}: {sql}"))
        };
        let said = mariadb(&format!(
            "create database loom{port}; use loom{port}; create table cloth (id int primary key, name text); \
             insert into cloth values (1, 'warp'), (2, 'weft'); select name from cloth order by id desc"
        ))?;
        assert_eq!(said, "weft\nwarp\n");
        let said = mariadb(&format!("select name, repeat('w', 3000000) from loom{port}.cloth where id = 2"))?;
        let (name, wide) = said.trim_end().split_once('\t').context("no second column")?;
        assert_eq!((name, wide.len()), ("weft", 3_000_000));
        ensure!(wide.bytes().all(|byte| byte == b'w'), "port {port}: not what was asked for");
    }
    authenticated(&mesh, 10, 6_000_000)
}

fn nats_works(scene: &Scene) -> anyhow::Result<()> {
    let mut mesh = pair(scene)?;
    for port in PORTS {
        let args = ["--addr", "::", "--port", &port.to_string()].map(str::to_owned);
        start(&mut mesh, App::new(&format!("nats-{port}"), installed("nats-server")?, args), "Server is ready")?;
        let mut subscriber = connect_to_nats(&mesh, scene, port)?;
        subscriber.get_mut().write_all(b"SUB loom.* 7\r\nPING\r\n")?;
        assert_eq!(line(&mut subscriber)?, "PONG");
        let mut publisher = connect_to_nats(&mesh, scene, port)?;
        // The largest that it takes is a mebibyte.
        for length in [0, 5, 1_000_000] {
            let payload = echo::pattern(length);
            publisher.get_mut().write_all(format!("PUB loom.{length} {length}\r\n").as_bytes())?;
            publisher.get_mut().write_all(&payload)?;
            publisher.get_mut().write_all(b"\r\n")?;
            assert_eq!(line(&mut subscriber)?, format!("MSG loom.{length} 7 {length}"));
            let mut delivered = vec![0; length + 2];
            subscriber.read_exact(&mut delivered)?;
            assert_eq!(hash(&delivered), hash(&[&payload[..], b"\r\n"].concat()), "port {port}, {length} bytes");
        }
    }
    authenticated(&mesh, 4, 2_000_000)
}

/// A connection to NATS that is greeted and answered.
fn connect_to_nats(mesh: &Mesh<'_>, scene: &Scene, port: u16) -> anyhow::Result<BufReader<TcpStream>> {
    let mut info = String::new();
    let (mut stream, took) = greeted(mesh, scene, port, |stream| stream.read_line(&mut info))?;
    ensure!(info.starts_with("INFO {") && info.contains("\"server_id\""), "port {port}: {info:?}");
    ensure!(took < GREETING, "port {port}: {took:?}");
    stream.get_mut().write_all(b"CONNECT {\"verbose\":false,\"pedantic\":true}\r\nPING\r\n")?;
    assert_eq!(line(&mut stream)?, "PONG");
    Ok(stream)
}

fn line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Connects, says nothing, and has the server's first words read; returns how long they took from the beginning.
fn greeted<T>(
    mesh: &Mesh<'_>,
    scene: &Scene,
    port: u16,
    read: impl FnOnce(&mut BufReader<TcpStream>) -> std::io::Result<T>,
) -> anyhow::Result<(BufReader<TcpStream>, Duration)> {
    let watch = Stopwatch::start();
    let stream = mesh.workload("client")?.host().connect(server(scene, port), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut stream = BufReader::new(stream);
    read(&mut stream).with_context(|| format!("port {port}: no greeting"))?;
    Ok((stream, watch.elapsed()))
}

/// Starts a server beside the server's proxy and waits until it says that it serves.
fn start(mesh: &mut Mesh<'_>, app: App, ready: &str) -> anyhow::Result<()> {
    let name = app.name.clone();
    mesh.start_app("server", app)?;
    mesh.workload_mut("server")?.app(&name).context("no server")?.wait_for_log(ready, COMMAND)
}

/// Waits until both proxies have counted so many connections, each in mesh TLS, of bytes that they did not look into, and none
/// that was otherwise.
fn authenticated(mesh: &Mesh<'_>, connections: u64, bytes: u64) -> anyhow::Result<()> {
    let yes = [("mtls", "yes"), ("protocol", "tcp")];
    let mut last = String::from("not known");
    let counted = wait_for("the connections' counts", SOON, || {
        let scrapes = mesh.scrape().ok()?;
        let count = |metric: &str, labels| {
            ["client", "server"].map(|name| scrapes.get(name).map_or(0, |it| it.count(metric, labels)))
        };
        let opened = count("weft_tcp_connections_opened_total", &yes[..]);
        let all = count("weft_tcp_connections_opened_total", &[]);
        let received = count("weft_tcp_received_bytes_total", &yes[..]);
        let sent = count("weft_tcp_sent_bytes_total", &yes[..]);
        last = format!("{opened:?} of {all:?}, {received:?} and {sent:?} bytes");
        let enough = opened.iter().all(|&opened| opened >= connections) && opened == all;
        (enough && received.iter().zip(&sent).all(|(received, sent)| received + sent >= bytes)).then_some(())
    });
    counted.with_context(|| format!("last seen: {last}"))
}
