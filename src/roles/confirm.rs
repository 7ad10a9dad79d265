//! Asks before what cannot be undone.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::bail;

/// Asks `question` on the terminal, unless `yes`. Answers whether to go on.
///
/// # Errors
/// Where nobody can be asked: standard input is no terminal.
pub(super) fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!("this cannot be undone, and there is no terminal to ask on; say --yes");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    let agreed = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !agreed {
        eprintln!("nothing removed");
    }
    Ok(agreed)
}
