//! The signals by which a process is asked to end.

use std::fmt;
use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What the process was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: somebody at a terminal.
    Interrupt,
    /// SIGTERM: the platform.
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Catches signals from the moment it is made.
#[derive(Debug)]
pub struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// Takes the signals over; from here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// The system does not let the handler be set, or this is not inside a runtime with IO.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    /// Resolves at the next signal.
    ///
    /// **Cancel:** loses nothing.
    pub async fn next(&mut self) -> Signal {
        // Each arm keeps its signal when the other wins.
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Signal, Signals};

    #[tokio::test]
    async fn a_signal_sent_before_waiting_is_not_lost() {
        let mut signals = Signals::install().unwrap();
        let me = std::process::id().to_string();
        let status = tokio::process::Command::new("kill").args(["-TERM", &me]).status().await.unwrap();
        assert!(status.success());
        assert_eq!(signals.next().await, Signal::Terminate);
    }
}
