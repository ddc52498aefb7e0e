//! The program `shop-storefront`: see [`shop::storefront`].

use clap::Parser;

fn main() -> anyhow::Result<()> {
    Ok(shop::storefront::run(shop::storefront::Flags::parse())?)
}
