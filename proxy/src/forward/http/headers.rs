//! Which headers pass the proxy, and which it adds. Invariant: a `weft-*` field that arrives at an application or a
//! proxy was written by a proxy (semantics 42).

use std::fmt::{self, Write};
use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use smallvec::SmallVec;
use weft_model::{ClientAddr, SpiffeId};

/// The addresses a request came through; set by the inbound proxy, replacing what came from outside.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The identity of the peer; set by the inbound proxy.
const CLIENT_ID: HeaderName = HeaderName::from_static("weft-client-id");

/// Removes every `weft-*` field. **Cost:** compares each name's first bytes; allocates only beyond four of them.
pub(crate) fn strip_weft(headers: &mut HeaderMap) {
    let ours: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| name.as_str().starts_with("weft-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Tells the application who asks: a redirect hides the client's address (semantics 7).
pub(crate) fn introduce(headers: &mut HeaderMap, client: ClientAddr, peer: Option<&SpiffeId>) {
    headers.insert(FORWARDED_FOR, ip_value(client.ip()));
    if let Some(id) = peer.and_then(|peer| HeaderValue::from_str(peer.as_str()).ok()) {
        headers.insert(CLIENT_ID, id);
    }
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");
    // The longest IPv6 text has 39 characters.
    let mut text = bytes::BytesMut::with_capacity(40);
    // Neither happens: the buffer grows, and an address is always a valid field value.
    match write!(text, "{ip}") {
        Ok(()) => HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(UNKNOWN),
        Err(fmt::Error) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn what_a_client_claims_of_itself_is_replaced() {
        let mut map = headers(&[("weft-client-id", "spiffe://x"), ("weft-error", "a"), ("x-forwarded-for", "1.1.1.1")]);
        strip_weft(&mut map);
        introduce(&mut map, ClientAddr("[2001:db8::1]:9".parse().unwrap()), None);
        assert_eq!(map, headers(&[("x-forwarded-for", "2001:db8::1")]));
    }
}
