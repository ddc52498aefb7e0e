use super::*;

#[test]
fn a_worker_above_one_and_a_half_times_the_mean_hands_over() {
    let balance = Arc::new(Balance::new(4));
    let mut held = Vec::new();
    // The kernel sends all eight to worker 0.
    for _ in 0..8 {
        held.push(balance.enter(balance.owner(0)));
    }
    assert!(balance.counts().iter().all(|count| *count <= 3), "{:?}", balance.counts());
    drop(held);
    assert_eq!(balance.total(), 0);
}

#[test]
fn nothing_is_handed_to_who_has_as_much() {
    for workers in [1, 2, 4] {
        let balance = Arc::new(Balance::new(workers));
        for me in 0..workers {
            assert_eq!(balance.owner(me), me, "idle");
        }
    }
    let balance = Arc::new(Balance::new(1));
    let _held: Vec<_> = (0..9).map(|_| balance.enter(balance.owner(0))).collect();
    assert_eq!(balance.owner(0), 0);
}

/// A kernel that remembers this of every connection.
#[derive(Debug)]
struct Remembers(Option<SocketAddr>);

impl OriginalDstSource for Remembers {
    fn original_dst(&self, _tcp: &TcpStream) -> io::Result<OriginalDst> {
        self.0.map(OriginalDst).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[tokio::test]
async fn an_original_destination_must_be_possible() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let ports = Ports { outbound: 14001, inbound: 14002, admin: 14003 };
    let local = Arc::new(LocalAddrs::new());
    for (side, dst, want) in [
        (Side::Inbound, Some("127.0.0.1:8080"), true),
        (Side::Inbound, Some("[::1]:8080"), true),
        // The same address, as a dual-stack socket would say it.
        (Side::Inbound, Some("[::ffff:127.0.0.1]:8080"), true),
        (Side::Inbound, Some("127.0.0.1:14002"), false),
        (Side::Inbound, Some("127.0.0.1:14001"), false),
        (Side::Inbound, Some("127.0.0.1:14003"), false),
        (Side::Inbound, Some("203.0.113.9:8080"), false),
        (Side::Inbound, None, false),
        (Side::Outbound, Some("203.0.113.9:80"), true),
        // Another pod's proxy may well be on the same port.
        (Side::Outbound, Some("203.0.113.9:14002"), true),
        (Side::Outbound, Some("127.0.0.1:14001"), false),
        (Side::Outbound, Some("127.0.0.1:14002"), false),
        (Side::Outbound, None, false),
    ] {
        let source = Remembers(dst.map(|dst| dst.parse().unwrap()));
        let capture = Capture { source, ports, local: Arc::clone(&local) };
        let found = capture.original_dst(side, &tcp);
        assert_eq!(found.is_ok(), want, "{side:?} {dst:?}");
        assert!(found.is_ok() || found == Err(Reason::Loop));
    }
}

#[tokio::test]
async fn a_vanished_peer_is_watched_for_and_a_full_one_is_not_cut() {
    use nix::sys::socket::{getsockopt, sockopt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    watch_peer(&tcp);
    let seconds = |value: nix::Result<u32>| value.unwrap();
    assert!(getsockopt(&tcp, sockopt::KeepAlive).unwrap());
    let silence = seconds(getsockopt(&tcp, sockopt::TcpKeepIdle))
        + seconds(getsockopt(&tcp, sockopt::TcpKeepInterval)) * seconds(getsockopt(&tcp, sockopt::TcpKeepCount));
    assert!(silence <= 35, "{silence} s");
    // It counts the time in which a live peer merely does not read.
    assert_eq!(getsockopt(&tcp, sockopt::TcpUserTimeout).unwrap(), 0);
}
