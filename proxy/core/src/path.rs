//! The one reading of a path: what policy judges is what is forwarded (semantics 40).
//!
//! In the normal form every byte that a path may carry as itself does (RFC 3986 §3.3), every other stands
//! percent-encoded in upper case, there are no dot segments and no empty segments but the last. Decoding happens once:
//! an encoded `%` stays encoded. What servers are known to read in different ways has no normal form and is refused.

#![warn(clippy::indexing_slicing)]

use std::borrow::Cow;
use std::fmt;

/// A path in normal form. Only [`normalize`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a>(Cow<'a, str>);

impl<'a> NormalPath<'a> {
    /// The text, to judge and to forward.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the request's own path was normal already and may be forwarded untouched.
    pub fn is_unchanged(&self) -> bool {
        matches!(self.0, Cow::Borrowed(_))
    }

    /// The text, borrowed where it was normal.
    pub fn into_inner(self) -> Cow<'a, str> {
        self.0
    }
}

impl fmt::Display for NormalPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path has no single reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// `\`, raw or encoded, which some servers take for `/`.
    #[error("a backslash in the path")]
    Backslash,
    /// A byte below 0x20 or 0x7f, raw, or an encoded NUL.
    #[error("a control character in the path")]
    Control,
    /// `%` without two hexadecimal digits.
    #[error("a broken percent-encoding in the path")]
    Encoding,
    /// `#`, raw or encoded.
    #[error("a fragment in the path")]
    Fragment,
    /// `.;` or `..;` as a segment's start: with parameters removed it is a dot segment.
    #[error("a dot segment with parameters in the path")]
    Parameters,
    /// A path that does not begin with `/` and is not `*`.
    #[error("a path that does not begin with a slash")]
    Relative,
    /// An encoded `/`.
    #[error("an encoded slash in the path")]
    Slash,
}

/// Puts a request's path, without its query, into normal form. An empty path is `/`; `*` (of OPTIONS) is left alone.
///
/// **Cost:** one pass and no allocation where the path is plainly normal: no percent sign, no segment beginning with a
/// dot.
///
/// # Errors
/// [`Ambiguous`]: servers would read it differently. The caller answers 400 where a policy judges paths.
pub fn normalize(path: &str) -> Result<NormalPath<'_>, Ambiguous> {
    match path {
        "" => return Ok(NormalPath(Cow::Borrowed("/"))),
        "*" => return Ok(NormalPath(Cow::Borrowed(path))),
        _ if !path.starts_with('/') => return Err(Ambiguous::Relative),
        _ => {}
    }
    if is_normal(path) {
        return Ok(NormalPath(Cow::Borrowed(path)));
    }
    let normal = collapse(&respell(path)?)?;
    Ok(NormalPath(if normal == path { Cow::Borrowed(path) } else { Cow::Owned(normal) }))
}

/// Whether a path that begins with `/` is plainly in normal form. It says no to some that are (with a percent sign, or
/// a segment that begins with a dot), which then take the long way; never yes to one that is not.
fn is_normal(path: &str) -> bool {
    let plain = |b: u8| b == b'/' || is_path_byte(b);
    let mut previous = b'x';
    for b in path.bytes() {
        if !plain(b) || (previous == b'/' && matches!(b, b'/' | b'.')) {
            return false;
        }
        previous = b;
    }
    true
}

/// Spells every byte in the one normal way; segments are left as they are.
fn respell(path: &str) -> Result<String, Ambiguous> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'/' => out.push('/'),
            b'%' => {
                let (high, low) = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = (high, low) else { return Err(Ambiguous::Encoding) };
                match high << 4 | low {
                    b'/' => return Err(Ambiguous::Slash),
                    0 => return Err(Ambiguous::Control),
                    decoded => push(&mut out, decoded)?,
                }
            }
            0..0x20 | 0x7f => return Err(Ambiguous::Control),
            _ => push(&mut out, b)?,
        }
    }
    Ok(out)
}

/// Appends a byte in its normal spelling.
fn push(out: &mut String, b: u8) -> Result<(), Ambiguous> {
    match b {
        b'\\' => return Err(Ambiguous::Backslash),
        b'#' => return Err(Ambiguous::Fragment),
        _ if is_path_byte(b) => out.push(char::from(b)),
        _ => {
            out.push('%');
            for digit in [b >> 4, b & 15] {
                out.push(char::from(if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }));
            }
        }
    }
    Ok(())
}

