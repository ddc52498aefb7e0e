//! Join tokens: a text that the operator gives to a machine, good for the first certificate of one identity. Not a
//! session and not a secret of ours that stays: it is bound to its identity, short-lived, and used up.
//!
//! A token is `weft-join-1~<id>~<expiry>~<uses>~<identity>~<mac>`: whoever holds one can read whom it is for; the last
//! part is an HMAC-SHA-256 (RFC 2104) over all before it, by a key that signs nothing else.
//!
//! Invariant: a use is on disk, synced, before it is reported as granted. The same key asking again with the same token
//! is the same use, so an answer that got lost does not lock a machine out.

#![warn(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use weft_model::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::ca::CaError;
use crate::ca::files::{Directory, Secrecy};

const PREFIX: &str = "weft-join-1";
const KEY: &str = "join.key";
const USED: &str = "join-used";

/// As many as the hash has (RFC 2104 section 3).
const KEY_BYTES: usize = 32;

/// A SPIFFE id has at most 2,048 bytes and the rest some 150.
const TOKEN_BYTES_MAX: usize = 4096;

/// Uses that are remembered at once; more tokens than that in ten minutes are not minted by hand.
const USES_MAX: usize = 100_000;

/// How long a token is good unless told otherwise.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(600);

/// What a token is to be good for.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// Whom it lets in.
    pub identity: SpiffeId,
    /// For how long; [`DEFAULT_LIFE`] unless told otherwise.
    pub life: Duration,
    /// How many machines may use it.
    pub uses: u32,
}

/// The key that tokens are signed with.
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// Reads the key from a directory, or makes one.
    ///
    /// # Errors
    /// A directory that cannot be read or written; a key of another length.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        Self::open_in(&Directory::open(path)?)
    }

    fn open_in(directory: &Directory) -> Result<Self, TokenError> {
        let bytes = match directory.read(KEY)?.map(Zeroizing::new) {
            Some(bytes) => bytes,
            None => Self::make_in(directory)?,
        };
        if bytes.len() != KEY_BYTES {
            return Err(TokenError::BadKey);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Control plane and `weft token create` may both come first, at the same time: the key that lies there counts, for tokens
    /// signed with another would let nobody in.
    fn make_in(directory: &Directory) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        SystemRandom::new().fill(&mut bytes).map_err(|_unspecified| TokenError::Random)?;
        if directory.create(KEY, &bytes, Secrecy::Private)? {
            return Ok(bytes);
        }
        directory.read(KEY)?.map(Zeroizing::new).ok_or(TokenError::BadKey)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// No uses or no time; a system without random numbers.
    pub fn mint(&self, spec: &TokenSpec, now_unix_s: u64) -> Result<String, TokenError> {
        if spec.uses == 0 || spec.life.as_secs() == 0 {
            return Err(TokenError::NoUse);
        }
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(|_unspecified| TokenError::Random)?;
        let expiry = now_unix_s.saturating_add(spec.life.as_secs());
        Ok(self.sign(&format!("{PREFIX}~{}~{expiry}~{}~{}", hex(&id), spec.uses, spec.identity)))
    }

    /// A key that is the same everywhere, for fuzzing.
    pub(crate) fn known() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]))
    }

    /// Makes a token of claims as they are.
    pub(crate) fn sign(&self, claims: &str) -> String {
        format!("{claims}~{}", hex(hmac::sign(&self.0, claims.as_bytes()).as_ref()))
    }

    /// Reads a token that we made.
    pub(crate) fn read(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        // Files end with a newline, and people copy spaces.
        let (claims, mac) = token.trim().rsplit_once('~').ok_or(TokenError::Malformed)?;
        let mac = from_hex(mac).ok_or(TokenError::Malformed)?;
        hmac::verify(&self.0, claims.as_bytes(), &mac).map_err(|_unspecified| TokenError::Foreign)?;
        Claims::parse(claims).ok_or(TokenError::Malformed)
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) id: String,
    pub(crate) expiry_unix_s: u64,
    pub(crate) uses: u32,
    pub(crate) identity: SpiffeId,
}

impl Claims {
    fn parse(claims: &str) -> Option<Self> {
        let mut parts = claims.split('~');
        let mut part = || parts.next();
        if part()? != PREFIX {
            return None;
        }
        let id = part()?.to_owned();
        let (expiry_unix_s, uses) = (part()?.parse().ok()?, part()?.parse().ok()?);
        let identity = part()?.parse().ok()?;
        parts.next().is_none().then_some(Self { id, expiry_unix_s, uses, identity })
    }
}

/// Accepts tokens and remembers their uses. One per directory and process.
pub struct JoinTokens {
    key: TokenKey,
    trust_domain: TrustDomain,
    directory: Directory,
    /// Held while a use is written, so that two requests with one token cannot both be the first.
    used: Mutex<Used>,
}

struct Used {
    file: File,
    /// By token id: until when it matters, and the hashes of the keys that used it.
    tokens: HashMap<String, Uses>,
    /// Lines in the file, the expired ones too.
    lines: usize,
}

struct Uses {
    expiry_unix_s: u64,
    keys: Vec<String>,
}

impl JoinTokens {
    /// Opens the key and the memory of uses.
    ///
    /// # Errors
    /// A directory that cannot be read or written, or a memory that is not ours: better nobody joins than that a token
    /// works twice.
    pub fn open(path: &Path, trust_domain: TrustDomain, now_unix_s: u64) -> Result<Self, TokenError> {
        let directory = Directory::open(path)?;
        let key = TokenKey::open_in(&directory)?;
        let used = Used::read(&directory, now_unix_s)?;
        Ok(Self { key, trust_domain, directory, used: Mutex::new(used) })
    }

