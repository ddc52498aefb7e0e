//! The probe server: performs what the kubelet would have asked of the application had the injector not put the proxy in between
//! (semantics 41). Not part of the data path: it runs on the admin thread, and knows neither policies nor peers.
//!
//! It is asked at the pod's own address, and asks the application there and nowhere else; never on loopback, where an application
//! that listens on the pod's address alone is not. It performs what was declared and nothing more, one run of a probe at a time,
//! whose outcome is told to all who ask meanwhile: a flood does not multiply. A hook is performed for whoever knows its key, and
//! at most once at a time.

mod detour;
mod dial;
mod grpc;
mod http;
mod location;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::StatusCode;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use weft_model::probes::{Action, Probe, Probes};
use weft_runtime::admin::Reply;
use weft_runtime::task::Tasks;

pub(crate) use self::detour::{Detour, Detours};
use self::dial::Dial;

/// How old an outcome may be that is told again: half of the shortest period of a probe (1 s).
const FRESH: Duration = Duration::from_millis(500);

/// Addresses of ours that one probe is performed at. A pod has one a family; more are there only with further networks.
const ADDRESSES_MAX: usize = 8;

/// Performs the probes and hooks of one pod. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Prober(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By the path that is asked for.
    declared: HashMap<String, Declared>,
    dial: Dial,
    tasks: Tasks,
}

#[derive(Debug)]
struct Declared {
    probe: Arc<Probe>,
    /// The last run of a probe at each address of ours; the lock is held for one look.
    runs: Mutex<BTreeMap<IpAddr, Run>>,
    /// The one place of a hook.
    place: Semaphore,
}

/// One run of a probe.
#[derive(Clone, Debug)]
struct Run {
    begun: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// How the application is: why it is well, or why it is not.
type Outcome = Result<String, Unwell>;

/// What is wrong with the application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwell {
    /// It answered, and badly.
    #[error("{0}")]
    Answered(String),
    /// It did not answer.
    #[error("{0}")]
    Silent(String),
}

impl Prober {
    /// One for these. `own_ports` are the proxy's.
    ///
    /// # Errors
    /// There is no TLS to be had.
    pub(crate) fn new(probes: &Probes, own_ports: [u16; 3], mark: Option<u32>) -> Result<Self, rustls::Error> {
        let declare = |probe: &Probe| {
            let declared =
                Declared { probe: Arc::new(probe.clone()), runs: Mutex::default(), place: Semaphore::new(1) };
            (probe.path(), declared)
        };
        let declared = probes.iter().map(declare).collect();
        let dial = Dial { own_ports, mark, tls: http::tls()? };
        Ok(Self(Arc::new(Inner { declared, dial, tasks: Tasks::new() })))
    }

    /// Answers the kubelet, who asked for `path` at `own`.
    ///
    /// **Cancel:** a probe goes on for whoever else asks, a hook is given up.
    pub(crate) async fn answer(self, path: String, own: IpAddr) -> Reply {
        let Self(inner) = &self;
        let Some(declared) = inner.declared.get(&path) else {
            return Reply::Text(StatusCode::NOT_FOUND, "no such probe is declared\n".to_owned());
        };
        if own.is_loopback() {
            let text = "probes are performed for who asks at the pod's address\n";
            return Reply::Text(StatusCode::FORBIDDEN, text.to_owned());
        }
        if declared.probe.occasion.is_hook() {
            return inner.hook(declared, own).await;
        }
        match inner.probe(declared, own).await {
            Ok(text) => Reply::Text(StatusCode::OK, format!("{text}\n")),
            Err(unwell) => Reply::Text(StatusCode::SERVICE_UNAVAILABLE, format!("{unwell}\n")),
        }
    }
}

