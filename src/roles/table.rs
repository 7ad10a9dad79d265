//! The table that `imgcls classify` prints: for people on a terminal with a header and no wider than that, else with
//! every word of it.

use std::path::Path;

use crate::{contract::Outcome, model::Score};

/// Stands before an uncertain label.
const NOT_SURE: &str = "not sure: ";

/// A column is no wider than this for the sake of one long value.
const WIDEST: usize = 60;

/// A path is cut to no less than this.
const SHORTEST_PATH: usize = 12;

/// What stands between path and label, and the confidence.
const BETWEEN: usize = "  ".len() + "  100.0%  ".len();

/// So much is left for the other labels.
const OTHERS: usize = 16;

/// A reason has no narrower column than this.
const REASON: usize = 24;

/// Where it would be, it has lines of its own, so far from the edge.
const INDENT: usize = 2;

/// What of a line is neither path nor label, where there are no other labels.
const LEAST: usize = "  ".len() + "  100.0%".len();

/// The widths of the columns, in characters.
#[derive(Debug)]
pub(super) struct Table {
    path: usize,
    label: usize,
    /// Of the terminal.
    width: Option<usize>,
}

impl Table {
    /// A table of these paths and of some of these labels, which may be marked as uncertain.
    pub(super) fn new<'a>(
        paths: impl Iterator<Item = &'a Path>,
        labels: &[String],
        may_doubt: bool,
        width: Option<usize>,
    ) -> Self {
        let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0).min(WIDEST);
        let doubt = if may_doubt { NOT_SURE.len() } else { 0 };
        let label = doubt + widest(&mut labels.iter().map(|label| label.chars().count()));
        let path = widest(&mut paths.map(|path| shown(path).chars().count()));
        match width {
            None => Self { path, label, width },
            Some(all) => {
                let (path, label) = (path.max("file".len()), label.max("label".len()));
                let path = path.min(all.saturating_sub(label + BETWEEN + OTHERS)).max(SHORTEST_PATH.min(path));
                Self { path, label: label.min(all.saturating_sub(path + LEAST)).max(1), width }
            }
        }
    }

    /// What stands above it on a terminal.
    pub(super) fn header(&self) -> Option<String> {
        let (path, label) = (self.path, self.label);
        self.width.map(|_| self.line(format!("{:path$}  {:label$}  {:>6}", "file", "label", "sure"), "or"))
    }

    /// One file.
    pub(super) fn row(&self, path: &Path, outcome: &Outcome) -> String {
        let (path_width, label_width) = (self.path, self.label);
        let path = shown(path);
        match outcome {
            Outcome::Failed { error } => self.failed(&path, &format!("error: {error}")),
            Outcome::Labelled { label, confidence, top, uncertain } => {
                let path = if self.width.is_some() { end_of(&path, path_width) } else { path };
                let label = if *uncertain { format!("{NOT_SURE}{label}") } else { label.clone() };
                let label = self.fitting(label);
                let percent = confidence * 100.0;
                let rest: Vec<String> = top
                    .iter()
                    .skip(1)
                    .map(|Score { label, confidence }| format!("{label} {:.1}", confidence * 100.0))
                    .collect();
                self.line(format!("{path:path_width$}  {label:label_width$}  {percent:5.1}%"), &rest.join(", "))
            }
        }
    }

    /// A file without a label: why is told in full, on a terminal on as many lines as that takes.
    fn failed(&self, path: &str, why: &str) -> String {
        let width = self.path;
        let Some(all) = self.width else { return format!("{path:width$}  {why}\n") };
        let column = width + "  ".len();
        if column + REASON <= all {
            let lines = wrapped(why, all - column);
            let first = format!("{:width$}  {}\n", end_of(path, width), lines[0]);
            return lines[1..].iter().fold(first, |text, line| text + &format!("{:column$}{line}\n", ""));
        }
        let lines = wrapped(why, all.saturating_sub(INDENT));
        lines.iter().fold(end_of(path, all) + "\n", |text, line| text + &format!("{:INDENT$}{line}\n", ""))
    }

    /// As much of a label as leaves room for how sure it is.
    fn fitting(&self, label: String) -> String {
        let Some(width) = self.width else { return label };
        let room = width.saturating_sub(self.path + LEAST).max(1);
        if label.chars().count() <= room {
            return label;
        }
        label.chars().take(room - 1).chain(['…']).collect()
    }

    /// A line that fits: what comes first, and of the rest what there is room for.
    fn line(&self, first: String, rest: &str) -> String {
        let length = first.chars().count();
        let text = match self.width {
            // Of so little there is nothing to be read.
            Some(width) if length + "  or".len() > width => first,
            _ => format!("{first}  {rest}"),
        };
        let text = text.trim_end();
        match self.width {
            Some(width) if text.chars().count() > width => {
                let kept: String = text.chars().take(width.saturating_sub(1)).collect();
                format!("{}…\n", kept.trim_end_matches([' ', ',']))
            }
            _ => format!("{text}\n"),
        }
    }
}

