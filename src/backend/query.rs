//! What can be asked of the rows, and what is answered: pages in an order, filtered, and counts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

use super::{Error, ErrorKind, Result};
use crate::contract::{Classification, ImageName};

/// An order of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Natural order of names. Rows never move.
    #[default]
    Name,
    /// What was written last comes first.
    Newest,
    /// The least sure comes first; what failed comes last.
    Confidence,
}

/// What is known of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has a label, a sure or an uncertain one.
    Labelled,
    /// It has a label that is uncertain.
    Uncertain,
    /// It could not be classified.
    Failed,
    /// It is stored and has no row yet.
    Waiting,
}

/// Which rows; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// What the store's [`Search`] makes of this text. Not empty.
    pub text: Option<String>,
    /// Exactly this label.
    pub label: Option<String>,
    /// This state. Without one there are all rows, but no images that wait.
    pub state: Option<State>,
    /// In this folder or one below it, such as `2024/cats`.
    pub folder: Option<ImageName>,
}

impl Filter {
    /// Whether all rows are meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a store finds text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    /// Names that hold the text anywhere, and labels that are the text, without regard to case. Such a store has
    /// every order, finds every state, and counts what a filter leaves.
    Substring,
    /// Names that begin with the text, in the folding of natural order: without regard to case, and a number by its
    /// value. Such a store has the order of names alone, finds labels and folders but no states, and counts all rows
    /// alone.
    Prefix,
}

/// A place in an order, by the row that is there.
#[derive(Debug, Clone, PartialEq)]
pub enum Cursor {
    /// In [`Order::Name`]: this name, which need not exist.
    Name(ImageName),
    /// In [`Order::Newest`]: the number of a write.
    Newest(i64),
    /// In [`Order::Confidence`]: this confidence, and among rows with the same one the number of a write.
    Confidence(f32, i64),
}

impl Cursor {
    /// Reads a cursor of this order, as [`Display`](fmt::Display) writes it: the name, or numbers with `:` between
    /// them.
    ///
    /// # Errors
    /// What is wrong with it, for a person to read.
    pub fn parse(order: Order, text: &str) -> Result<Self, String> {
        let number = |text: &str| i64::from_str(text).ok();
        let place = match order {
            Order::Name => return text.parse().map(Self::Name).map_err(|e| format!("{e}")),
            Order::Newest => number(text).map(Self::Newest),
            Order::Confidence => text.split_once(':').and_then(|(confidence, write)| {
                let confidence = f32::from_str(confidence).ok().filter(|c| c.is_finite())?;
                Some(Self::Confidence(confidence, number(write)?))
            }),
        };
        place.ok_or_else(|| format!("{text:?} is no place in this order; take what an answer has as next or previous"))
    }

    /// The order that it is a place of.
    #[must_use]
    pub fn order(&self) -> Order {
        match self {
            Self::Name(_) => Order::Name,
            Self::Newest(_) => Order::Newest,
            Self::Confidence(..) => Order::Confidence,
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Newest(write) => write.fmt(f),
            Self::Confidence(confidence, write) => write!(f, "{confidence}:{write}"),
        }
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<ImageName> for Cursor {
    fn from(name: ImageName) -> Self {
        Self::Name(name)
    }
}

/// Which rows a page shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PageQuery {
    /// Their order.
    pub order: Order,
    /// Rows after this place.
    pub after: Option<Cursor>,
    /// Rows before this place. Not together with `after`.
    pub before: Option<Cursor>,
    /// At most so many rows, 1 to 1000.
    pub limit: usize,
    /// Only these.
    pub filter: Filter,
}

impl PageQuery {
    /// The most rows of one page.
    pub const MAX_LIMIT: usize = 1000;

