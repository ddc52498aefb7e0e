//! Turns resources into what each proxy is served. Synchronous, without a client, a clock or a runtime: a resource goes
//! in, out comes the set of keys whose answers may have changed; an answer is computed when it is read. Whether the
//! resources came from Kubernetes or from a directory is not known here.
//!
//! Invariants: nothing is ever dropped silently ([`Index::status`] says what does not hold and why); what cannot be
//! understood leaves the last good version in force, and denies where it was to decide about access; every answer is
//! the same whether the resources came one by one or all at once.

mod networks;
mod object;
mod problem;
mod read;

mod pods;
mod services;
mod slices;
mod workloads;

mod policies;
mod routes;

mod effective;
mod endpoints;
mod near;

mod index;

pub use index::{Affected, Changes, Index, IndexConfig, WorkloadFacts};
pub use object::{Kind, Object, ObjectKey};
pub use problem::{Condition, ObjectStatus, Problem, Reason};
