//! Any text is injected once or refused: twice is once, and what was there before is still there.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(once) = weft_cli::fuzzing::inject(text) {
        assert_eq!(weft_cli::fuzzing::inject(&once).as_ref(), Some(&once), "{text}");
    }
});