    /// Makes a token; see [`TokenKey::mint`].
    ///
    /// # Errors
    /// Those of [`TokenKey::mint`]; an identity of another trust domain.
    pub fn mint(&self, spec: &TokenSpec, now_unix_s: u64) -> Result<String, TokenError> {
        if spec.identity.trust_domain() != self.trust_domain.as_str() {
            return Err(TokenError::OtherIdentity);
        }
        self.key.mint(spec, now_unix_s)
    }

    /// Checks that `token` lets `identity` in now, and uses it up for the key with this hash. When it returns `Ok`, the use
    /// is on disk. Blocks for a sync.
    ///
    /// # Errors
    /// Each reason for which it does not; nothing is used up then.
    pub fn verify_and_consume(
        &self,
        token: &str,
        identity: &SpiffeId,
        key_hash: &[u8; 32],
        now_unix_s: u64,
    ) -> Result<(), TokenError> {
        let claims = self.key.read(token)?;
        if claims.identity != *identity || claims.identity.trust_domain() != self.trust_domain.as_str() {
            return Err(TokenError::OtherIdentity);
        }
        if now_unix_s > claims.expiry_unix_s {
            return Err(TokenError::Expired);
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.consume(&claims, &hex(key_hash), &self.directory, now_unix_s)
    }
}

impl Used {
    fn read(directory: &Directory, now_unix_s: u64) -> Result<Self, TokenError> {
        let text = directory.read(USED)?.unwrap_or_default();
        let text = String::from_utf8(text).map_err(|_not_utf8| TokenError::BadMemory)?;
        let mut tokens: HashMap<String, Uses> = HashMap::new();
        // What follows the last newline was cut by a crash before it was synced, so it was never granted.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _cut)| whole);
        for line in whole.lines() {
            let mut parts = line.split(' ');
            let (Some(id), Some(expiry), Some(key), None) = (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(TokenError::BadMemory);
            };
            let expiry_unix_s = expiry.parse().map_err(|_not_a_number| TokenError::BadMemory)?;
            let uses = tokens.entry(id.to_owned()).or_insert(Uses { expiry_unix_s, keys: Vec::new() });
            uses.keys.push(key.to_owned());
        }
        Self::rewritten(directory, tokens, now_unix_s)
    }

    /// Forgets what has expired, in memory and on disk.
    fn rewritten(
        directory: &Directory,
        mut tokens: HashMap<String, Uses>,
        now_unix_s: u64,
    ) -> Result<Self, TokenError> {
        tokens.retain(|_, uses| uses.expiry_unix_s >= now_unix_s);
        #[expect(clippy::iter_over_hash_type, reason = "the order of lines in the file means nothing")]
        let lines: Vec<String> = {
            let mut lines = Vec::new();
            for (id, uses) in &tokens {
                lines.extend(uses.keys.iter().map(|key| line(id, uses.expiry_unix_s, key)));
            }
            lines
        };
        directory.write(USED, lines.concat().as_bytes(), Secrecy::Private)?;
        Ok(Self { file: directory.append(USED)?, lines: lines.len(), tokens })
    }

    fn consume(
        &mut self,
        claims: &Claims,
        key: &str,
        directory: &Directory,
        now_unix_s: u64,
    ) -> Result<(), TokenError> {
        if let Some(uses) = self.tokens.get(&claims.id) {
            if uses.keys.iter().any(|used| used == key) {
                return Ok(());
            }
            if uses.keys.len() >= usize::try_from(claims.uses).unwrap_or(usize::MAX) {
                return Err(TokenError::Used);
            }
        }
        if self.lines >= USES_MAX {
            *self = Self::rewritten(directory, std::mem::take(&mut self.tokens), now_unix_s)?;
            if self.lines >= USES_MAX {
                return Err(TokenError::TooMany);
            }
        }
        let line = line(&claims.id, claims.expiry_unix_s, key);
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // The file may end in half a line, to which nothing must be appended.
            *self = Self::rewritten(directory, std::mem::take(&mut self.tokens), now_unix_s)?;
            return Err(TokenError::Files(CaError::Io { path: directory.path(USED), source }));
        }
        self.lines += 1;
        let fresh = || Uses { expiry_unix_s: claims.expiry_unix_s, keys: Vec::new() };
        self.tokens.entry(claims.id.clone()).or_insert_with(fresh).keys.push(key.to_owned());
        Ok(())
    }
}

fn line(id: &str, expiry_unix_s: u64, key: &str) -> String {
    format!("{id} {expiry_unix_s} {key}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let (pairs, []) = digits.as_deref()?.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Why a token is not made or not accepted. None of them shows the token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key file was changed.
    #[error("{KEY} does not hold a key of 32 bytes")]
    BadKey,
    /// The memory of uses was changed.
    #[error("{USED} is not what we wrote")]
    BadMemory,
    /// Its time is over.
    #[error("the join token has expired: ask for a new one")]
    Expired,
    /// The files cannot be read or written.
    #[error(transparent)]
    Files(#[from] CaError),
    /// We did not make it, or somebody changed it.
    #[error("the join token was not made by this control plane")]
    Foreign,
    /// It is not a token.
    #[error("this is not a join token")]
    Malformed,
    /// A token that is good for nothing.
    #[error("a join token needs at least one use and one second")]
    NoUse,
    /// It is for somebody else.
    #[error("the join token is for another identity")]
    OtherIdentity,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// More uses than are remembered.
    #[error("too many join tokens are in use at once")]
    TooMany,
    /// It was used as often as it may be.
    #[error("the join token was used already: ask for a new one")]
    Used,
}

#[cfg(test)]
mod tests;
