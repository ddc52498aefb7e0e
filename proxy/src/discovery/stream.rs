//! The task: one Watch stream at a time, and what happens while there is none. It sleeps unless a worker asks, the
//! control plane answers, or something is due.

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;
use weft_proto::MESSAGE_BYTES_MAX;
use weft_proto::convert::{Hello, Request};
use weft_proto::proxy::v1::mesh_client::MeshClient;
use weft_proto::proxy::v1::{WatchRequest, WatchResponse};

use super::keep::Keeper;
use super::subscriptions::Books;
use super::{Ask, Inbox};
use crate::state::StateDir;

/// The pause after the first failure; it doubles up to [`BACKOFF_MAX`]. Short, because mostly one of several control
/// planes has gone away and another is there.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause: a control plane that comes back has all its proxies within this.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long opening a stream may take, TLS included.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// How often it is looked for what nobody uses.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Requests that tonic has taken and not sent yet.
const SENDING_MAX: usize = 64;
/// Requests that wait to be sent. A control plane that reads so slowly is as good as away. Twice what the largest set of
/// subscriptions needs when a stream opens.
const OUTBOX_MAX: usize = 4 * super::DESTINATIONS_MAX;

/// The task's half of discovery: [`Client::run`] is spawned once, on the control thread.
#[derive(Debug)]
pub(crate) struct Client<C> {
    books: Books,
    asks: mpsc::Receiver<Ask>,
    connect: C,
    hello: Hello,
    keeper: Keeper,
}

/// An open stream.
struct Link {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// Why there is no stream.
#[derive(Debug)]
enum Down<E> {
    /// The control plane could not be reached, or is not who it should be.
    Connect(E),
    /// It did not answer in time.
    Deadline,
    /// It ended the stream.
    Ended,
    /// It did not read what we sent.
    Stalled,
    /// It refused the stream, or the connection broke.
    Status(Box<tonic::Status>),
}

/// What the task does next.
enum Next<E> {
    /// Opens another stream.
    Reopen(Down<E>),
    /// Ends: all handles are gone.
    Stop,
}

impl<C, F, E> Client<C>
where
    C: Fn() -> F,
    F: Future<Output = Result<Channel, E>>,
    E: Error,
{
    /// The task. `connect` gives a channel to a control plane whose identity it has verified, with keep-alive, so that a
    /// vanished one is found out; `hello` is said first on each stream; `state` keeps what is in force for a restart.
    pub(crate) fn new(inbox: Inbox, connect: C, hello: Hello, state: Option<Arc<StateDir>>) -> Self {
        let Inbox { books, asks } = inbox;
        Self { books, asks, connect, hello, keeper: Keeper::new(state) }
    }

    /// Keeps a stream until all handles are dropped.
    ///
    /// **Cancel:** ends discovery; snapshots stay as they are.
    pub(crate) async fn run(mut self) {
        let (mut failures, mut pause) = (0u32, Duration::ZERO);
        loop {
            let down = match self.while_down(pause).await {
                Ok(Some(link)) => {
                    let (next, was_useful) = self.while_up(link).await;
                    if was_useful {
                        failures = 0;
                    }
                    match next {
                        Next::Reopen(down) => down,
                        Next::Stop => return,
                    }
                }
                Ok(None) => return,
                Err(down) => down,
            };
            self.books.cache.stats.stream_failures.inc();
            match &down {
                // Control planes end streams by age, to spread proxies among them.
                Down::Ended => tracing::info!("discovery stream ended, opening another"),
                down => tracing::warn!(error = %Chain(down), "no discovery, what is known goes on"),
            }
            pause = backoff(failures, roll());
            failures = failures.saturating_add(1);
        }
    }

    /// Opens a stream after a pause; meanwhile takes questions, which the stream will answer. `None`: no handle is left.
    async fn while_down(&mut self, pause: Duration) -> Result<Option<Link>, Down<E>> {
        let (connect, hello) = (&self.connect, &self.hello);
        let mut opening = pin!(async {
            sleep(pause).await;
            timeout(OPEN_DEADLINE, open(connect, hello)).await.unwrap_or(Err(Down::Deadline))
        });
        let mut sweep = sweeps();
        loop {
            tokio::select! {
                opened = &mut opening => return opened.map(Some),
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.books.ask(ask),
                    None => return Ok(None),
                },
                _ = sweep.tick() => self.books.sweep(),
                () = self.keeper.due() => self.keeper.write(&self.books),
            }
            self.books.publish_if_stale();
            self.keeper.note(&mut self.books);
        }
    }

