//! The probe server against applications on real sockets. They listen on loopback, so what is asked is asked past
//! [`Prober::answer`], which refuses that address; the whole of it is tried in a network namespace by `tests/`.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::Response;
use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use weft_model::probes::{HttpGet, Occasion};

use super::grpc::{HealthCheckResponse, ServingStatus};
use super::*;

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OWN_PORTS: [u16; 3] = [14001, 14002, 14003];
const KEY: &str = "00112233445566778899aabbccddeeff";

fn probe(occasion: Occasion, action: Action) -> Probe {
    let key = occasion.is_hook().then(|| KEY.to_owned());
    Probe { container: "cart".to_owned(), occasion, action, timeout: Duration::from_secs(10), key }
}

fn get(port: u16, tls: bool, path: &str) -> HttpGet {
    HttpGet { port, tls, path: path.to_owned(), headers: Vec::new() }
}

fn prober(probe: Probe) -> Prober {
    Prober::new(&Probes::new(vec![probe]).unwrap(), OWN_PORTS, None).unwrap()
}

/// What comes of one probe.
async fn outcome(action: Action) -> Outcome {
    let Prober(inner) = prober(probe(Occasion::Readiness, action));
    inner.probe(&inner.declared["/probe/cart/readiness"], OWN).await
}

fn unwell(outcome: Outcome) -> String {
    outcome.unwrap_err().to_string()
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((OWN, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that nobody listens on.
async fn closed() -> u16 {
    listen().await.1
}

/// An application that answers each connection by the path that is asked for there; 404 for others. It tells the heads.
async fn serve(pages: &[(&'static str, String)]) -> (u16, mpsc::Receiver<String>, Tasks) {
    let (listener, port) = listen().await;
    let pages: HashMap<&str, String> = pages.iter().cloned().collect();
    let (tell, told) = mpsc::channel(64);
    let tasks = Tasks::new();
    tasks.spawn("app", async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let head = answer(&mut tcp, &pages).await;
            tell.send(head).await.unwrap();
        }
    });
    (port, told, tasks)
}

async fn answer(io: &mut (impl AsyncRead + AsyncWrite + Unpin), pages: &HashMap<&str, String>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let not_found = "404 Not Found\r\n".to_owned();
    let page = pages.get(path).unwrap_or(&not_found);
    io.write_all(format!("HTTP/1.1 {page}Content-Length: 2\r\n\r\nok").as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    head
}

fn ok() -> String {
    "200 OK\r\n".to_owned()
}

fn to(location: &str) -> String {
    format!("302 Found\r\nLocation: {location}\r\n")
}

#[tokio::test]
async fn a_closed_port_fails_every_kind_of_probe() {
    let port = closed().await;
    for action in [
        Action::Tcp { port },
        Action::Grpc { port, service: String::new() },
        Action::Http(get(port, true, "/")),
        Action::Http(get(port, false, "/")),
    ] {
        let text = unwell(outcome(action.clone()).await);
        assert!(text.starts_with(&format!("port {port}: ")) && text.contains("refused"), "{action:?}: {text}");
    }
    assert_eq!(unwell(outcome(Action::Tcp { port: 14003 }).await), "port 14003 is the proxy's own");
}

#[tokio::test]
async fn an_open_port_is_well() {
    let (_listener, port) = listen().await;
    assert_eq!(outcome(Action::Tcp { port }).await, Ok(format!("port {port} takes connections")));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_answer_in_time_fails() {
    // The kernel takes the connections, and nobody says anything.
    let (_listener, port) = listen().await;
    for action in [
        Action::Grpc { port, service: String::new() },
        Action::Http(get(port, true, "/")),
        Action::Http(get(port, false, "/")),
    ] {
        assert_eq!(unwell(outcome(action.clone()).await), "no answer within 10 s", "{action:?}");
    }
}

#[tokio::test]
async fn a_status_is_judged_as_by_the_kubelet() {
    let pages = [
        ("/ok", ok()),
        ("/none", "204 No Content\r\n".to_owned()),
        ("/down", "503 Service Unavailable\r\n".to_owned()),
        ("/moved", "304 Not Modified\r\n".to_owned()),
        ("/lost", "302 Found\r\n".to_owned()),
    ];
    let (port, _told, _tasks) = serve(&pages).await;
    for (path, want) in [
        ("/ok", Ok("200 OK")),
        ("/none", Ok("204 No Content")),
        ("/down", Err("503 Service Unavailable")),
        ("/other", Err("404 Not Found")),
        ("/moved", Ok("304 Not Modified")),
        ("/lost", Ok("302 Found")),
    ] {
        let seen = outcome(Action::Http(get(port, false, path))).await;
        assert_eq!(seen.map_err(|unwell| unwell.to_string()), want.map(str::to_owned).map_err(str::to_owned), "{path}");
    }
}

#[tokio::test]
async fn redirects_to_the_same_host_are_followed_and_others_are_not() {
    let (other, _other_told, _other_tasks) = serve(&[("/there", ok())]).await;
    let pages = [
        ("/a", to("b/?x=y")),
        ("/b/?x=y", to("/c")),
        ("/c", ok()),
        ("/bad", to("/down")),
        ("/port", to(&format!("http://127.0.0.1:{other}/there"))),
        ("/away", to("http://192.0.2.1/")),
        ("/round", to("/round")),
        ("/odd", to("ftp://a")),
        ("/own", to("http://127.0.0.1:14003/probe/cart/readiness")),
    ];
    let (port, _told, _tasks) = serve(&pages).await;
    for (path, want) in [
        ("/a", Ok("200 OK")),
        ("/bad", Err("404 Not Found")),
        ("/port", Ok("200 OK")),
        ("/away", Ok("302 Found, a redirect to another host, which is not followed")),
        ("/round", Err("more than 10 redirects")),
        ("/odd", Err("302 Found, a redirect to \"ftp://a\", which is no address")),
        ("/own", Err("port 14003 is the proxy's own")),
    ] {
        let seen = outcome(Action::Http(get(port, false, path))).await;
        assert_eq!(seen.map_err(|unwell| unwell.to_string()), want.map(str::to_owned).map_err(str::to_owned), "{path}");
    }
}

#[tokio::test]
async fn headers_are_the_probes_and_framing_is_ours() {
    let (port, mut told, _tasks) = serve(&[("/a?q=1", to("/b")), ("/b", ok())]).await;
    let headers = [("Host", "cart.example"), ("X-A", "1"), ("x-a", "2"), ("Content-Length", "9"), ("Accept", "")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    drop(outcome(Action::Http(HttpGet { headers, ..get(port, false, "/a?q=1") })).await);
    let head = told.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /a?q=1 http/1.1\r\n"), "{head}");
    for line in ["host: cart.example", "x-a: 1", "x-a: 2", "user-agent: kube-probe/weft-", "connection: close"] {
        assert!(head.contains(&format!("\r\n{line}")), "{line}: {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("accept"), "{head}");
    let followed = told.recv().await.unwrap();
    assert!(followed.contains("cart.example"), "a relative redirect keeps it: {followed}");
    drop(outcome(Action::Http(get(port, false, "/b"))).await);
    let plain = told.recv().await.unwrap().to_ascii_lowercase();
    assert!(plain.contains(&format!("\r\nhost: 127.0.0.1:{port}\r\n")) && plain.contains("accept: */*"), "{plain}");
}

#[tokio::test]
async fn any_certificate_is_taken() {
    for (version, alpn) in [
        (&rustls::version::TLS13, None),
        (&rustls::version::TLS12, None),
        (&rustls::version::TLS13, Some("http/1.1")),
        (&rustls::version::TLS13, Some("h2")),
    ] {
        let (listener, port) = listen().await;
        let acceptor = self_signed(version, alpn);
        let tasks = Tasks::new();
        tasks.spawn("app", async move {
            let mut tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            if alpn == Some("h2") {
                let mut connection = h2::server::handshake(tls).await.unwrap();
                let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                assert_eq!(request.uri().to_string(), format!("https://127.0.0.1:{port}/secure"));
                respond.send_response(Response::new(()), true).unwrap();
                while connection.accept().await.is_some() {}
            } else {
                drop(answer(&mut tls, &HashMap::from([("/secure", ok())])).await);
            }
        });
        let seen = outcome(Action::Http(get(port, true, "/secure"))).await;
        assert_eq!(seen, Ok("200 OK".to_owned()), "{version:?} {alpn:?}");
    }
    let (listener, port) = listen().await;
    let plain = async { listener.accept().await.unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await };
    let (seen, _) = tokio::join!(outcome(Action::Http(get(port, true, "/"))), plain);
    let text = unwell(seen);
    assert!(text.starts_with(&format!("port {port}: ")), "no TLS there: {text}");
}

/// For another name, by nobody, and long out of date.
fn self_signed(version: &'static rustls::SupportedProtocolVersion, alpn: Option<&str>) -> TlsAcceptor {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = alpn.map(|alpn| alpn.as_bytes().to_vec()).into_iter().collect();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn the_grpc_health_check_is_judged() {
    let check = async |status: Result<ServingStatus, u16>| {
        let (listener, port) = listen().await;
        let tasks = Tasks::new();
        tasks.spawn("app", async move { health(listener.accept().await.unwrap().0, status).await });
        outcome(Action::Grpc { port, service: "cart".to_owned() }).await.map_err(|unwell| unwell.to_string())
    };
    assert_eq!(check(Ok(ServingStatus::Serving)).await, Ok("SERVING".to_owned()));
    for (status, word) in [
        (Ok(ServingStatus::NotServing), "NOT_SERVING"),
        (Ok(ServingStatus::ServiceUnknown), "SERVICE_UNKNOWN"),
        (Ok(ServingStatus::Unknown), "UNKNOWN"),
        (Err(12), "no gRPC health check"),
        (Err(5), "knows no service \"cart\""),
        (Err(14), "Unavailable"),
    ] {
        let text = check(status).await.unwrap_err();
        assert!(text.contains(word), "{status:?}: {text}");
    }
    let (listener, port) = listen().await;
    let http1 = async { listener.accept().await.unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await };
    let (seen, _) = tokio::join!(outcome(Action::Grpc { port, service: String::new() }), http1);
    assert_ne!(unwell(seen), "no answer within 10 s", "HTTP/1 is no gRPC");
}

/// One answer of a health service.
async fn health(tcp: TcpStream, status: Result<ServingStatus, u16>) {
    let mut connection = h2::server::handshake(tcp).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    let head = Response::builder().header("content-type", "application/grpc");
    match status {
        Ok(status) => {
            let message = HealthCheckResponse { status: status.into() }.encode_to_vec();
            let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
            framed.extend(message);
            let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
            stream.send_data(Bytes::from(framed), false).unwrap();
            let trailers = [("grpc-status", "0")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            stream.send_trailers(trailers.into_iter().collect()).unwrap();
        }
        Err(code) => {
            respond.send_response(head.header("grpc-status", code).body(()).unwrap(), true).unwrap();
        }
    }
    while connection.accept().await.is_some() {}
}

/// An application that takes connections, counts them, and keeps them waiting.
async fn counting() -> (u16, Arc<AtomicUsize>, Tasks) {
    let (listener, port) = listen().await;
    let (taken, tasks) = (Arc::new(AtomicUsize::new(0)), Tasks::new());
    let count = Arc::clone(&taken);
    tasks.spawn("app", async move {
        let mut kept: Vec<TcpStream> = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            kept.push(tcp);
        }
    });
    (port, taken, tasks)
}

#[tokio::test]
async fn a_flood_is_one_run_and_later_another() {
    let (port, taken, _tasks) = counting().await;
    let Prober(inner) = prober(probe(Occasion::Liveness, Action::Tcp { port }));
    let declared = &inner.declared["/probe/cart/liveness"];
    let all = futures::future::join_all((0..100).map(|_| inner.probe(declared, OWN))).await;
    assert!(all.iter().all(Result::is_ok));
    inner.probe(declared, OWN).await.unwrap();
    let until = async |count| {
        while taken.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    };
    until(1).await;
    // As if it had been a while ago.
    declared.runs.lock().unwrap().get_mut(&OWN).unwrap().begun -= FRESH;
    inner.probe(declared, OWN).await.unwrap();
    until(2).await;
    assert_eq!(taken.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn who_goes_away_does_not_begin_another_run() {
    let (port, taken, _tasks) = counting().await;
    let Prober(inner) = prober(probe(Occasion::Liveness, Action::Http(get(port, false, "/"))));
    let declared = &inner.declared["/probe/cart/liveness"];
    for _ in 0..20 {
        let asked = inner.probe(declared, OWN);
        // Nobody answers: the first alone is seen by the application.
        tokio::select! {
            biased;
            _ = asked => panic!("nobody answers"),
            () = async { while taken.load(Ordering::SeqCst) == 0 { tokio::task::yield_now().await } } => {}
        }
    }
    // Connections are taken in the order in which they were made.
    let _last = TcpStream::connect((OWN, port)).await.unwrap();
    while taken.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    assert_eq!(taken.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn only_what_is_declared_is_performed_and_never_on_loopback() {
    let (_listener, port) = listen().await;
    let probes = vec![
        probe(Occasion::Readiness, Action::Tcp { port }),
        probe(Occasion::PreStop, Action::Http(get(port, false, "/bye"))),
    ];
    let prober = Prober::new(&Probes::new(probes).unwrap(), OWN_PORTS, None).unwrap();
    for path in [
        "/probe/",
        "/probe/cart",
        "/probe/cart/liveness",
        "/probe/cart/readiness/",
        "/probe//cart/readiness",
        "/probe/cart/./readiness",
        "/probe/cart/%72eadiness",
        "/probe/CART/readiness",
        "/probe/other/readiness",
        "/probe/cart/preStop",
        "/probe/cart/preStop/",
        "/probe/cart/preStop/00112233445566778899aabbccddeefe",
        "/probe/cart/readiness/00112233445566778899aabbccddeeff",
    ] {
        let reply = prober.clone().answer(path.to_owned(), "192.0.2.1".parse().unwrap()).await;
        assert!(matches!(reply, Reply::Text(StatusCode::NOT_FOUND, _)), "{path}: {reply:?}");
    }
    for path in ["/probe/cart/readiness".to_owned(), format!("/probe/cart/preStop/{KEY}")] {
        let reply = prober.clone().answer(path, OWN).await;
        assert!(matches!(reply, Reply::Text(StatusCode::FORBIDDEN, _)), "{reply:?}");
    }
}

#[tokio::test]
async fn addresses_are_counted() {
    let (_listener, port) = listen().await;
    let Prober(inner) = prober(probe(Occasion::Readiness, Action::Tcp { port }));
    let declared = &inner.declared["/probe/cart/readiness"];
    for i in 1..=ADDRESSES_MAX {
        let own = IpAddr::from([127, 0, 1, u8::try_from(i).unwrap()]);
        assert!(inner.probe(declared, own).await.is_err(), "nobody listens on {own}");
    }
    assert!(unwell(inner.probe(declared, OWN).await).contains("more than 8 addresses"));
}

#[tokio::test]
async fn a_hook_is_an_answer_or_none_and_once_at_a_time() {
    let hook = async |port, path: &str| {
        let Prober(inner) = prober(probe(Occasion::PreStop, Action::Http(get(port, false, path))));
        inner.hook(&inner.declared[&format!("/probe/cart/preStop/{KEY}")], OWN).await
    };
    let (port, mut told, _tasks) = serve(&[("/bye", ok())]).await;
    assert!(matches!(hook(port, "/bye").await, Reply::Text(StatusCode::OK, _)));
    assert!(told.recv().await.unwrap().contains("kube-lifecycle/weft-"));
    // The kubelet takes any answer for a hook that ran.
    assert!(matches!(hook(port, "/other").await, Reply::Text(StatusCode::OK, text) if text.contains("404")));
    assert_eq!(hook(closed().await, "/bye").await, Reply::Cut);

    let (port, taken, _tasks) = counting().await;
    let Prober(inner) = prober(probe(Occasion::PreStop, Action::Http(get(port, false, "/bye"))));
    let declared = &inner.declared[&format!("/probe/cart/preStop/{KEY}")];
    let second = async {
        while taken.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        inner.hook(declared, OWN).await
    };
    tokio::select! {
        _ = inner.hook(declared, OWN) => panic!("nobody answers"),
        reply = second => assert_eq!(reply, Reply::Cut),
    }
    assert_eq!(taken.load(Ordering::SeqCst), 1, "the second is not passed on");
    // Who gave up makes room.
    assert_eq!(declared.place.available_permits(), 1);
}
