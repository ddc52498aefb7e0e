//! The rules in real kernels' hands: each test runs in namespaces of its own, as root and as an unprivileged user, on
//! IPv4 and IPv6. A machine that forbids namespaces fails them.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test harness")]

mod capture;
mod program;
mod proof;
mod wire;
mod world;
