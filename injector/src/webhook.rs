//! The API server's question about a pod that is being created, and the answer: a JSON patch, or why there is none.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::post;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::patch::{self, Installation, Outcome};

/// The path that the API server asks at.
pub(crate) const PATH: &str = "/inject";

/// A question holds a pod once, or twice where it is changed; the API server takes no object above 3 MiB (its request limit).
const QUESTION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What answers.
#[derive(Debug)]
pub(crate) struct Webhook {
    /// What is added.
    pub(crate) installation: Installation,
    /// What became of pods, and how long it took to say so.
    pub(crate) metrics: Arc<Metrics>,
}

impl Webhook {
    /// It as a service.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route(PATH, post(answer))
            .layer(DefaultBodyLimit::max(QUESTION_BYTES_MAX))
            .with_state(Arc::new(self))
    }

    /// Answers a question.
    pub(crate) fn review(&self, review: AdmissionReview<DynamicObject>) -> AdmissionReview<DynamicObject> {
        let request: AdmissionRequest<DynamicObject> = match review.try_into() {
            Ok(request) => request,
            Err(error) => {
                let error: kube::core::admission::ConvertAdmissionReviewError = error;
                return AdmissionResponse::invalid(error.to_string()).into_review();
            }
        };
        let allowed = AdmissionResponse::from(&request);
        self.decide(&request, allowed).into_review()
    }

    fn decide(&self, request: &AdmissionRequest<DynamicObject>, allowed: AdmissionResponse) -> AdmissionResponse {
        let pod = match request.object.as_ref().map(serde_json::to_value) {
            Some(Ok(pod)) => pod,
            Some(Err(error)) => return allowed.deny(error),
            // Nothing is created.
            None => return allowed,
        };
        let namespace = request.namespace.as_deref().unwrap_or_default();
        // A pod of a Deployment has no name yet, but one that it will begin with.
        let named = ["/metadata/name", "/metadata/generateName"].into_iter().find_map(|at| pod.pointer(at)?.as_str());
        let name = named.unwrap_or_default();
        // The API server makes up the question's uid: nobody else knows it.
        match patch::inject_salted(&pod, &self.installation, &request.uid) {
            Ok(Outcome::Injected(with)) => match allowed.with_patch(json_patch::diff(&pod, &with)) {
                Ok(patched) => {
                    self.metrics.injected.inc();
                    tracing::info!(namespace, name, "proxy added");
                    patched
                }
                Err(error) => AdmissionResponse::from(request).deny(error),
            },
            Ok(Outcome::Skipped(skip)) => {
                self.metrics.skipped(skip).inc();
                tracing::info!(namespace, name, reason = skip.message(), "pod left alone");
                allowed
            }
            Err(problems) => {
                self.metrics.refused.inc();
                let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                tracing::warn!(namespace, name, reason = text, "pod refused");
                allowed.deny(format!("weft: {text}"))
            }
        }
    }
}

/// What is no question is not counted among those that were answered: anybody may send it, and it says nothing of pods.
async fn answer(State(webhook): State<Arc<Webhook>>, question: Request) -> Response {
    let begun = Instant::now();
    let review = match Json::<AdmissionReview<DynamicObject>>::from_request(question, &()).await {
        Ok(Json(review)) => review,
        Err(rejection) => return rejection.into_response(),
    };
    let answer = Json(webhook.review(review)).into_response();
    webhook.metrics.answered(begun.elapsed());
    answer
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn webhook() -> Webhook {
        let installation = Installation {
            image: "weft:1".to_owned(),
            control_plane: "c:14010".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            ..Installation::default()
        };
        Webhook { installation, metrics: Arc::new(Metrics::new()) }
    }

    fn question(pod: &Value) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop", "name": "", "dryRun": false,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "userInfo": {"username": "admin"},
                "object": pod,
            },
        })
    }

    fn answered(pod: &Value) -> Value {
        let answer = webhook().review(serde_json::from_value(question(pod)).unwrap());
        serde_json::to_value(answer).unwrap()["response"].clone()
    }

    #[test]
    fn the_patch_of_the_answer_makes_the_pod_with_a_proxy() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}});
        let answer = answered(&pod);
        assert_eq!((&answer["allowed"], &answer["uid"]), (&json!(true), &json!("705ab4f5")));
        let bytes: Vec<u8> = serde_json::from_value(answer["patch"].clone()).unwrap_or_else(|_| {
            use k8s_openapi::ByteString;
            serde_json::from_value::<ByteString>(answer["patch"].clone()).unwrap().0
        });
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "weft-proxy");
    }

    #[test]
    fn a_pod_that_is_left_alone_is_let_in_and_one_that_makes_no_sense_is_not() {
        let pod = |annotations: Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": annotations},
                "spec": {"hostNetwork": annotations.is_null(), "containers": [{"name": "a"}]}})
        };
        let alone = answered(&pod(Value::Null));
        assert_eq!((&alone["allowed"], &alone["patch"]), (&json!(true), &Value::Null));
        let refused = answered(&pod(json!({"config.weft.dev/drain-seconds": "soon"})));
        assert_eq!(refused["allowed"], false);
        let message = refused["status"]["message"].as_str().unwrap();
        assert!(message.contains("config.weft.dev/drain-seconds"), "{message}");
    }
    #[tokio::test]
    async fn every_answer_is_counted_with_its_outcome_and_how_long_it_took() {
        let webhook = Arc::new(webhook());
        let pod = |labels: Value, annotations: Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a"}]},
                "metadata": {"name": "a", "labels": labels, "annotations": annotations}})
        };
        let injected = question(&pod(json!({}), json!({})));
        let skipped = question(&pod(json!({"weft.dev/inject": "disabled"}), json!({})));
        let refused = question(&pod(json!({}), json!({"config.weft.dev/sidecar": "none"})));
        for (body, status) in [(injected, 200), (skipped, 200), (refused, 200), (json!("hello"), 422)] {
            let question = Request::post(PATH).header("content-type", "application/json").body(body.to_string().into());
            let answer = answer(State(Arc::clone(&webhook)), question.unwrap()).await;
            assert_eq!(answer.status(), status, "{body}");
        }
        let mut page = String::new();
        webhook.metrics.write(&mut page);
        for line in [
            "weft_injector_injected_pods_total 1",
            "weft_injector_skipped_pods_total{reason=\"disabled\"} 1",
            "weft_injector_skipped_pods_total{reason=\"host-network\"} 0",
            "weft_injector_refused_pods_total 1",
            "weft_injector_admission_duration_seconds_count 3",
            "weft_injector_admission_duration_seconds_bucket{le=\"5.0\"} 3",
        ] {
            assert!(page.lines().any(|it| it == line), "{line}\n{page}");
        }
        assert!(page.contains("weft_injector_admission_duration_seconds_bucket{le=\"0.01\"}"), "{page}");
    }
}
