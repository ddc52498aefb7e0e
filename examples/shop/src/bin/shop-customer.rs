//! The program `shop-customer`: see [`shop::customer`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    Ok(shop::customer::run(shop::customer::Flags::parse())?)
}
