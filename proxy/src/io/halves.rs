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
