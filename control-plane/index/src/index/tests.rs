//! What the index answers, change by change; and that changes add up.

mod authorization;
mod fixtures;
mod incremental;
mod limits;
mod near;
mod networks;
mod routes;
mod services;
mod workloads;
