//! `imgcls config`: prints the effective configuration, or the annotated defaults.

use std::{io::Write, process::ExitCode};

use clap::Args;
use toml::{Table, Value};

use crate::config::Layers;

/// Every key with its default and what it is for.
const ANNOTATED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config/imgcls.toml"));

/// Comments begin in this column, if values leave room.
const COLUMN: usize = 40;

/// Flags of `imgcls config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Print every key with its default and what it is for, to begin a file with.
    #[arg(long)]
    default: bool,
}

/// Prints the configuration as it takes effect, as TOML, with the source of each value that is not a default; secrets
/// show as `(set)`.
///
/// # Errors
/// If a value makes no sense, or standard output cannot be written.
pub fn run(args: &ConfigArgs, layers: &Layers) -> anyhow::Result<ExitCode> {
    let text = if args.default { ANNOTATED.to_owned() } else { effective(layers)? };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn effective(layers: &Layers) -> anyhow::Result<String> {
    let written = Table::try_from(&layers.raw)?;
    let effective = Table::try_from(layers.raw.effective()?)?;
    let (sections, plain): (Vec<_>, Vec<_>) = effective.iter().partition(|(_, value)| value.is_table());
    let mut text = String::new();
    for (key, value) in plain {
        text += &line(layers, "", key, value, written.get(key));
    }
    for (section, table) in sections {
        text += &format!("\n[{section}]\n");
        for (key, value) in table.as_table().into_iter().flatten() {
            text += &line(layers, section, key, value, written.get(section).and_then(|table| table.get(key)));
        }
    }
    Ok(text)
}

/// One key with its value, and as a comment where the value came from; of an automatic one also what was `written`.
fn line(layers: &Layers, section: &str, key: &str, value: &Value, written: Option<&Value>) -> String {
    let dotted = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    let source = layers.origins.get(&dotted);
    let source = match (written.filter(|&written| written != value), source) {
        (Some(written), Some(source)) => Some(format!("automatic ({written} from {source})")),
        (Some(_), None) => Some("automatic".to_owned()),
        (None, source) => source.map(ToString::to_string),
    };
    let assignment = format!("{key} = {value}");
    match source {
        Some(source) => format!("{assignment:COLUMN$} # {}\n", source.replace(char::is_control, "?")),
        None => format!("{assignment}\n"),
    }
}