/// Merges slashes and removes dot segments (RFC 3986 §5.2.4); `..` above the root stays at the root.
fn collapse(path: &str) -> Result<String, Ambiguous> {
    let mut out = String::with_capacity(path.len());
    let mut ends_in_slash = true;
    for segment in path.split('/') {
        match segment {
            "" | "." => {
                ends_in_slash = true;
                continue;
            }
            ".." => {
                out.truncate(out.rfind('/').unwrap_or(0));
                ends_in_slash = true;
                continue;
            }
            _ if segment.starts_with(".;") || segment.starts_with("..;") => return Err(Ambiguous::Parameters),
            _ => {
                out.push('/');
                out.push_str(segment);
                ends_in_slash = false;
            }
        }
    }
    if ends_in_slash {
        out.push('/');
    }
    Ok(out)
}

/// Whether a byte stands in a path as itself: unreserved, sub-delims, `:` and `@` (RFC 3986 §3.3).
fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b)
}

fn hex(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::{Ambiguous, normalize};
    use proptest::prelude::*;

    #[test]
    fn every_spelling_has_one_reading() {
        for (path, want) in [
            ("", "/"),
            ("/", "/"),
            ("*", "*"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a//b", "/a/b"),
            ("//a", "/a"),
            ("/a//", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/../c", "/a/c"),
            ("/a//../b", "/b"),
            ("/../../a", "/a"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/a/.b/..c/...", "/a/.b/..c/..."),
            ("/%61dmin", "/admin"),
            ("/%7euser", "/~user"),
            ("/a%20b", "/a%20b"),
            ("/a%2520b", "/a%2520b"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%252fa", "/%252fa"),
            ("/a%3fb", "/a%3Fb"),
            ("/%c3%a9", "/%C3%A9"),
            ("/é", "/%C3%A9"),
            ("/a{b}", "/a%7Bb%7D"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a%0ab", "/a%0Ab"),
            ("/pkg.Service/Method", "/pkg.Service/Method"),
        ] {
            assert_eq!(normalize(path).unwrap().as_str(), want, "{path:?}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        use Ambiguous::{Backslash, Control, Encoding, Fragment, Parameters, Relative, Slash};
        for (path, why) in [
            ("/a%2fb", Slash),
            ("/a%2Fb", Slash),
            ("/%2e%2e%2fadmin", Slash),
            ("/a\\b", Backslash),
            ("/a%5cb", Backslash),
            ("/..%5cadmin", Backslash),
            ("/a%00", Control),
            ("/a\0", Control),
            ("/a\tb", Control),
            ("/a\x7f", Control),
            ("/a#b", Fragment),
            ("/a%23b", Fragment),
            ("/a%", Encoding),
            ("/a%4", Encoding),
            ("/a%zz", Encoding),
            ("/a%+1", Encoding),
            ("/..;/admin", Parameters),
            ("/.;x/admin", Parameters),
            ("/%2e%2e;/admin", Parameters),
            ("admin", Relative),
            ("../admin", Relative),
            ("**", Relative),
        ] {
            assert_eq!(normalize(path), Err(why), "{path:?}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "/a/b-c/d~e/", "/api/v1/items;x=1", "/a%20b", "/.well-known/x", "*"] {
            assert!(normalize(path).unwrap().is_unchanged(), "{path}");
        }
        assert!(!normalize("/a/../b").unwrap().is_unchanged());
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(path in "/([a-b./%;é {]|%2e|%2E|%41|%25|%20|//|/\\.\\./){0,12}") {
            if let Ok(normal) = normalize(&path) {
                let again = normalize(normal.as_str()).unwrap();
                prop_assert_eq!(again.as_str(), normal.as_str());
                prop_assert!(!normal.as_str().contains("//"));
                prop_assert!(normal.as_str().split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(normal.as_str().is_ascii());
            }
        }

        #[test]
        fn normalizing_never_panics(path in "\\PC{0,32}") {
            let _normal = normalize(&path);
        }
    }
}
