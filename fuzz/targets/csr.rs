//! Certificate signing requests: no panic, and nobody gets another's name. What a request asks for is looked at behind its
//! signature too, which random bytes never have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_control_plane::ca::CheckedRequest;
use weft_control_plane::fuzzing::csr_wishes;
use weft_model::SpiffeId;

const OWN: &str = "spiffe://cluster.local/ns/shop/sa/order";
const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/payment";

fuzz_target!(|der: &[u8]| {
    let [own, other] = [OWN, OTHER].map(|id| id.parse::<SpiffeId>().expect("an identity"));
    let names = |id: &str| der.windows(id.len()).any(|window| window == id.as_bytes());
    if let Ok(request) = CheckedRequest::check(der, &own) {
        assert!(der.len() <= 8 * 1024);
        assert_eq!(csr_wishes(der, &own), Some(Ok(())), "signed for, but not looked at");
        let again = CheckedRequest::check(der, &own).expect("the same request");
        assert_eq!(request.key_hash(), again.key_hash());
        let mut longer = der.to_vec();
        longer.push(0);
        assert!(CheckedRequest::check(&longer, &own).is_err(), "bytes behind the request");
    }
    // A request that suits two identities names neither.
    if csr_wishes(der, &own) == Some(Ok(())) && csr_wishes(der, &other) != Some(Ok(())) {
        assert!(names(OWN), "refused for another name that it does not have");
    }
});