    /// Serves a stream until it ends. Also tells whether it was of use: then the next is opened without a long pause.
    async fn while_up(&mut self, link: Link) -> (Next<E>, bool) {
        self.books.cache.stats.streams.inc();
        self.books.cache.stats.connected.set(1);
        self.books.open();
        let served = self.serve(link).await;
        self.books.cache.stats.connected.set(0);
        self.books.close();
        served
    }

    async fn serve(&mut self, link: Link) -> (Next<E>, bool) {
        let Link { requests, mut responses } = link;
        let mut was_useful = false;
        let mut sweep = sweeps();
        let down = loop {
            if self.books.outbox.len() > OUTBOX_MAX {
                break Down::Stalled;
            }
            // No arm loses anything when another wins: a permit that is not used, a message that stays in the stream.
            tokio::select! {
                permit = requests.reserve(), if !self.books.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(request) = self.books.outbox.pop_front() {
                        permit.send(request.into());
                    },
                    Err(_closed) => break Down::Ended,
                },
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        was_useful = true;
                        self.books.apply(response, &self.hello.workload);
                    }
                    Ok(None) => break Down::Ended,
                    Err(status) => break Down::Status(Box::new(status)),
                },
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.books.ask(ask),
                    None => return (Next::Stop, was_useful),
                },
                _ = sweep.tick() => self.books.sweep(),
                () = self.keeper.due() => self.keeper.write(&self.books),
            }
            self.books.publish_if_stale();
            self.keeper.note(&mut self.books);
        };
        (Next::Reopen(down), was_useful)
    }
}

impl Books {
    fn publish_if_stale(&mut self) {
        if self.is_stale {
            self.publish();
        }
    }
}

async fn open<C, F, E>(connect: &C, hello: &Hello) -> Result<Link, Down<E>>
where
    C: Fn() -> F,
    F: Future<Output = Result<Channel, E>>,
{
    let channel = connect().await.map_err(Down::Connect)?;
    let (requests, mut sending) = mpsc::channel(SENDING_MAX);
    let first = WatchRequest::from(Request::Hello(hello.clone()));
    if requests.send(first).await.is_err() {
        return Err(Down::Ended);
    }
    let sending = futures::stream::poll_fn(move |cx| sending.poll_recv(cx));
    let mut client = MeshClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let responses = client.watch(sending).await.map_err(|status| Down::Status(Box::new(status)))?;
    Ok(Link { requests, responses: responses.into_inner() })
}

fn sweeps() -> Interval {
    let mut sweep = interval_at(Instant::now() + SWEEP_EVERY, SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep
}

/// The pause before the next stream: doubling, and between half of itself and the whole, so that the proxies of a
/// control plane that went away do not come back all at once.
fn backoff(failures: u32, roll: u64) -> Duration {
    let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    let half = BACKOFF_MIN.saturating_mul(factor).min(BACKOFF_MAX) / 2;
    let permille = u32::try_from(roll % 1_001).unwrap_or_default();
    half + half * permille / 1_000
}

/// A random number: the standard library seeds each hasher anew.
fn roll() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl<E: fmt::Display> fmt::Display for Down<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "the control plane is not reached: {error}"),
            Self::Deadline => write!(f, "the control plane did not answer within {} s", OPEN_DEADLINE.as_secs()),
            Self::Ended => f.write_str("the control plane ended the stream"),
            Self::Stalled => f.write_str("the control plane does not read"),
            Self::Status(status) => write!(f, "{:?}: {}", status.code(), status.message()),
        }
    }
}

impl<E: Error> Down<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connect(error) => error.source(),
            Self::Status(status) => status.source(),
            Self::Deadline | Self::Ended | Self::Stalled => None,
        }
    }
}

/// Shows an error with all that caused it; tonic wraps some that say the same once more.
struct Chain<'a, E>(&'a Down<E>);

impl<E: Error> fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if text != said {
                write!(f, ": {text}")?;
            }
            said = text;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::backoff;

    #[test]
    fn the_pause_doubles_with_jitter_up_to_its_cap() {
        let ms = |n, roll| backoff(n, roll).as_millis();
        assert_eq!((ms(0, 0), ms(0, 1_000)), (50, 100));
        assert_eq!((ms(3, 0), ms(3, 1_000)), (400, 800));
        for failures in [7, 31, 32, u32::MAX] {
            assert!(backoff(failures, 0) >= Duration::from_secs(5), "{failures}");
            assert!(backoff(failures, u64::MAX) <= Duration::from_secs(10), "{failures}");
        }
    }
}
