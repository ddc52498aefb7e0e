//! The program `shop-order`: see [`shop::order`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    Ok(shop::order::run(shop::order::Flags::parse())?)
}
