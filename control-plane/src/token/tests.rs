//! Who gets in with a token, and who does not.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use weft_model::{SpiffeId, TrustDomain};

use super::{DEFAULT_LIFE, JoinTokens, TokenError, TokenKey, TokenSpec};

const NOW: u64 = 1_800_000_000;
const KEY_A: [u8; 32] = [1; 32];
const KEY_B: [u8; 32] = [2; 32];
const KEY_C: [u8; 32] = [3; 32];

fn id(name: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

fn spec(uses: u32) -> TokenSpec {
    TokenSpec { identity: id("order"), life: DEFAULT_LIFE, uses }
}

fn open(path: &Path) -> JoinTokens {
    JoinTokens::open(path, TrustDomain::default(), NOW).unwrap()
}

fn fresh() -> (TempDir, JoinTokens) {
    let dir = TempDir::new().unwrap();
    let tokens = open(dir.path());
    (dir, tokens)
}

#[test]
fn a_token_lets_one_key_in_and_again_the_same_key() {
    let (_dir, tokens) = fresh();
    let token = tokens.mint(&spec(1), NOW).unwrap();
    tokens.verify_and_consume(&format!(" {token}\n"), &id("order"), &KEY_A, NOW + 600).unwrap();
    tokens.verify_and_consume(&token, &id("order"), &KEY_A, NOW + 600).unwrap();
    let again = tokens.verify_and_consume(&token, &id("order"), &KEY_B, NOW);
    assert!(matches!(again, Err(TokenError::Used)));
}

#[test]
fn a_token_for_several_lets_so_many_in() {
    let (_dir, tokens) = fresh();
    let token = tokens.mint(&spec(2), NOW).unwrap();
    for (key, fits) in [(KEY_A, true), (KEY_B, true), (KEY_C, false), (KEY_A, true)] {
        assert_eq!(tokens.verify_and_consume(&token, &id("order"), &key, NOW).is_ok(), fits);
    }
}

#[test]
fn each_wrong_token_has_its_own_reason_and_uses_nothing_up() {
    let (_dir, tokens) = fresh();
    let token = tokens.mint(&spec(1), NOW).unwrap();
    let verdict = |token: &str, who: &str, now| tokens.verify_and_consume(token, &id(who), &KEY_A, now).unwrap_err();
    assert!(matches!(verdict(&token, "order", NOW + 601), TokenError::Expired));
    assert!(matches!(verdict(&token, "payment", NOW), TokenError::OtherIdentity));
    assert!(matches!(verdict(&token.replace("order", "payment"), "payment", NOW), TokenError::Foreign));
    assert!(matches!(verdict(&token.replace("~1~", "~9~"), "order", NOW), TokenError::Foreign));
    let (_other_dir, other) = fresh();
    let foreign = other.mint(&spec(1), NOW).unwrap();
    assert!(matches!(verdict(&foreign, "order", NOW), TokenError::Foreign));
    assert!(matches!(verdict("", "order", NOW), TokenError::Malformed));
    assert!(matches!(verdict("weft-join-1~x", "order", NOW), TokenError::Malformed));
    assert!(matches!(verdict(&"~".repeat(5000), "order", NOW), TokenError::Malformed));
    tokens.verify_and_consume(&token, &id("order"), &KEY_A, NOW).unwrap();
}

#[test]
fn the_trust_domain_binds_too() {
    let dir = TempDir::new().unwrap();
    let tokens = JoinTokens::open(dir.path(), "elsewhere".parse().unwrap(), NOW).unwrap();
    assert!(matches!(tokens.mint(&spec(1), NOW), Err(TokenError::OtherIdentity)));
    // By the same key, as after a change of the trust domain.
    let token = TokenKey::open(dir.path()).unwrap().mint(&spec(1), NOW).unwrap();
    let verdict = tokens.verify_and_consume(&token, &id("order"), &KEY_A, NOW);
    assert!(matches!(verdict, Err(TokenError::OtherIdentity)));
}

#[test]
fn a_token_good_for_nothing_is_not_made() {
    let (_dir, tokens) = fresh();
    assert!(matches!(tokens.mint(&spec(0), NOW), Err(TokenError::NoUse)));
    let never = TokenSpec { life: Duration::ZERO, ..spec(1) };
    assert!(matches!(tokens.mint(&never, NOW), Err(TokenError::NoUse)));
}

#[test]
fn a_restart_remembers_uses_and_forgets_the_expired() {
    let (dir, tokens) = fresh();
    let token = tokens.mint(&spec(1), NOW).unwrap();
    let short = tokens.mint(&TokenSpec { life: Duration::from_secs(1), ..spec(1) }, NOW).unwrap();
    tokens.verify_and_consume(&token, &id("order"), &KEY_A, NOW).unwrap();
    tokens.verify_and_consume(&short, &id("order"), &KEY_A, NOW).unwrap();
    let written = || fs::read_to_string(dir.path().join("join-used")).unwrap();
    assert_eq!(written().lines().count(), 2);
    let restarted = JoinTokens::open(dir.path(), TrustDomain::default(), NOW + 2).unwrap();
    assert_eq!(written().lines().count(), 1);
    let verdict = restarted.verify_and_consume(&token, &id("order"), &KEY_B, NOW + 2);
    assert!(matches!(verdict, Err(TokenError::Used)));
    assert!(!written().contains(&token));
}

#[test]
fn a_line_cut_by_a_crash_was_never_granted_and_other_changes_are_refused() {
    let (dir, tokens) = fresh();
    let (first, second) = (tokens.mint(&spec(1), NOW).unwrap(), tokens.mint(&spec(1), NOW).unwrap());
    tokens.verify_and_consume(&first, &id("order"), &KEY_A, NOW).unwrap();
    tokens.verify_and_consume(&second, &id("order"), &KEY_A, NOW).unwrap();
    let path = dir.path().join("join-used");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.split_at(text.len() - 5).0).unwrap();
    let restarted = open(dir.path());
    assert!(restarted.verify_and_consume(&first, &id("order"), &KEY_B, NOW).is_err());
    restarted.verify_and_consume(&second, &id("order"), &KEY_B, NOW).unwrap();

    fs::write(&path, "something else\n").unwrap();
    assert!(matches!(JoinTokens::open(dir.path(), TrustDomain::default(), NOW), Err(TokenError::BadMemory)));
    fs::write(dir.path().join("join.key"), "short").unwrap();
    assert!(matches!(TokenKey::open(dir.path()), Err(TokenError::BadKey)));
}

