//! Checks the model bundle that the binary embeds, and tells the crate where it is.
//!
//! `IMGCLS_EMBED=dir` at build time embeds another bundle than `assets/model`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

// Parts of both are only used at run time.
#[allow(dead_code, unreachable_pub)]
#[path = "src/model/architecture.rs"]
mod architecture;
#[allow(dead_code, unreachable_pub)]
#[path = "src/model/layout.rs"]
mod layout;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/model/architecture.rs");
    println!("cargo::rerun-if-changed=src/model/layout.rs");
    println!("cargo::rerun-if-env-changed=IMGCLS_EMBED");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let dir = std::env::var_os("IMGCLS_EMBED").filter(|dir| !dir.is_empty());
    let dir = root.join(dir.map_or_else(|| PathBuf::from("assets/model"), PathBuf::from));
    check(&dir).with_context(|| format!("the model bundle in {} cannot be embedded", dir.display()))?;
    println!("cargo::rustc-env=IMGCLS_EMBEDDED_MODEL={}", dir.display());
    Ok(())
}

fn check(dir: &Path) -> Result<()> {
    let file = |name: &str| -> Result<Vec<u8>> {
        let path = dir.join(name);
        println!("cargo::rerun-if-changed={}", path.display());
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let text = |name: &str| String::from_utf8(file(name)?).with_context(|| format!("{name} is not UTF-8"));
    let (card, labels, weights) = (text(layout::CARD)?, text(layout::LABELS)?, file(layout::WEIGHTS)?);
    layout::check_digest(&card, &weights)?;
    layout::parse(&card, &labels, &weights)?;
    Ok(())
}
