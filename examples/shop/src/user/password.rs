//! Passwords: PBKDF2 with a salt for each.

use std::num::NonZeroU32;

use ring::digest::SHA256_OUTPUT_LEN;
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};

use super::User;

/// OWASP's advice for PBKDF2 with HMAC-SHA256.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
const SALT_BYTES: usize = 16;

/// An account with what proves its password.
pub(super) struct Account {
    pub(super) user: User,
    pub(super) salt: Vec<u8>,
    pub(super) hash: Vec<u8>,
}

/// A new salt and the hash with it; `None` where the system gives no randomness. Costs about a tenth of a second.
pub(super) fn hash(password: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut salt = vec![0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).ok()?;
    let mut hash = vec![0; SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, password.as_bytes(), &mut hash);
    Some((salt, hash))
}

/// Whose password it is. Takes as long for an account that does not exist, so that none can be found by the clock.
pub(super) fn check(account: Option<Account>, password: &str) -> Option<User> {
    let Some(Account { user, salt, hash }) = account else {
        let unknown = [0; SHA256_OUTPUT_LEN];
        let verified = pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &unknown, password.as_bytes(), &unknown);
        debug_assert!(verified.is_err(), "nobody knows what hashes to zero");
        return None;
    };
    pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, password.as_bytes(), &hash).ok()?;
    Some(user)
}
