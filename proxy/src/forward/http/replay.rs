//! What is kept of a request's body for a further attempt. Invariant: either all that was read is kept, or nothing is.

use std::cell::Cell;
use std::rc::Rc;

use bytes::BytesMut;
use weft_proxy_core::h1::Frame;

/// Bodies up to this size are kept for a further attempt (design §6).
const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// So many pieces of a kept body share the memory they came in; behind them small ones are copied together, so that a
/// body of single bytes does not cost a hundred times its size (guess; most bodies have one or two pieces).
const REPLAY_PIECES_SHARED: usize = 8;
/// What counts as small then.
const REPLAY_PIECE_BYTES_SMALL: usize = 2048;

/// What was read of a body, to be sent by each attempt.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Read from the source so far, while it is kept.
    frames: Vec<Frame>,
    /// Small pieces behind `frames`, not yet one of them.
    gathered: BytesMut,
    bytes: usize,
    /// The next of `frames` that the current attempt sends.
    next: usize,
    /// Whether all that was read is kept; shared with who decides on further attempts while the body is being sent.
    whole: Replayable,
}

/// Whether a body can be sent again from its start.
#[derive(Clone, Debug)]
pub(super) struct Replayable(Rc<Cell<bool>>);

impl Default for Replayable {
    fn default() -> Self {
        Self(Rc::new(Cell::new(true)))
    }
}

impl Replayable {
    /// It cannot, ever.
    pub(super) fn never() -> Self {
        Self(Rc::new(Cell::new(false)))
    }

    /// Whether it can as of now.
    pub(super) fn get(&self) -> bool {
        self.0.get()
    }
}

impl Replay {
    /// Tells, also while the body is being sent, whether it can be sent again.
    pub(super) fn replayable(&self) -> Replayable {
        self.whole.clone()
    }

    /// Goes back to the first frame. `false` when that is no longer kept.
    pub(super) fn rewind(&mut self) -> bool {
        self.collect();
        self.next = 0;
        self.whole.get()
    }

    /// Whether the current attempt has sent all that is kept.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.frames.len()
    }

    /// The next kept frame of a further attempt.
    pub(super) fn again(&mut self) -> Option<Frame> {
        let frame = self.frames.get(self.next)?.clone();
        self.next += 1;
        Some(frame)
    }

    /// Keeps what was just read, while all of it is little enough.
    pub(super) fn keep(&mut self, frame: &Frame, len: usize) {
        if !self.whole.get() {
            return;
        }
        self.bytes += len;
        if self.bytes > REPLAY_BYTES_MAX {
            self.whole.0.set(false);
            self.frames = Vec::new();
            self.gathered = BytesMut::new();
            self.next = 0;
            return;
        }
        match frame {
            Frame::Data(data) if self.frames.len() >= REPLAY_PIECES_SHARED && len < REPLAY_PIECE_BYTES_SMALL => {
                self.gathered.extend_from_slice(data);
            }
            frame => {
                self.collect();
                self.frames.push(frame.clone());
                self.next = self.frames.len();
            }
        }
    }

    /// Makes a frame of what was gathered. Only reading further calls it, and going back to the start: the current
    /// attempt has sent it.
    fn collect(&mut self) {
        if !self.gathered.is_empty() {
            self.frames.push(Frame::Data(self.gathered.split().freeze()));
            self.next = self.frames.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// A body of single bytes must not cost many times what it says.
    #[test]
    fn a_kept_body_is_bounded_in_pieces_too() {
        let mut replay = Replay::default();
        for n in 0..REPLAY_BYTES_MAX {
            assert!(replay.whole.get(), "{n}");
            replay.keep(&Frame::Data(Bytes::from_static(b"x")), 1);
            assert!(replay.again().is_none(), "the current attempt has sent it");
        }
        assert!(replay.frames.len() <= REPLAY_PIECES_SHARED);
        for _ in 0..2 {
            assert!(replay.rewind());
            let frames: Vec<Frame> = std::iter::from_fn(|| replay.again()).collect();
            let bytes: usize = frames.iter().map(len_of).sum();
            assert_eq!(bytes, REPLAY_BYTES_MAX);
        }
        replay.keep(&Frame::Data(Bytes::from_static(b"x")), 1);
        assert!(!replay.whole.get() && replay.frames.is_empty() && replay.gathered.capacity() == 0);
        replay.keep(&Frame::Data(Bytes::from_static(b"x")), 1);
        assert!(replay.frames.is_empty(), "nothing is kept of what is not whole");
    }

    fn len_of(frame: &Frame) -> usize {
        if let Frame::Data(data) = frame { data.len() } else { 0 }
    }
}
