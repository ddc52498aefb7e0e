//! A small shop of five programs, for people to look at and for the demo to put load on, and a sixth that is its customer.
//!
//! It is an ordinary application: it knows nothing of the mesh that it runs in, except that it passes trace headers on,
//! as every application must. From the workspace it takes only the listeners, logs, signals and tasks of `weft-runtime`,
//! none of which know what a mesh is. Each program is one module with a `run`; the files in `src/bin` only call it.
//!
//! Invariants: money is whole euro cents; every step that changes something can be repeated by its key without effect;
//! SQLite is never touched on an async thread; whatever waits for somebody else has a deadline.

mod app;
mod client;
mod db;
mod error;
mod ids;
mod money;
mod pb;
mod serve;
mod trace;

// Somebody who comes again and again.
pub mod customer;
// Orders: reserves stock, charges, tells the queue.
pub mod order;
// Payments, over gRPC.
pub mod payment;
// Catalogue and stock.
pub mod product;
// The page, and the API in front of the others.
pub mod storefront;
// Accounts and sessions.
pub mod user;

pub use app::{Common, StartError};
pub use client::{BaseUrl, BaseUrlError};
pub use db::DbError;
