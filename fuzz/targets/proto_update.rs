//! Discovery messages, both directions: no panic, and what was believed once reads the same when it is sent on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use weft_model::resources::Update;
use weft_proto::convert::{Request, key_of};
use weft_proto::proxy::v1 as wire;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(response) = wire::WatchResponse::decode(bytes) {
        let key = key_of(&response);
        if let Ok(update) = Update::try_from(response) {
            assert_eq!(key.expect("the key of an accepted message"), update.key);
            let sent = wire::WatchResponse::from(&update).encode_to_vec();
            let received = wire::WatchResponse::decode(sent.as_slice()).expect("our own message");
            assert_eq!(Update::try_from(received).expect("our own message"), update);
        }
    }
    if let Ok(request) = wire::WatchRequest::decode(bytes) {
        if let Ok(request) = Request::try_from(request) {
            let sent = wire::WatchRequest::from(request.clone());
            assert_eq!(Request::try_from(sent).expect("our own message"), request);
        }
    }
});