#[test]
fn of_many_at_once_exactly_as_many_as_allowed_get_in() {
    let (_dir, tokens) = fresh();
    let token = tokens.mint(&spec(3), NOW).unwrap();
    let granted = std::thread::scope(|scope| {
        let ask = |n: u8| {
            let (tokens, token) = (&tokens, &token);
            scope.spawn(move || tokens.verify_and_consume(token, &id("order"), &[n; 32], NOW).is_ok())
        };
        let asked: Vec<_> = (0..16).map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).filter(|granted| *granted).count()
    });
    assert_eq!(granted, 3);
}

proptest! {
    #[test]
    fn no_changed_token_gets_in(at in any::<prop::sample::Index>(), to in any::<char>()) {
        let (_dir, tokens) = fresh();
        let token = tokens.mint(&spec(1), NOW).unwrap();
        let at = at.index(token.len());
        prop_assume!(!token.split_at(at).1.starts_with(to) && !to.is_whitespace());
        // The case of a hexadecimal digit says nothing.
        prop_assume!(!token.split_at(at).1.starts_with(to.to_ascii_lowercase()));
        let changed: String = token.char_indices().map(|(i, c)| if i == at { to } else { c }).collect();
        prop_assert!(tokens.verify_and_consume(&changed, &id("order"), &KEY_A, NOW).is_err());
    }
}

#[test]
fn of_many_that_make_the_key_at_once_all_have_the_same() {
    for _ in 0..20 {
        let dir = TempDir::new().unwrap();
        let keys: Vec<TokenKey> = std::thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| TokenKey::open(dir.path()))).collect();
            opening.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        let token = keys.first().unwrap().mint(&spec(1), NOW).unwrap();
        assert!(keys.iter().all(|key| key.read(&token).is_ok()));
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["join.key"]);
    }
}
