//! Paths: what was judged has one reading, and reading it again changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy_core::path::normalize;

fuzz_target!(|path: &str| {
    let Ok(normal) = normalize(path) else { return };
    let text = normal.as_str();
    let again = normalize(text).expect("a normal path is a path");
    assert_eq!(again.as_str(), text);
    assert!(again.is_unchanged());
    if text == "*" {
        return;
    }
    assert!(text.starts_with('/') && text.is_ascii() && !text.contains("//"), "{text:?}");
    assert!(!text.contains(['\\', '#', '\0']), "{text:?}");
    for segment in text.split('/') {
        // Servers that decode, and those that cut parameters off, must find no dot segment either.
        let decoded = segment.replace("%2E", ".").replace("%2e", ".");
        let bare = decoded.split(';').next().unwrap_or_default();
        assert!(bare != "." && bare != "..", "{text:?}");
    }
    let upper = text.to_ascii_uppercase();
    assert!(!upper.contains("%2F") && !upper.contains("%5C") && !upper.contains("%00"), "{text:?}");
});