impl Inner {
    /// The outcome of a run that is under way or was begun a moment ago; else of a new one.
    async fn probe(&self, declared: &Declared, own: IpAddr) -> Outcome {
        let begun = {
            let mut runs = declared.runs.lock().unwrap_or_else(PoisonError::into_inner);
            let last = runs.get(&own).filter(|run| run.outcome.borrow().is_none() || run.begun.elapsed() < FRESH);
            match last {
                Some(run) => Some(run.clone()),
                None if runs.len() >= ADDRESSES_MAX && !runs.contains_key(&own) => None,
                None => {
                    let run = self.begin(Arc::clone(&declared.probe), own, runs.get(&own));
                    runs.insert(own, run.clone());
                    Some(run)
                }
            }
        };
        let Some(mut run) = begun else {
            let text = format!("this probe is asked for at more than {ADDRESSES_MAX} addresses");
            return Err(Unwell::Silent(text));
        };
        let outcome = run.outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(Unwell::Silent("the probe broke off".to_owned())))
    }

    /// A run on its own: who asked may go away, and others wait for it.
    fn begin(&self, probe: Arc<Probe>, own: IpAddr, last: Option<&Run>) -> Run {
        let was_well = last.and_then(|run| run.outcome.borrow().as_ref().map(Result::is_ok)).unwrap_or(true);
        let (tell, outcome) = watch::channel(None);
        let dial = self.dial.clone();
        self.tasks.spawn("probe", async move {
            let outcome = perform(&probe, own, &dial).await;
            log(&probe, was_well, &outcome);
            tell.send_replace(Some(outcome));
        });
        Run { begun: Instant::now(), outcome }
    }

    /// The kubelet looks at no status of a hook: only that there is an answer tells it that the hook was taken.
    async fn hook(&self, declared: &Declared, own: IpAddr) -> Reply {
        let Probe { container, occasion, .. } = &*declared.probe;
        let hook = occasion.as_str();
        let Ok(_place) = declared.place.try_acquire() else {
            tracing::warn!(container, hook, "a hook is asked for while it is under way");
            return Reply::Cut;
        };
        match perform(&declared.probe, own, &self.dial).await {
            Ok(text) => Reply::Text(StatusCode::OK, format!("{text}\n")),
            Err(Unwell::Answered(text)) => {
                tracing::warn!(container, hook, reason = text, "a hook was not taken well");
                Reply::Text(StatusCode::OK, format!("{text}\n"))
            }
            Err(Unwell::Silent(text)) => {
                tracing::warn!(container, hook, reason = text, "a hook did not reach the application");
                Reply::Cut
            }
        }
    }
}

/// Does what was declared, within its time.
async fn perform(probe: &Probe, own: IpAddr, dial: &Dial) -> Outcome {
    let Probe { occasion, action, timeout: after, .. } = probe;
    let performed = async {
        match action {
            Action::Grpc { port, service } => grpc::check(dial, (own, *port).into(), service).await,
            Action::Http(get) => http::get(dial, own, get, *occasion).await,
            Action::Tcp { port } => {
                dial.connect((own, *port).into()).await.map(|_tcp| format!("port {port} takes connections"))
            }
        }
    };
    let late = || Unwell::Silent(format!("no answer within {} s", after.as_secs()));
    timeout(*after, performed).await.unwrap_or_else(|_elapsed| Err(late()))
}

/// The kubelet's events tell nothing but the status, so the reason is told here: when it changes, for probes are many.
fn log(probe: &Probe, was_well: bool, outcome: &Outcome) {
    let Probe { container, occasion, .. } = probe;
    let probe = occasion.as_str();
    match outcome {
        Ok(_) if !was_well => tracing::info!(container, probe, "probe succeeds again"),
        Ok(_) => {}
        Err(unwell) if was_well => tracing::info!(container, probe, reason = %unwell, "probe fails"),
        Err(unwell) => tracing::debug!(container, probe, reason = %unwell, "probe fails still"),
    }
}

/// See [`crate::fuzzing::follow_redirect`].
pub(crate) fn follow_redirect(port: u16, target: &str, location: &str) -> Option<(u16, String)> {
    let page = location::Page { tls: false, port, target: target.to_owned() };
    match location::follow(&page, IpAddr::from([10, 0, 0, 7]), location) {
        location::Followed::Here { page, .. } => Some((page.port, page.target)),
        location::Followed::Elsewhere | location::Followed::Nowhere => None,
    }
}

#[cfg(test)]
mod tests;
