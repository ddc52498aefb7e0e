//! Where resources come from. A source tells the index what appeared, changed and went, and keeps the last good version
//! of what it can no longer read; what it tells is the same whatever it reads from.

pub mod directory;
pub(crate) mod kubernetes;

mod typed;
pub(crate) mod yaml;

use std::fmt;
use std::path::PathBuf;

use weft_index::{Object, ObjectKey};

/// A change that a source saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// New, or a new version.
    Apply(Box<Object>),
    /// Gone.
    Delete(ObjectKey),
}

/// What a source saw at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// What changed, in order.
    pub events: Vec<Event>,
    /// Everything that is wrong now: this replaces what was said before.
    pub problems: Vec<FileProblem>,
    /// Whether there is more that was not told yet, as at a start: nothing is known to be absent before the rest is told.
    pub partial: bool,
}

/// Something in a file, or of an API, that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileProblem {
    /// The file, relative to the directory; `kubernetes` where there is none.
    pub file: PathBuf,
    /// Its line, from 1; 0 where the whole file is meant.
    pub line: u64,
    /// The column, from 1; 0 where the whole line is meant.
    pub column: u64,
    /// The field (`spec.ports[0].port`); empty where none is to blame.
    pub field: String,
    /// What is wrong, and what follows.
    pub message: String,
    /// The resource, where that much could be read.
    #[serde(skip)]
    pub object: Option<ObjectKey>,
    /// Whether it is only a document that is for somebody else.
    pub ignored: bool,
}

impl FileProblem {
    /// The file, with the line where one is meant.
    pub(crate) fn place(&self) -> String {
        let file = self.file.display();
        if self.line > 0 { format!("{file}:{}", self.line) } else { file.to_string() }
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place())?;
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}
