//! SPIFFE ids: whatever is accepted has exactly the one shape, and its parts make it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    let shape = format!("spiffe://{}/ns/{}/sa/{}", id.trust_domain(), id.namespace(), id.service_account());
    assert_eq!(shape, text);
    assert!(text.len() <= 2048);
    assert!(!text.bytes().any(|byte| byte.is_ascii_uppercase() || b"%?#@ \\".contains(&byte)), "{text:?}");
    assert_eq!(text.matches(':').count(), 1, "{text:?}");
    assert!(!text.split('/').skip(3).any(|segment| segment == "." || segment == ".."), "{text:?}");
    let domain: TrustDomain = id.trust_domain().parse().expect("its own trust domain");
    assert_eq!(SpiffeId::new(&domain, id.namespace(), id.service_account()).expect("its own parts"), id);
});
