//! The program `shop-product`: see [`shop::product`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    Ok(shop::product::run(shop::product::Flags::parse())?)
}
