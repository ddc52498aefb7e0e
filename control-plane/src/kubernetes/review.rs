//! Projected service-account tokens, checked by the API server (semantics 31): it knows whether a token is one of its own, whom it
//! was made for, and whether the pod that it is bound to still exists.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use weft_model::SpiffeId;

// A token for anybody else, the API server included, proves nothing here: whoever it was sent to has it too.
use weft_model::kubernetes::TOKEN_AUDIENCE as AUDIENCE;

/// The API server's word for the pod that a token is bound to.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server whether a token proves an identity.
///
/// # Errors
/// It does not, or the API server cannot be asked.
pub(crate) async fn review(client: &Client, token: String, identity: &SpiffeId) -> Result<(), ReviewError> {
    let api: Api<TokenReview> = Api::all(client.clone());
    let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec![AUDIENCE.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let answer =
        api.create(&PostParams::default(), &review).await.map_err(|error| ReviewError::Ask(Box::new(error)))?;
    judge(answer.status.as_ref(), identity)
}

fn judge(status: Option<&TokenReviewStatus>, identity: &SpiffeId) -> Result<(), ReviewError> {
    let status = status.ok_or(ReviewError::Refused)?;
    if status.authenticated != Some(true) {
        return Err(ReviewError::Refused);
    }
    // An authenticator that knows of no audiences names none, and would take any token.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(ReviewError::Audience);
    }
    let user = status.user.as_ref().ok_or(ReviewError::Refused)?;
    let expected = format!("system:serviceaccount:{}:{}", identity.namespace(), identity.service_account());
    let name = user.username.as_deref().unwrap_or_default();
    if name != expected {
        return Err(ReviewError::Other { found: name.chars().take(256).collect(), identity: identity.clone() });
    }
    let pod = user.extra.as_ref().and_then(|extra| extra.get(POD_UID)).and_then(|values| values.first());
    if pod.is_none_or(String::is_empty) {
        return Err(ReviewError::NoPod);
    }
    Ok(())
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    /// The API server does not answer.
    #[error("the API server cannot be asked about a token")]
    Ask(#[source] Box<kube::Error>),
    /// It is not for us.
    #[error("the token is not for the audience {AUDIENCE}: mount one that is (a projected volume)")]
    Audience,
    /// It is bound to no pod.
    #[error("the token is not bound to a pod: mount a projected one")]
    NoPod,
    /// It is somebody else's.
    #[error("the token is that of {found}, not of {identity}")]
    Other {
        /// Whose.
        found: String,
        /// Who was asked for.
        identity: SpiffeId,
    },
    /// The API server does not know it.
    #[error("the API server does not accept the token: it has expired, or its pod is gone")]
    Refused,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is wrong, if anything.
    fn judged(change: impl FnOnce(&mut Value)) -> Option<String> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["identity.weft.dev"],
            "user": {
                "username": "system:serviceaccount:shop:cart",
                "extra": {"authentication.kubernetes.io/pod-uid": ["2b1f"]},
            },
        });
        change(&mut status);
        let status: Option<TokenReviewStatus> = serde_json::from_value(status).unwrap();
        let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        judge(status.as_ref(), &identity).err().map(|error| error.to_string())
    }

    #[test]
    fn only_a_pods_own_token_for_us_is_a_proof() {
        assert_eq!(judged(|_| {}), None);
        for (change, word) in [
            ((|it| *it = Value::Null) as fn(&mut Value), "does not accept"),
            (|it| it["authenticated"] = json!(false), "does not accept"),
            (|it| it["authenticated"] = Value::Null, "does not accept"),
            (|it| it["user"] = Value::Null, "does not accept"),
            (|it| it["audiences"] = json!([]), "audience"),
            (|it| it["audiences"] = Value::Null, "audience"),
            (|it| it["audiences"] = json!(["https://kubernetes.default.svc"]), "audience"),
            (|it| it["user"]["username"] = json!("system:serviceaccount:shop:other"), "not of"),
            (|it| it["user"]["username"] = json!("system:serviceaccount:other:cart"), "not of"),
            (|it| it["user"]["username"] = json!("admin"), "not of"),
            (|it| it["user"]["extra"] = Value::Null, "not bound"),
            (|it| it["user"]["extra"] = json!({"authentication.kubernetes.io/pod-uid": [""]}), "not bound"),
        ] {
            let error = judged(change).unwrap();
            assert!(error.contains(word), "{error}");
        }
    }
}
