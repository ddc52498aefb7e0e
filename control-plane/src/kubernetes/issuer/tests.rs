//! The Secret of an issuer, and the authority's own, at an API server that is a map.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use http::{Request, Response};
use k8s_openapi::ByteString;
use kube::client::Body;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_model::TrustDomain;

use super::*;
use crate::ca::testing::{Fields, NOW, anchor, secret};
use crate::kubernetes::authority::{Mirror, MirrorError};

/// What Secrets there are, by name, or the code with which it refuses to say.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<BTreeMap<String, Result<Value, u16>>>>);

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
            let found = server.0.lock().unwrap().get(&name).cloned().unwrap_or(Err(404));
            let (status, body) = match found {
                Ok(secret) => (200, secret),
                Err(code) => {
                    (code, json!({"status": "Failure", "message": "no", "reason": reason(code), "code": code}))
                }
            };
            let body = Body::from(body.to_string().into_bytes());
            async move { Ok::<_, std::io::Error>(Response::builder().status(status).body(body).unwrap()) }
        });
        Client::new(service, "default")
    }

    fn refuses(&self, name: &str, code: u16) {
        self.0.lock().unwrap().insert(name.to_owned(), Err(code));
    }

    fn has(&self, name: &str, fields: &Fields) {
        let data: BTreeMap<_, _> =
            fields.iter().map(|(name, text)| (*name, ByteString(text.clone().into_bytes()))).collect();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data});
        self.0.lock().unwrap().insert(name.to_owned(), Ok(secret));
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        403 => "Forbidden",
        404 => "NotFound",
        _ => "InternalError",
    }
}

fn identity() -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "weft-system", "weft-control-plane").unwrap()
}

#[test]
fn what_is_wrong_is_said_with_the_secret_and_the_field() {
    let data = [("tls.crt".to_owned(), ByteString(Vec::new()))].into();
    for secret in [Secret::default(), Secret { data: Some(data), ..Secret::default() }] {
        let source = offer_of(&secret, &identity(), 0).err().unwrap();
        let error = IssuerError::Unusable { name: Arc::from("weft-issuer"), source };
        let said = "the Secret weft-issuer cannot be used: tls.crt is missing or empty: maybe it was not issued yet";
        assert_eq!(told(&error), said);
        assert!(error.is_verdict());
    }
}

#[tokio::test(start_paused = true)]
async fn the_secret_is_read_again_and_what_is_wrong_with_it_is_told() {
    let server = Server::default();
    let (clock, time) = WallClock::manual(UNIX_EPOCH + Duration::from_secs(NOW));
    let issuer = IssuerSecret::new(&server.client(), "weft-system", "weft-issuer", identity(), clock);
    let (sender, seen) = watch::channel(Seen::default());
    let (_signal, drain) = Drain::new();
    let metrics = Metrics::new();
    let following = issuer.follow(sender, Arc::clone(&metrics), drain);
    let refused = || {
        let mut text = String::new();
        metrics.write(&mut text);
        text.contains("weft_control_plane_issuer_secret_refused 1")
    };
    let check = async {
        // Between two readings.
        sleep(EVERY / 2).await;
        let problem = || seen.borrow().problem.clone().unwrap_or_default().to_string();
        assert!(problem().starts_with("there is no Secret weft-issuer") && refused(), "{}", problem());
        server.refuses("weft-issuer", 403);
        sleep(EVERY).await;
        assert!(problem().starts_with("the Secret weft-issuer cannot be read") && refused(), "{}", problem());

        let good = secret(&anchor("root"));
        server.has("weft-issuer", &good);
        sleep(EVERY).await;
        assert!(seen.borrow().offer.is_some() && problem().is_empty() && !refused());
        // While the API server is away nothing is known to be wrong.
        server.refuses("weft-issuer", 500);
        sleep(EVERY).await;
        assert!(seen.borrow().offer.is_some() && problem().is_empty() && !refused());

        let mut bad = good.clone();
        bad.insert("tls.key", secret(&anchor("other"))["tls.key"].clone());
        server.has("weft-issuer", &bad);
        sleep(EVERY).await;
        assert!(seen.borrow().offer.is_none() && refused());
        assert_eq!(problem(), "the Secret weft-issuer cannot be used: tls.key is another key than tls.crt names");
        // What was good expires without a change of the Secret.
        server.has("weft-issuer", &good);
        sleep(EVERY).await;
        assert!(!refused());
        time.advance(Duration::from_secs(91 * 86_400));
        sleep(EVERY).await;
        assert!(problem().contains("a certificate of tls.crt expired at") && refused(), "{}", problem());
    };
    tokio::select! {
        () = following => panic!("it ended"),
        () = check => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_issuer_takes_the_authority_of_a_faster_replica() {
    let server = Server::default();
    let directory = TempDir::new().unwrap();
    let mut waited = 0;
    let made = async || {
        waited += 1;
        if waited == 3 {
            server.has("weft-authority", &Fields::from([("issuer.pem", "of another replica".to_owned())]));
        }
        Ok::<_, MirrorError>(false)
    };
    Mirror::open(&server.client(), "weft-system", directory.path(), made).await.unwrap();
    assert_eq!(std::fs::read_to_string(directory.path().join("issuer.pem")).unwrap(), "of another replica");
    assert_eq!(waited, 3);
}
