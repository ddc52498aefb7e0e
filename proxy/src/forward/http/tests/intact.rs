//! Bytes are intact: random bodies in random pieces, with trailers, pauses and cuts, through two proxies in sequence.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::world::{Server, chain, h2_send, h2_server, local, read_head, read_until};

/// What one side sends.
#[derive(Clone, Debug)]
struct Message {
    pieces: Vec<Bytes>,
    /// In which pauses the pieces come: after each so many.
    pause_every: usize,
    trailer: Option<u32>,
    /// Cut after so many pieces.
    cut_at: Option<usize>,
    /// For HTTP/1: by length, not chunked.
    by_length: bool,
}

/// What one side got: how much of what, and whether it looked complete.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    len: usize,
    hash: u64,
    trailer: Option<u32>,
    complete: bool,
}

impl Message {
    fn random(dice: &mut fastrand::Rng, may_cut: bool) -> Self {
        let count = dice.usize(0..12);
        let largest = [1, 100, 5_000, 70_000][dice.usize(0..4)];
        let mut piece = |_| {
            let len = dice.usize(1..=largest);
            std::iter::repeat_with(|| dice.u8(..)).take(len).collect()
        };
        let pieces: Vec<Bytes> = (0..count).map(&mut piece).collect();
        let cut_at = (may_cut && count > 0 && dice.u8(0..4) == 0).then(|| dice.usize(0..count));
        let by_length = dice.bool();
        let trailer = (!by_length && dice.bool()).then(|| dice.u32(..));
        Self { pieces, pause_every: dice.usize(1..8), trailer, cut_at, by_length }
    }

    fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn wanted(&self) -> Got {
        let body = self.pieces.concat();
        Got { len: body.len(), hash: hash(&body), trailer: self.trailer, complete: true }
    }

