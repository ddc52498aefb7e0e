//! Probes: what the injector tells reads the same when written again, and a redirect leads to something that can be asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::probes::Probes;
use weft_proxy::fuzzing::follow_redirect;

fuzz_target!(|text: &str| {
    if let Ok(probes) = Probes::parse(text) {
        let written = probes.to_json().expect("what was read is short enough");
        assert_eq!(Probes::parse(&written).as_ref(), Ok(&probes));
        for probe in probes.iter() {
            let path = probe.path();
            assert!(path.starts_with("/probe/") && !path.contains("//") && !path.contains(".."), "{path:?}");
        }
    }
    let Some((port, target)) = follow_redirect(8080, "/a/b?c", text) else { return };
    assert!(port != 0 && target.starts_with('/') && !target.contains(['#', ' ', '\r', '\n']), "{target:?}");
    let path = target.split('?').next().unwrap_or_default();
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{target:?}");
    // From there the same path is where it was.
    assert_eq!(follow_redirect(port, &target, ""), Some((port, target.clone())));
});