/// A text in lines of at most `width` characters, broken between words or, where one is too long, within it. There is
/// at least one.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let (width, mut lines, mut line, mut length) = (width.max(1), Vec::new(), String::new(), 0);
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + rest.len() > width {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        while rest.len() > width {
            let head = rest.drain(..width).collect();
            lines.push(head);
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        length += rest.len();
        line.extend(rest);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// A path's last characters: its name is at the end.
fn end_of(path: &str, width: usize) -> String {
    let length = path.chars().count();
    if length <= width {
        return path.to_owned();
    }
    std::iter::once('…').chain(path.chars().skip(length + 1 - width.max(1))).collect()
}

/// A path for people: control characters, which could steer the terminal, as question marks.
fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(width: Option<usize>) -> String {
        let labels = ["cat", "airplane"].map(String::from);
        let paths = ["a.jpg", "holiday/2026/beach/IMG_0001.jpg", "b\u{1b}.png"].map(Path::new);
        let table = Table::new(paths.into_iter(), &labels, true, width);
        let scores = |first: f32| {
            ["airplane", "cat"]
                .into_iter()
                .zip([first, 0.99 - first])
                .map(|(label, confidence)| Score { label: label.into(), confidence })
        };
        let outcomes = [
            Outcome::labelled(scores(0.95).collect()).unwrap(),
            Outcome::labelled(scores(0.5).collect()).unwrap().doubted_below(0.6),
            Outcome::Failed { error: "the file is empty".into() },
        ];
        let rows = paths.into_iter().zip(&outcomes).map(|(path, outcome)| table.row(path, outcome));
        table.header().into_iter().chain(rows).collect()
    }

    #[test]
    fn a_pipe_gets_every_word() {
        insta::assert_snapshot!(table(None), @r"
        a.jpg                            airplane             95.0%  cat 4.0
        holiday/2026/beach/IMG_0001.jpg  not sure: airplane   50.0%  cat 49.0
        b?.png                           error: the file is empty
        ");
    }

    #[test]
    fn a_terminal_gets_a_header_and_lines_that_fit() {
        insta::assert_snapshot!(table(Some(60)), @r"
        file            label                 sure  or
        a.jpg           airplane             95.0%  cat 4.0
        …/IMG_0001.jpg  not sure: airplane   50.0%  cat 49.0
        b?.png          error: the file is empty
        ");
        let labels = ["a label of several words".to_owned(), "cat".to_owned()];
        let narrow = Table::new([Path::new("holiday/IMG_0001.jpg")].into_iter(), &labels, false, Some(40));
        let scores =
            labels.iter().zip([0.5, 0.25]).map(|(label, confidence)| Score { label: label.clone(), confidence });
        let row = narrow.row(Path::new("holiday/IMG_0001.jpg"), &Outcome::labelled(scores.collect()).unwrap());
        assert_eq!(row, "…MG_0001.jpg  a label of severa…   50.0%\n", "it says how sure it is");
        for width in [0, 1, 20, 40, 200] {
            let table = table(Some(width));
            // Where there is no room for the indent, there is no table to be read.
            let fits = |line: &str| line.chars().count() <= width.max(1 + INDENT);
            assert!(table.lines().all(fits), "{width}:\n{table}");
        }
    }

    #[test]
    fn why_a_file_has_no_label_is_told_in_full() {
        let path = Path::new("holiday/2026/beach/IMG_0001.jpg");
        let outcome =
            Outcome::Failed { error: "the image is 40000 x 36000 pixels; the limit for a side is 16384".into() };
        let row = |width| Table::new([path].into_iter(), &["airplane".into()], false, width).row(path, &outcome);
        insta::assert_snapshot!(row(None), @r"
        holiday/2026/beach/IMG_0001.jpg  error: the image is 40000 x 36000 pixels; the limit for a side is 16384
        ");
        insta::assert_snapshot!(row(Some(70)), @r"
        holiday/2026/beach/IMG_0001.jpg  error: the image is 40000 x 36000
                                         pixels; the limit for a side is 16384
        ");
        insta::assert_snapshot!(row(Some(30)), @r"
        …liday/2026/beach/IMG_0001.jpg
          error: the image is 40000 x
          36000 pixels; the limit for
          a side is 16384
        ");
        assert_eq!(wrapped("a longword b", 4), ["a", "long", "word", "b"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
