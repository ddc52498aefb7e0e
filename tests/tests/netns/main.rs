//! The real kernel and real programs: worlds, redirects, whole meshes.

mod commands;
mod databases;
mod grpc;
mod hostile;
mod http1;
mod http2;
mod idle;
mod live;
mod opaque;
mod probes;
mod refusals;
mod resume;
mod vanished;
mod websockets;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tables = [
        world::CASES,
        commands::CASES,
        opaque::CASES,
        databases::CASES,
        http1::CASES,
        http2::CASES,
        websockets::CASES,
        grpc::CASES,
        refusals::CASES,
        probes::CASES,
        live::CASES,
        idle::CASES,
        vanished::CASES,
        hostile::CASES,
        resume::CASES,
    ];
    let cases: Vec<_> = tables.into_iter().flatten().copied().collect();
    weft_tests::main(&cases)
}
