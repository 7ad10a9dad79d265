//! Merges the layers: defaults < file < environment < flags. Remembers where each value came from.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Display},
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{ConfigError, Raw, flags::Overrides};

/// The prefix of the environment variables.
const ENV_PREFIX: &str = "IMGCLS_";

/// Variables with the prefix that are no configuration keys: the file's place, the log filter, and the bundle that a
/// build embeds.
const ENV_OTHERS: [&str; 3] = ["IMGCLS_CONFIG", "IMGCLS_LOG", "IMGCLS_EMBED"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Variable(String),
    /// A flag.
    CommandLine,
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::CommandLine => f.write_str("the command line"),
        }
    }
}

/// A variable with our prefix that is no key: a misspelt one, or what an orchestrator sets for a service of our name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// The variable.
    pub name: String,
    /// The variable of the key whose spelling is nearest.
    pub nearest: String,
}

impl Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; the nearest key is {}", self.name, self.nearest)
    }
}

/// The variables that are text, of those of a process.
///
/// # Errors
/// [`ConfigError`] for one of ours that is not: were it left out, a server whose token it is would stand open. The
/// value is not shown, it may be a secret.
pub fn environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut text = Vec::new();
    for (name, value) in variables {
        // Keys are ASCII: what has another name is none.
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => text.push((name, value)),
            // The file's place is a path, which need not be text.
            Err(_) if name.starts_with(ENV_PREFIX) && name != "IMGCLS_CONFIG" => {
                let message = format!("the environment variable {name} is not valid UTF-8; set it anew or unset it");
                return Err(ConfigError::invalid(message));
            }
            Err(_) => {}
        }
    }
    Ok(text)
}

/// The merged layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Layers {
    /// The values.
    pub raw: Raw,
    /// Where the values came from that are not defaults, by dotted key.
    pub origins: BTreeMap<String, Origin>,
    /// Variables that were ignored.
    pub unknown: Vec<UnknownVariable>,
}

impl Layers {
    /// Merges the defaults, `file`, the `IMGCLS_*` variables of `env`, then `flags`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and where it came from.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut merged = Merged::new()?;
        if let Some(path) = file {
            merged.add_file(path)?;
        }
        let mut unknown = Vec::new();
        for (name, text) in env {
            unknown.extend(merged.add_variable(name, &text)?);
        }
        for (key, text) in &flags.0 {
            merged.set(key, text.expose(), Origin::CommandLine)?;
        }
        Ok(Self { raw: merged.raw, origins: merged.origins, unknown })
    }
}

/// The layers so far.
struct Merged {
    table: Table,
    raw: Raw,
    origins: BTreeMap<String, Origin>,
}

impl Merged {
    /// The defaults.
    fn new() -> Result<Self, ConfigError> {
        let raw = Raw::default();
        let table = Table::try_from(&raw).map_err(|e| ConfigError::Value(e.to_string()))?;
        Ok(Self { table, raw, origins: BTreeMap::new() })
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table: Table =
            text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let origin = Origin::File(path.to_owned());
        merge(&mut self.table, table.clone(), "", &origin)?;
        self.read(&origin)?;
        self.origins.extend(keys(&table, "").into_iter().map(|key| (key, origin.clone())));
        Ok(())
    }

    /// Adds a variable if it is one of ours. Returns it if it has our prefix and is no key.
    fn add_variable(&mut self, name: String, text: &str) -> Result<Option<UnknownVariable>, ConfigError> {
        let is_ours = name.starts_with(ENV_PREFIX) && !ENV_OTHERS.contains(&name.as_str());
        if !is_ours {
            return Ok(None);
        }
        let known = keys(&self.table, "");
        if let Some(key) = known.iter().find(|key| variable(key).eq_ignore_ascii_case(&name)) {
            self.set(key, text, Origin::Variable(name))?;
            return Ok(None);
        }
        let nearest = known.iter().map(|key| variable(key)).min_by_key(|key| strsim::damerau_levenshtein(key, &name));
        Ok(nearest.map(|nearest| UnknownVariable { name, nearest }))
    }

