//! A way in for the fuzz target of `fuzz/`. Nothing else calls it.

use weft_injector::patch::Installation;

/// What `weft inject` makes of a text; `None` where it is refused.
pub fn inject(text: &str) -> Option<String> {
    let installation = Installation {
        image: "weft/proxy:1".to_owned(),
        control_plane: "weft-control-plane.weft-system.svc:14010".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        ..Installation::default()
    };
    crate::inject::text(text, &installation).ok().map(|injected| injected.text)
}
