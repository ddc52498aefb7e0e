//! When to try again to parse a section of which only a part had arrived.

/// Remembers how much of an unfinished section was looked at, so that a peer which sends one byte at a time costs a
/// parse for each doubling, not for each byte.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// Bytes in which no end of section was found.
    scanned: usize,
    /// Length at which to parse although no end was seen: errors surface early, at an amortised constant cost a byte.
    due_at: usize,
}

impl Attempt {
    /// Whether `section` may be complete, or has grown enough to look for errors.
    pub(crate) fn is_due(&mut self, section: &[u8]) -> bool {
        if section.len() >= self.due_at {
            return true;
        }
        // The end may straddle what was seen and what is new: an empty line is at most `\n\r\n`.
        let fresh = section.get(self.scanned.saturating_sub(2)..).unwrap_or_default();
        self.scanned = section.len();
        has_empty_line(fresh)
    }

    /// Notes that `len` bytes were parsed and are not the whole section.
    pub(crate) const fn was_partial(&mut self, len: usize) {
        self.scanned = len;
        self.due_at = len.saturating_mul(2);
    }
}

/// Whether an empty line, ended by LF or CRLF, follows another line's end.
fn has_empty_line(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return true;
        }
    }
    false
}
