//! Both stories as a worker runs them. The files below follow the path of a connection; `world` is what they share.

mod drain;
mod http;
mod identity;
mod limits;
mod opaque;
mod policy;
mod refusals;
mod world;
