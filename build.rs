//! Checks the model bundle that the binary embeds, and tells the crate where it is.
//!
//! `IMGCLS_EMBED` at build time embeds another bundle than `assets/model`: a directory, or the name of a model in the
//! user's cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

// Parts of both are only used at run time.
#[allow(dead_code, unreachable_pub)]
#[path = "src/compute/architecture/mod.rs"]
mod architecture;
#[allow(dead_code, unreachable_pub)]
#[path = "src/model/layout.rs"]
mod layout;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/compute/architecture");
    println!("cargo::rerun-if-changed=src/model/layout.rs");
    println!("cargo::rerun-if-env-changed=IMGCLS_EMBED");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let model = std::env::var_os("IMGCLS_EMBED").filter(|model| !model.is_empty()).map(PathBuf::from);
    let dir = find(&root, model.as_deref())?;
    let name = check(&dir).with_context(|| format!("the model bundle in {} cannot be embedded", dir.display()))?;
    println!("cargo::rustc-env=IMGCLS_EMBEDDED_NAME={name}");
    println!("cargo::rustc-env=IMGCLS_EMBEDDED_MODEL={}", dir.display());
    Ok(())
}

/// The bundle's directory: that of the project's own model by its name or without one, else by name in the cache, or as
/// it is given.
fn find(root: &Path, model: Option<&Path>) -> Result<PathBuf> {
    let own = root.join("assets/model");
    let Some(model) = model else { return Ok(own) };
    let card = std::fs::read_to_string(own.join(layout::CARD)).ok().and_then(|text| layout::parse_card(&text).ok());
    if card.is_some_and(|card| Path::new(&card.name) == model) {
        return Ok(own);
    }
    let is_name = model.components().count() == 1 && model.is_relative();
    let in_cache = cache().map(|cache| cache.join(model)).filter(|dir| is_name && dir.is_dir());
    let dir = in_cache.unwrap_or_else(|| root.join(model));
    if is_name && !dir.exists() {
        let name = model.display();
        bail!(
            "the model {name} is neither in the cache nor a directory; if it is one that `imgcls model list` shows, \
             `imgcls model pull {name}` fetches it"
        );
    }
    Ok(dir)
}

/// The directory of models by name, as the program finds it.
fn cache() -> Option<PathBuf> {
    let absolute = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Some(caches?.join("imgcls").join("models"))
}

/// Checks the bundle and returns the model's name.
fn check(dir: &Path) -> Result<String> {
    let file = |name: &str| -> Result<Vec<u8>> {
        let path = dir.join(name);
        println!("cargo::rerun-if-changed={}", path.display());
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let text = |name: &str| String::from_utf8(file(name)?).with_context(|| format!("{name} is not UTF-8"));
    let (card, labels, weights) = (text(layout::CARD)?, text(layout::LABELS)?, file(layout::WEIGHTS)?);
    layout::check_digest(&card, &weights)?;
    let parts = layout::parse(&card, &labels, &weights)?;
    parts.check_numbers()?;
    Ok(parts.card.name)
}
