//! One connection's share of a load: asks, reads the answer to its end, waits for its next turn. After a failure it begins a new
//! connection, for the next request, not for the failed one.

use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Plan, Shared};

/// An answer that takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// hyper's other half of a connection, which has to be driven.
type Driver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>>>;

struct Open {
    sender: SendRequest<Empty<Bytes>>,
    /// Nothing once the connection has ended.
    driver: Option<Driver>,
}

pub(super) async fn drive(plan: &Plan, number: u32, shared: &Shared) {
    let turn = Duration::from_secs(1) * plan.connections.max(1) / plan.rate.max(1);
    let begun = Instant::now();
    let end = begun + plan.length_max;
    // Connections take turns rather than ask all at once.
    let mut next = begun + turn * number / plan.connections.max(1);
    let mut open = None;
    loop {
        sleep_until(next.min(end)).await;
        let now = Instant::now();
        if now >= end || shared.is_stopped() {
            return;
        }
        next = (next + turn).max(now);
        let answer = timeout(ANSWER_MAX, ask(plan, &mut open)).await;
        let answer = answer.unwrap_or_else(|_elapsed| Err(format!("no answer in {} s", ANSWER_MAX.as_secs())));
        if answer.is_err() {
            open = None;
        }
        shared.count(answer.map(|()| now.elapsed()));
    }
}

/// One request. A failure is told in a few words, which are what failures are counted by.
async fn ask(plan: &Plan, open: &mut Option<Open>) -> Result<(), String> {
    // What the other side closed while nothing was asked is no failure.
    if open.as_mut().is_some_and(Open::has_ended) {
        *open = None;
    }
    let connection = match open {
        Some(connection) => connection,
        None => open.insert(connect(plan).await.map_err(|error| format!("{error:#}"))?),
    };
    connection.become_ready().await?;
    let mut request = Request::get(&plan.path).header("host", plan.to.to_string());
    for (name, value) in &plan.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(|error| format!("not a request: {error}"))?;
    let Open { sender, driver } = connection;
    let response = driven(driver, sender.send_request(request)).await.map_err(|error| failure(&error))?;
    let (status, reason) = (response.status(), weft_error(&response));
    driven(driver, response.into_body().collect()).await.map_err(|error| failure(&error))?;
    if status.is_success() { Ok(()) } else { Err(format!("{}{reason}", status.as_u16())) }
}

fn weft_error(response: &Response<hyper::body::Incoming>) -> String {
    let reason = response.headers().get("weft-error").and_then(|value| value.to_str().ok());
    reason.map_or_else(String::new, |reason| format!(" {reason}"))
}

async fn connect(plan: &Plan) -> anyhow::Result<Open> {
    let stream = TcpStream::connect(plan.to).await.context("connecting")?;
    stream.set_nodelay(true).context("connecting")?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.context("connecting")?;
    Ok(Open { sender, driver: Some(Box::pin(driver)) })
}

impl Open {
    /// Whether it is known to have ended, after a look at the socket.
    fn has_ended(&mut self) -> bool {
        let ended = self.driver.as_mut().is_none_or(|driver| driver.as_mut().now_or_never().is_some());
        ended || self.sender.is_closed()
    }

    async fn become_ready(&mut self) -> Result<(), String> {
        driven(&mut self.driver, self.sender.ready()).await.map_err(|error| failure(&error))
    }
}

/// Waits for something that comes over a connection, driving the connection meanwhile.
async fn driven<T>(driver: &mut Option<Driver>, wanted: impl Future<Output = T>) -> T {
    let mut wanted = std::pin::pin!(wanted);
    if let Some(connection) = driver {
        // Neither arm loses anything: the connection goes on where it was, and what it delivered before its end is still there.
        tokio::select! {
            answer = wanted.as_mut() => return answer,
            _ended = connection.as_mut() => *driver = None,
        }
    }
    wanted.await
}

/// Hyper's message with its cause, which tells a reset from an end.
fn failure(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{error}{cause}")
}