    /// The place that the page is beside, if any, and whether it comes after it.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for two places, and for one of another order.
    pub(crate) fn place(&self) -> Result<(Option<&Cursor>, bool)> {
        let place = match (&self.after, &self.before) {
            (Some(_), Some(_)) => {
                return Err(Error::new(ErrorKind::Refused, "a page is after a place or before one, not both"));
            }
            (place, None) => (place.as_ref(), true),
            (None, place) => (place.as_ref(), false),
        };
        match place.0 {
            Some(cursor) if cursor.order() != self.order => {
                Err(Error::new(ErrorKind::Refused, "a page is beside a place of its own order"))
            }
            _ => Ok(place),
        }
    }
}

/// A page of rows in the order that was asked for. It has as many as were asked for, or is the last one in its
/// direction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The rows.
    pub results: Vec<Classification>,
    /// Where the filter is [`State::Waiting`]: the images, and there are no rows.
    pub waiting: Vec<ImageName>,
    /// Cursor for `after`, if rows follow.
    pub next: Option<Cursor>,
    /// Cursor for `before`, if rows precede.
    pub previous: Option<Cursor>,
    /// How many rows match the filter, where the store can tell.
    pub matches: Option<Matches>,
}

/// How many rows match a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Matches {
    /// So many.
    pub count: u64,
    /// False if there may be more: counting stops at a thousand.
    pub exact: bool,
}

/// How many images there are of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By state, whichever of them the filter names.
    pub states: StateCounts,
    /// By label, whichever of them the filter names, the most frequent first; at most
    /// [`MAX_COUNTED`](Self::MAX_COUNTED).
    pub labels: Vec<LabelCount>,
    /// The folders in the filter's folder, or the outermost ones, in natural order; at most
    /// [`MAX_COUNTED`](Self::MAX_COUNTED). With a text, a label or a state in the filter, those with what it leaves.
    pub folders: Vec<FolderCount>,
    /// False where the store only sums up what workers counted.
    pub exact: bool,
}

impl Counts {
    /// The most entries of a list.
    pub const MAX_COUNTED: usize = 100;
}

/// Images by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StateCounts {
    /// With a label, uncertain ones included.
    pub labelled: u64,
    /// With an uncertain label; `None` where the store cannot tell.
    pub uncertain: Option<u64>,
    /// That could not be classified.
    pub failed: u64,
    /// Without a row; `None` where the store cannot tell.
    pub waiting: Option<u64>,
}

/// Images with a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelCount {
    /// The label.
    pub label: String,
    /// So many have it.
    pub images: u64,
}

/// Images in a folder and in those below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderCount {
    /// Its whole path, such as `2024/cats`.
    pub folder: ImageName,
    /// So many stored images, or of what the filter leaves; `None` where the store cannot tell.
    pub images: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        for cursor in [
            Cursor::Name("a:1.png".parse().unwrap()),
            Cursor::Newest(-5),
            Cursor::Confidence(0.1 + 0.2, i64::MAX),
            Cursor::Confidence(2.0, 0),
        ] {
            assert_eq!(Cursor::parse(cursor.order(), &cursor.to_string()), Ok(cursor));
        }
        for (order, text) in [
            (Order::Name, "\u{1}"),
            (Order::Newest, "a.png"),
            (Order::Confidence, "0.5"),
            (Order::Confidence, "NaN:1"),
            (Order::Confidence, "0.5:x"),
        ] {
            assert!(Cursor::parse(order, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_page_is_beside_one_place_of_its_order() {
        let query = |order, after: Option<Cursor>, before| PageQuery { order, after, before, ..PageQuery::default() };
        assert_eq!(query(Order::Name, None, None).place().unwrap(), (None, true));
        assert_eq!(
            query(Order::Newest, None, Some(Cursor::Newest(1))).place().unwrap(),
            (Some(&Cursor::Newest(1)), false)
        );
        assert!(query(Order::Newest, Some(Cursor::Newest(1)), Some(Cursor::Newest(2))).place().is_err());
        assert!(query(Order::Name, Some(Cursor::Newest(1)), None).place().is_err());
    }
}
