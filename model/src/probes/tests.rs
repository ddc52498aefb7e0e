use super::*;

fn probe(occasion: Occasion, action: Action) -> Probe {
    let key = occasion.is_hook().then(|| "0123456789abcdef0123456789abcdef".to_owned());
    Probe { container: "cart".to_owned(), occasion, action, timeout: Duration::from_secs(3), key }
}

fn get(path: &str, headers: &[(&str, &str)]) -> Action {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Action::Http(HttpGet { port: 8443, tls: true, path: path.to_owned(), headers })
}

#[test]
fn what_is_written_is_read() {
    let probes = Probes::new(vec![
        probe(Occasion::Liveness, Action::Tcp { port: 3306 }),
        probe(Occasion::Readiness, Action::Grpc { port: 9000, service: "cart".to_owned() }),
        probe(Occasion::Startup, get("/started?full=1", &[("Host", "cart.example"), ("X-A", "1"), ("X-A", "2")])),
        probe(Occasion::PreStop, get("/bye", &[])),
    ])
    .unwrap();
    let text = probes.to_json().unwrap();
    assert_eq!(Probes::parse(&text), Ok(probes.clone()));
    let paths: Vec<String> = probes.iter().map(Probe::path).collect();
    assert_eq!(paths[0], "/probe/cart/liveness");
    assert_eq!(paths[3], "/probe/cart/preStop/0123456789abcdef0123456789abcdef");
    assert_eq!(Probes::parse(""), Ok(Probes::default()));
}

#[test]
fn what_cannot_be_performed_is_refused_by_name() {
    let tcp = |port| probe(Occasion::Readiness, Action::Tcp { port });
    let of = |action| probe(Occasion::Readiness, action);
    let many = vec![("a", "b"); PROBE_HEADERS_MAX + 1];
    for (probe, word) in [
        (tcp(0), "0 is not a port"),
        (of(Action::Grpc { port: 0, service: String::new() }), "0 is not a port"),
        (of(Action::Grpc { port: 1, service: "x".repeat(NAME_BYTES_MAX + 1) }), "253 bytes"),
        (of(get("healthz", &[])), "is not a path"),
        (of(get("/a b", &[])), "is not a path"),
        (of(get(&format!("/{}", "a".repeat(PATH_BYTES_MAX)), &[])), "is not a path"),
        (of(get("/", &[("a b", "c")])), "name of a header"),
        (of(get("/", &[("a", "b\r\nc: d")])), "no header can have"),
        (of(get("/", &many)), "33 headers"),
        (Probe { container: "../cart".to_owned(), ..tcp(1) }, "DNS label"),
        (Probe { timeout: Duration::ZERO, ..tcp(1) }, "timeout"),
        (Probe { key: None, ..probe(Occasion::PostStart, get("/", &[])) }, "a hook has a key"),
        (Probe { key: Some("short".to_owned()), ..probe(Occasion::PostStart, get("/", &[])) }, "hexadecimal"),
        (Probe { key: Some("0".repeat(32)), ..tcp(1) }, "only a hook"),
    ] {
        let error = Probes::new(vec![probe.clone()]).unwrap_err().to_string();
        assert!(error.contains(word), "{probe:?}: {error}");
    }
    let twice = Probes::new(vec![tcp(1), tcp(2)]).unwrap_err().to_string();
    assert_eq!(twice, "the readiness of container \"cart\" is there twice");
    let many: Vec<Probe> = (0..=PROBES_MAX).map(|i| Probe { container: format!("c{i}"), ..tcp(1) }).collect();
    assert_eq!(Probes::new(many), Err(ProbesError::TooMany(PROBES_MAX + 1)));
}

#[test]
fn text_of_another_shape_is_refused() {
    for text in [
        "{",
        "{}",
        "[1]",
        r#"[{"container":"a","occasion":"readiness","timeoutSeconds":1,"action":{"exec":{}}}]"#,
        r#"[{"container":"a","occasion":"sometimes","timeoutSeconds":1,"action":{"tcpSocket":{"port":1}}}]"#,
        r#"[{"container":"a","occasion":"readiness","timeoutSeconds":1,"action":{"tcpSocket":{"port":65536}}}]"#,
        r#"[{"container":"a","occasion":"readiness","timeoutSeconds":-1,"action":{"tcpSocket":{"port":1}}}]"#,
        r#"[{"container":"a","occasion":"readiness","timeoutSeconds":1,"new":1,"action":{"tcpSocket":{"port":1}}}]"#,
    ] {
        assert!(matches!(Probes::parse(text), Err(ProbesError::Json(_))), "{text}");
    }
    assert_eq!(Probes::parse(&" ".repeat(PROBES_BYTES_MAX + 1)), Err(ProbesError::TooLong(PROBES_BYTES_MAX + 1)));
}
