//! A connection as two halves that one task, or several of one worker, use at the same time. Workers are
//! single-threaded, so a cell is all the lock there is; it is never held across a wait.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;

/// The half that reads.
#[derive(Debug)]
pub(crate) struct ReadHalf(Rc<RefCell<Io>>);

/// The half that writes.
#[derive(Debug)]
pub(crate) struct WriteHalf(Rc<RefCell<Io>>);

/// Splits a connection.
pub(crate) fn split(io: Io) -> (ReadHalf, WriteHalf) {
    let io = Rc::new(RefCell::new(io));
    (ReadHalf(Rc::clone(&io)), WriteHalf(io))
}

/// Watches over the message that is being written. Dropped in the middle of it, by whatever way, the connection ends with
/// a reset: an end without one could be taken for the message's end.
#[derive(Debug)]
pub(crate) struct Message {
    io: Rc<RefCell<Io>>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Between,
    /// All of it was gathered; some may not have left.
    Ended,
    /// There is more to come.
    Open,
}

impl Message {
    /// No message yet, on the connection of this half.
    pub(crate) fn of(half: &WriteHalf) -> Self {
        Self { io: Rc::clone(&half.0), stage: Stage::Between }
    }

    /// One begins.
    pub(crate) fn begin(&mut self) {
        self.stage = Stage::Open;
    }

    /// It is complete, but for what was not flushed yet.
    pub(crate) fn end(&mut self) {
        self.stage = Stage::Ended;
    }

    /// It will not be completed, or must not be taken for the last one.
    pub(crate) fn break_off(&mut self) {
        self.stage = Stage::Open;
    }

    /// All that was gathered has left.
    pub(crate) fn flushed(&mut self) {
        if self.stage == Stage::Ended {
            self.stage = Stage::Between;
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if self.stage != Stage::Between
            && let Ok(io) = self.io.try_borrow()
        {
            io.reset_at_close();
        }
    }
}

/// Puts two halves of one connection together again. `None` when they are not of one connection.
pub(crate) fn join(read: ReadHalf, write: WriteHalf) -> Option<Io> {
    if !Rc::ptr_eq(&read.0, &write.0) {
        return None;
    }
    drop(read);
    Rc::into_inner(write.0).map(RefCell::into_inner)
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
