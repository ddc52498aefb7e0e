//! Join tokens: no panic, nothing is read that was not signed, and what was signed has one reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_control_plane::fuzzing::{join_token, read_join_token};

fuzz_target!(|text: &str| {
    // As it came: only a token that we would have made of the same claims is read.
    if read_join_token(text).is_some() {
        let claims = text.trim().rsplit_once('~').map(|(claims, _)| claims).expect("claims and a MAC");
        assert_eq!(join_token(claims).to_ascii_lowercase(), text.trim().to_ascii_lowercase());
    }
    // As claims that somebody signed.
    let token = join_token(text);
    let Some((id, expiry, uses, identity)) = read_join_token(&token) else { return };
    let parts: Vec<&str> = text.split('~').collect();
    let [prefix, ours, until, times, whose] = parts[..] else { panic!("{text:?}") };
    assert_eq!((prefix, ours, whose), ("weft-join-1", id.as_str(), identity.as_str()));
    assert_eq!((until.parse(), times.parse()), (Ok(expiry), Ok(uses)));
    // Another life, another number of uses, another identity: none of them was signed.
    let mac = token.rsplit_once('~').map(|(_, mac)| mac).expect("a MAC");
    for forged in [
        format!("{prefix}~{id}~{}~{uses}~{identity}~{mac}", expiry.wrapping_add(1)),
        format!("{prefix}~{id}~{expiry}~{}~{identity}~{mac}", uses.wrapping_add(1)),
        format!("{prefix}~{id}~{expiry}~{uses}~{identity}x~{mac}"),
        format!("{prefix}~{id}x~{expiry}~{uses}~{identity}~{mac}"),
        token[..token.len() - 2].to_owned(),
    ] {
        assert_eq!(read_join_token(&forged), None, "{forged}");
    }
});
