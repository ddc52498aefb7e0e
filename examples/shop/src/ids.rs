//! Random names and hashes, as hexadecimal text.

use std::fmt::Write as _;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{ApiError, Code};

/// Random bytes as lower-case hexadecimal digits, two for each.
///
/// # Errors
/// The system gives no randomness.
pub(crate) fn random_hex<const BYTES: usize>() -> Result<String, ApiError> {
    let mut bytes = [0; BYTES];
    // ring's error says nothing: there is no cause to keep.
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| ApiError::new(Code::Internal, "the system gives no randomness"))?;
    Ok(hex(&bytes))
}

/// SHA-256.
pub(crate) fn sha256(text: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

/// Whether a text can be an idempotency key: 1 to 64 of letters, digits, `-` and `_`.
pub(crate) fn is_key(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::{hex, is_key, random_hex};

    #[test]
    fn keys_are_short_and_plain() {
        for (text, good) in [("a", true), ("A-b_9", true), ("", false), ("a b", false), ("a/b", false), ("ä", false)] {
            assert_eq!(is_key(text), good, "{text:?}");
        }
        assert!(is_key(&"k".repeat(64)) && !is_key(&"k".repeat(65)));
    }

    #[test]
    fn random_names_differ_and_are_keys() {
        let (one, other) = (random_hex::<16>().unwrap(), random_hex::<16>().unwrap());
        assert_ne!(one, other);
        assert!(is_key(&one) && one.len() == 32);
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
