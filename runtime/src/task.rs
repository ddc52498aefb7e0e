//! [`Tasks`]: the one way to start a task. Each has a name, is counted until it ends, and a panic in it is logged and
//! counted and stays its own. Tasks are never detached: who owns the set waits for it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// A set of tasks. Clones are the same set, from any thread or runtime.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    panics: Arc<AtomicU64>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task on the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(self.guarded(name, future)).abort_handle()
    }

    /// Starts a task on another runtime.
    pub fn spawn_on<F>(&self, name: &'static str, future: F, runtime: &Handle) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn_on(self.guarded(name, future), runtime).abort_handle()
    }

    /// Starts a task that never leaves this thread.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn spawn_local<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + 'static,
    {
        self.tracker.spawn_local(self.guarded(name, future)).abort_handle()
    }

    /// How many tasks ended by a panic.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// How many tasks run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Says that the owner will wait: [`Tasks::wait`] returns once the set is empty. New tasks may still start.
    pub fn close(&self) {
        self.tracker.close();
    }

    /// Waits until the set is closed and empty.
    ///
    /// **Cancel:** loses nothing.
    pub async fn wait(&self) {
        self.tracker.wait().await;
    }

    /// Combinators, not an async block: a block would keep the future twice, once as captured and once as pinned, and
    /// connections are counted in thousands.
    fn guarded<F: Future<Output = ()>>(&self, name: &'static str, future: F) -> impl Future<Output = ()> + use<F> {
        let panics = Arc::clone(&self.panics);
        // Unwind safety: whatever the future held is dropped with it; shared state is atomics and snapshots.
        AssertUnwindSafe(future).catch_unwind().map(move |outcome| {
            if let Err(payload) = outcome {
                panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(task = name, message = message(&*payload), "task panicked");
            }
        })
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::Tasks;

    #[tokio::test]
    async fn a_panic_is_counted_and_stays_its_own() {
        let tasks = Tasks::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        tasks.spawn("falls", async { panic!("on purpose") });
        tasks.spawn("stands", async move { tell.send(()).unwrap() });
        tasks.close();
        tasks.wait().await;
        told.await.unwrap();
        assert_eq!((tasks.panics(), tasks.len()), (1, 0));
    }

    #[tokio::test]
    async fn local_tasks_are_waited_for_and_counted() {
        let tasks = Tasks::new();
        let local = LocalSet::new();
        let ran = std::rc::Rc::new(std::cell::Cell::new(false));
        let flag = std::rc::Rc::clone(&ran);
        let inner = tasks.clone();
        local
            .run_until(async move {
                inner.spawn_local("local", async move { flag.set(true) });
                inner.spawn_local("falls", async { panic!("{}", "with a formatted message") });
                inner.close();
                inner.wait().await;
            })
            .await;
        assert!(ran.get());
        assert_eq!(tasks.panics(), 1);
    }

    #[tokio::test]
    async fn an_aborted_task_leaves_the_set() {
        let tasks = Tasks::new();
        tasks.spawn("waits", std::future::pending()).abort();
        tasks.close();
        tasks.wait().await;
        assert_eq!(tasks.panics(), 0);
    }
}
