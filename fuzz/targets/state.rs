//! The state that a proxy keeps for a restart: no panic, a damaged file is not read, and what is read and written again
//! reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy::fuzzing::{read_snapshots, seal_snapshots, write_snapshots};

fuzz_target!(|bytes: &[u8]| {
    // As it came: only what was sealed is read, and there is no second form of it.
    if let Some(updates) = read_snapshots(bytes) {
        assert_eq!(read_snapshots(&write_snapshots(updates.clone())), Some(updates));
    }
    // As a payload that somebody sealed.
    let file = seal_snapshots(bytes);
    for length in [0, 1, 10, 12, 13, 44, file.len() - 1] {
        assert_eq!(read_snapshots(&file[..length.min(file.len() - 1)]), None, "{length}");
    }
    let mut changed = file.clone();
    let place = bytes.first().map_or(0, |first| usize::from(*first) * file.len() / 256);
    changed[place] ^= 1;
    assert_eq!(read_snapshots(&changed), None, "{place}");
    if let Some(updates) = read_snapshots(&file) {
        assert_eq!(read_snapshots(&write_snapshots(updates.clone())), Some(updates));
    }
});