    /// Sets one dotted key from text.
    fn set(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        set(&mut self.table, key, text, &origin)?;
        self.read(&origin)?;
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    /// Reads the values, to which `origin` was the last to add.
    fn read(&mut self, origin: &Origin) -> Result<(), ConfigError> {
        self.raw = self.table.clone().try_into().map_err(|error: toml::de::Error| {
            ConfigError::Value(format!("{} (from {origin})", in_words(&error, &mut self.table)))
        })?;
        Ok(())
    }
}

/// What the parser says of the value of a key, without its names of types. A value of another type is not shown: it may
/// be a secret.
fn in_words(error: &toml::de::Error, table: &mut Table) -> String {
    let (whole, message) = (error.to_string(), error.message());
    let key = whole.trim_end().rsplit_once("in `").map_or("", |(_, key)| key.trim_end_matches('`'));
    let (before, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    if let Some(variant) = before.strip_prefix("unknown variant ") {
        return format!("{key} is {variant:?}; it must be {expected}").replace('`', "");
    }
    let wanted = match expected {
        "u16" | "u32" | "u64" | "usize" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string only" | "path string" => "a text",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    let is = match find(table, key) {
        _ if before.starts_with("invalid value: ") => return format!("{key} must be {wanted} in its range"),
        Some(value) if before.starts_with("invalid type: ") => value,
        _ => return whole.trim_end().replace('\n', " "),
    };
    let is = match is {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    };
    format!("{key} must be {wanted}, and is {is}")
}

fn number(text: &str) -> Option<Value> {
    let whole = text.parse().ok().map(Value::Integer);
    whole.or_else(|| text.parse().ok().map(Value::Float))
}

/// The variable that sets a dotted key.
pub(super) fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// The dotted keys of all leaves.
pub(super) fn keys(table: &Table, prefix: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => out.extend(keys(inner, &format!("{prefix}{key}."))),
            _ => out.push(format!("{prefix}{key}")),
        }
    }
    out
}

/// Lays `over` on `base`, key by key; a key that `base` lacks is unknown.
fn merge(base: &mut Table, over: Table, prefix: &str, origin: &Origin) -> Result<(), ConfigError> {
    for (key, value) in over {
        let dotted = format!("{prefix}{key}");
        match (base.get_mut(&key), value) {
            (None, _) => return Err(ConfigError::UnknownKey { key: dotted, origin: origin.to_string() }),
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over, &format!("{dotted}."), origin)?,
            (Some(slot), value) => *slot = value,
        }
    }
    Ok(())
}

/// Sets one dotted key from text, read as the type that the default has.
fn set(table: &mut Table, key: &str, text: &str, origin: &Origin) -> Result<(), ConfigError> {
    let unknown = || ConfigError::UnknownKey { key: key.to_owned(), origin: origin.to_string() };
    let bad = |want: &str| ConfigError::Value(format!("{key} from {origin} is {text:?}, which is not {want}"));
    let slot = find(table, key).ok_or_else(unknown)?;
    *slot = match slot {
        Value::Table(_) => return Err(unknown()),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| bad("true or false"))?),
        // Some keys take numbers and texts, whichever the layer before has.
        Value::Integer(_) | Value::Float(_) => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
        Value::Array(_) if text.trim_start().starts_with('[') => {
            let parsed: Table = format!("x = {text}").parse().map_err(|_| bad("a list"))?;
            parsed.get("x").cloned().ok_or_else(|| bad("a list"))?
        }
        Value::Array(_) => {
            Value::Array(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Value::from).collect())
        }
        Value::String(_) | Value::Datetime(_) => Value::String(text.to_owned()),
    };
    Ok(())
}

/// The value at a dotted key.
fn find<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((section, rest)) => find(table.get_mut(section)?.as_table_mut()?, rest),
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
