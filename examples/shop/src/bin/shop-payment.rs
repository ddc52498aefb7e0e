//! The program `shop-payment`: see [`shop::payment`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    Ok(shop::payment::run(shop::payment::Flags::parse())?)
}
