//! Payments, over gRPC: `shop.payment.v1.Payments` and the health check that probes use.

use std::time::Duration;

use futures::stream::select_all;
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

use crate::app::{self, Common, Context, StartError, announce};
use crate::db::{Database, DbError};
use crate::ids;
use crate::money::Cents;
use crate::pb::health::health_check_response::ServingStatus;
use crate::pb::health::health_server::{Health, HealthServer};
use crate::pb::health::{HealthCheckRequest, HealthCheckResponse};
use crate::pb::payment::payments_server::{Payments, PaymentsServer};
use crate::pb::payment::{ChargeRequest, Payment, WatchRequest};
use crate::trace::Trace;

mod store;

/// How many watchers there may be; there is one per instance of `order`.
const WATCHERS_MAX: usize = 256;
/// Payments of another instance with the same database are seen only by looking.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const STREAMS_MAX: u32 = 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `shop-payment`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "shop-payment", version, about = "Payments of the shop, over gRPC")]
pub struct Flags {
    /// What every program has.
    #[command(flatten)]
    pub common: Common,
    /// The largest charge that is accepted, in euro cents; larger ones are declined.
    #[arg(long, env = "SHOP_LIMIT_CENTS", default_value_t = 1_000_000)]
    pub limit_cents: i64,
}

/// Runs `shop-payment` until it is told to end.
///
/// # Errors
/// It could not start.
pub fn run(flags: Flags) -> Result<(), StartError> {
    let Flags { common, limit_cents } = flags;
    app::run("payment", 9000, common, move |context| serve(context, Cents(limit_cents)))
}

async fn serve(context: Context, limit: Cents) -> Result<(), StartError> {
    let Context { listeners, name, database, drain, tasks } = context;
    let db = Database::open(&database, store::MIGRATIONS).await?;
    let (newest, _) = watch::channel(store::newest(&db).await?);
    let book = Book { db, limit, newest, drain: drain.clone(), tasks: tasks.clone() };
    announce(&name, &listeners);
    let mut incoming = Vec::new();
    for listener in listeners {
        let listener = TcpListener::from_std(listener).map_err(StartError::Listen)?;
        incoming.push(TcpListenerStream::new(listener).map(|accepted| {
            let tcp = accepted?;
            // Answers are small: waiting for more to send would only add delay.
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(tcp)
        }));
    }
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(HealthServer::new(book.clone()))
        .add_service(PaymentsServer::new(book))
        .serve_with_incoming_shutdown(select_all(incoming), async move { drain.draining().await })
        .await
        .map_err(StartError::Serve)?;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// The book of payments.
#[derive(Clone)]
struct Book {
    db: Database,
    limit: Cents,
    /// The last sequence that this instance wrote.
    newest: watch::Sender<i64>,
    drain: Drain,
    tasks: Tasks,
}

#[tonic::async_trait]
impl Health for Book {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !matches!(request.get_ref().service.as_str(), "" | "shop.payment.v1.Payments") {
            return Err(Status::not_found("there is no such service here"));
        }
        let serving = !self.drain.is_draining() && self.db.check().await.is_ok();
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }
}

#[tonic::async_trait]
impl Payments for Book {
    type WatchStream = std::pin::Pin<Box<dyn Stream<Item = Result<Payment, Status>> + Send>>;

    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<Payment>, Status> {
        let trace = Trace::of(&request.metadata().clone().into_headers());
        let charge = request.into_inner();
        if !ids::is_key(&charge.idempotency_key) || !ids::is_key(&charge.order_id) {
            return Err(Status::invalid_argument("keys and orders are 1 to 64 letters, digits, - and _"));
        }
        if charge.amount_cents <= 0 {
            return Err(Status::invalid_argument("the amount is more than 0"));
        }
        let payment_id = ids::random_hex::<16>().map_err(|error| Status::internal(error.message))?;
        let payment = match store::charge(&self.db, charge, payment_id, self.limit).await.map_err(|e| status(&e))? {
            store::Charged::Before(payment) => payment,
            store::Charged::KeyReused => {
                return Err(Status::invalid_argument("the idempotency key stands for another charge"));
            }
            store::Charged::New(payment) => {
                let outcome = payment.outcome().as_str_name();
                let (id, order) = (&payment.payment_id, &payment.order_id);
                tracing::info!(id, order, outcome, trace_id = trace.id(), "charge");
                self.newest.send_if_modified(|newest| {
                    let later = payment.sequence > *newest;
                    *newest = payment.sequence.max(*newest);
                    later
                });
                payment
            }
        };
        Ok(Response::new(payment))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if self.newest.receiver_count() >= WATCHERS_MAX {
            return Err(Status::resource_exhausted("too many watch already"));
        }
        let newest = self.newest.subscribe();
        let after = match request.into_inner().after_sequence {
            Some(after) => after,
            None => store::newest(&self.db).await.map_err(|e| status(&e))?,
        };
        let (sender, receiver) = mpsc::channel(64);
        let (db, drain) = (self.db.clone(), self.drain.clone());
        self.tasks.spawn("watch", async move {
            // The drain's arm loses what the watcher asks for again, after the last sequence it saw.
            let ended = tokio::select! {
                () = drain.draining() => Status::unavailable("the server stops"),
                ended = tell(&db, after, newest, &sender) => match ended {
                    Some(status) => status,
                    None => return,
                },
            };
            // A watcher that does not read any more needs no last word.
            if sender.try_send(Err(ended)).is_err() {
                tracing::debug!("a watcher was gone before the end");
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Tells a watcher every payment after a sequence. Ends without a status when nobody listens any more.
async fn tell(
    db: &Database,
    mut after: i64,
    mut newest: watch::Receiver<i64>,
    watcher: &mpsc::Sender<Result<Payment, Status>>,
) -> Option<Status> {
    loop {
        let page = match store::after(db, after).await {
            Ok(page) => page,
            Err(error) => return Some(status(&error)),
        };
        if page.is_empty() {
            // Each arm only says "look again".
            tokio::select! {
                changed = newest.changed() => changed.ok()?,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = watcher.closed() => return None,
            }
        }
        for payment in page {
            after = payment.sequence;
            watcher.send(Ok(payment)).await.ok()?;
        }
    }
}

fn status(error: &DbError) -> Status {
    if matches!(error, DbError::Overloaded) {
        return Status::unavailable("too much to do at the moment");
    }
    tracing::error!(error = crate::client::chain(error), "database failed");
    Status::internal("the database failed")
}
