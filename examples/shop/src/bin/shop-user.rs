//! The program `shop-user`: see [`shop::user`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    Ok(shop::user::run(shop::user::Flags::parse())?)
}