    async fn pause(&self, n: usize) {
        if n.is_multiple_of(self.pause_every) {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// What came for what was sent.
fn check(seed: u64, side: &str, sent: &Message, got: &Got) {
    match sent.cut_at {
        None => assert_eq!(*got, sent.wanted(), "seed {seed}, {side}"),
        Some(_) => assert!(!got.complete, "seed {seed}, {side}: a cut looked like an end"),
    }
}

/// Reads a body as HTTP/1 frames it.
async fn read_http1(io: &mut TcpStream, head: &str) -> Got {
    let head = head.to_lowercase();
    let mut body = Vec::new();
    let (complete, trailer) = match head.split_once("content-length: ") {
        Some((_, rest)) => {
            let len: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
            body = vec![0; len];
            (io.read_exact(&mut body).await.is_ok(), None)
        }
        None if head.contains("transfer-encoding: chunked") => match read_chunks(io, &mut body).await {
            Some(trailer) => (true, trailer),
            None => (false, None),
        },
        None => (true, None),
    };
    Got { len: body.len(), hash: hash(&body), trailer, complete }
}

/// `None`: it broke off.
async fn read_chunks(io: &mut TcpStream, body: &mut Vec<u8>) -> Option<Option<u32>> {
    loop {
        let line = read_line(io).await?;
        let size = usize::from_str_radix(&line, 16).unwrap();
        if size == 0 {
            break;
        }
        let from = body.len();
        body.resize(from + size, 0);
        io.read_exact(&mut body[from..]).await.ok()?;
        assert_eq!(read_line(io).await?, "");
    }
    let mut trailer = None;
    loop {
        let line = read_line(io).await?;
        match line.split_once(": ") {
            Some((_, value)) => trailer = Some(value.parse().unwrap()),
            None => return Some(trailer),
        }
    }
}

async fn read_line(io: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(io.read_u8().await.ok()?);
    }
    line.truncate(line.len() - 2);
    Some(String::from_utf8(line).unwrap())
}

/// Writes a body; `false`: it was cut, or nobody takes it.
async fn write_http1(io: &mut TcpStream, message: &Message) -> bool {
    for (n, piece) in message.pieces.iter().enumerate() {
        if message.cut_at == Some(n) {
            return false;
        }
        message.pause(n).await;
        let framed = if message.by_length {
            piece.to_vec()
        } else {
            [format!("{:X}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
        };
        if io.write_all(&framed).await.is_err() {
            return false;
        }
    }
    let trailer = message.trailer.map(|value| format!("X-T: {value}\r\n")).unwrap_or_default();
    message.by_length || io.write_all(format!("0\r\n{trailer}\r\n").as_bytes()).await.is_ok()
}

fn framing(message: &Message) -> String {
    match message.by_length {
        true => format!("Content-Length: {}\r\n\r\n", message.len()),
        false => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
    }
}

type Plan = Rc<RefCell<HashMap<u64, (Message, Option<Got>)>>>;

/// Looks up what to answer to the request of that number, and later notes what came with it.
fn number(text: &str) -> u64 {
    text.trim_start_matches(|c: char| !c.is_ascii_digit())
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn in_http1() {
    local(async {
        let plan = Plan::default();
        let told = Rc::clone(&plan);
        let server = Server::start(move |mut io, _| {
            let plan = Rc::clone(&told);
            async move {
                while let Some(head) = read_head(&mut io).await {
                    let seed = number(&head);
                    let got = read_http1(&mut io, &head).await;
                    let is_complete = got.complete;
                    let answer = {
                        let mut plan = plan.borrow_mut();
                        let entry = plan.get_mut(&seed).unwrap();
                        assert!(entry.1.replace(got).is_none(), "seed {seed}: executed twice");
                        entry.0.clone()
                    };
                    let head = format!("HTTP/1.1 200 OK\r\n{}", framing(&answer));
                    if !is_complete
                        || io.write_all(head.as_bytes()).await.is_err()
                        || !write_http1(&mut io, &answer).await
                    {
                        return;
                    }
                }
            }
        })
        .await;
        let (near, far, target) = chain(server.addr).await;
        let mut client = near.http1(near.outbound(target.clone())).await;
        for seed in 0..150 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let (sent, answer) = (Message::random(&mut dice, true), Message::random(&mut dice, true));
            plan.borrow_mut().insert(seed, (answer.clone(), None));
            let head = format!("PATCH /{seed} HTTP/1.1\r\nHost: h\r\n{}", framing(&sent));
            client.write_all(head.as_bytes()).await.unwrap();
            if !write_http1(&mut client, &sent).await {
                drop(client);
                client = near.http1(near.outbound(target.clone())).await;
                far.until_settled().await;
                if let (_, Some(got)) = &plan.borrow()[&seed] {
                    check(seed, "up", &sent, got);
                }
                continue;
            }
            let head = read_until(&mut client, "\r\n\r\n").await.unwrap();
            let mut got = read_http1(&mut client, &head).await;
            if head.starts_with("HTTP/1.1 502 ") {
                // Cut so early that its head never left.
                got.complete = false;
            }
            check(seed, "down", &answer, &got);
            check(seed, "up", &sent, plan.borrow()[&seed].1.as_ref().unwrap());
            if !got.complete {
                client = near.http1(near.outbound(target.clone())).await;
            }
        }
        assert!(server.connections() < 120, "connections are used again");
    })
    .await;
}

async fn write_http2(stream: &mut h2::SendStream<Bytes>, message: &Message) -> bool {
    for (n, piece) in message.pieces.iter().enumerate() {
        if message.cut_at == Some(n) {
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
            return false;
        }
        message.pause(n).await;
        let is_last = n + 1 == message.pieces.len() && message.trailer.is_none();
        if h2_send(stream, piece.clone(), is_last).await.is_err() {
            return false;
        }
    }
    match message.trailer {
        Some(value) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-t", HeaderValue::from(value));
            stream.send_trailers(trailers).is_ok()
        }
        None if message.pieces.is_empty() => stream.send_data(Bytes::new(), true).is_ok(),
        None => true,
    }
}

/// Reads at a pace of its own.
async fn read_http2(mut stream: h2::RecvStream) -> Got {
    let (mut body, mut complete) = (Vec::new(), true);
    while let Some(data) = stream.data().await {
        let Ok(data) = data else {
            complete = false;
            break;
        };
        body.extend_from_slice(&data);
        drop(stream.flow_control().release_capacity(data.len()));
    }
    let trailers = if complete { stream.trailers().await } else { Ok(None) };
    complete &= trailers.is_ok();
    let trailer = trailers.ok().flatten().map(|trailers| trailers["x-t"].to_str().unwrap().parse().unwrap());
    Got { len: body.len(), hash: hash(&body), trailer, complete }
}

/// Whether neither what a seed sends nor its answer is cut.
fn is_whole(seed: u64) -> bool {
    let mut dice = fastrand::Rng::with_seed(seed);
    (0..2).all(|_| Message::random(&mut dice, true).cut_at.is_none())
}

#[tokio::test]
async fn in_http2_with_many_streams_at_once() {
    local(async {
        let plan = Plan::default();
        let told = Rc::clone(&plan);
        let server = h2_server(move |request, mut respond| {
            let plan = Rc::clone(&told);
            async move {
                let seed = number(request.uri().path());
                let answer = plan.borrow()[&seed].0.clone();
                // Every other answer begins before the request is read.
                let early = seed.is_multiple_of(2);
                let mut stream = if early { respond.send_response(Response::new(()), false).ok() } else { None };
                let reading = async {
                    let got = read_http2(request.into_body()).await;
                    assert!(plan.borrow_mut().get_mut(&seed).unwrap().1.replace(got).is_none(), "executed twice");
                };
                match &mut stream {
                    Some(stream) => drop(tokio::join!(reading, write_http2(stream, &answer))),
                    None => {
                        reading.await;
                        if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                            write_http2(&mut stream, &answer).await;
                        }
                    }
                }
            }
        })
        .await;
        let (near, far, target) = chain(server.addr).await;
        let client = near.http2(near.outbound(target)).await;
        let one = async |seed: u64| {
            let mut dice = fastrand::Rng::with_seed(seed);
            let (sent, answer) = (Message::random(&mut dice, true), Message::random(&mut dice, true));
            plan.borrow_mut().insert(seed, (answer.clone(), None));
            let mut client = client.clone().ready().await.unwrap();
            let request = http::Request::builder().method("PATCH").uri(format!("http://h/{seed}")).body(()).unwrap();
            let (response, mut stream) = client.send_request(request, false).unwrap();
            let reading = async {
                match response.await {
                    Ok(response) => {
                        let refused = response.status() == 502;
                        let got = read_http2(response.into_body()).await;
                        // Cut so early that its head never left.
                        Some(if refused { Got { complete: false, ..got } } else { got })
                    }
                    Err(_) => None,
                }
            };
            let (whole, got) = tokio::join!(write_http2(&mut stream, &sent), reading);
            match got {
                Some(got) if whole => check(seed, "down", &answer, &got),
                // Cut so early that its head was taken back.
                None if whole => assert!(answer.cut_at.is_some(), "seed {seed}: no answer"),
                Some(_) | None => {}
            }
            (seed, sent, answer, whole)
        };
        // Whoever gives up while it dials takes its dial with it, and another dials again: the first one goes to its end.
        one((1000..).find(|seed| is_whole(*seed)).unwrap()).await;
        for round in 0..10 {
            let asked: Vec<_> = (0..30).map(|n| one(round * 30 + n)).collect();
            let done = futures::future::join_all(asked).await;
            far.until_settled().await;
            for (seed, sent, answer, whole) in done {
                match &plan.borrow()[&seed].1 {
                    // An answer that was cut takes the rest of the request with it.
                    Some(got) if answer.cut_at.is_some() && !got.complete => {}
                    Some(got) => check(seed, "up", &sent, got),
                    None => assert!(!whole, "seed {seed} never came"),
                }
            }
        }
        assert_eq!(server.connections(), 1);
    })
    .await;
}
