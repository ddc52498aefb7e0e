//! A directory of YAML files, followed as it changes. [`Scanner`] is the whole of the logic and has no thread and no
//! clock; [`follow()`] drives it by inotify, with a rescan now and then for what inotify does not see.
//!
//! What it holds through (semantics 49): one bad document among good ones, files that are written while they are read,
//! renames, symlink swaps (Kubernetes' mounted config maps), editors' temporary files. A resource is only taken out
//! after it was missing for [`GRACE`], so that the gap between the two halves of a rename is not a deletion.

mod files;
mod follow;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use weft_index::{Object, ObjectKey};

use super::yaml::{self, Document};
use super::{Event, FileProblem, Seen};
pub use follow::{Following, follow};

/// How long a resource must be missing before it is gone. An editor that truncates and writes, or removes and renames,
/// is through in far less; a user who deletes waits this long.
pub const GRACE: Duration = Duration::from_millis(300);

/// Reads the directory when told to and says what changed.
#[derive(Debug)]
pub struct Scanner {
    root: PathBuf,
    /// Not read, wherever it lies: our own status files.
    excluded: Option<PathBuf>,
    /// What each file said when it was last read.
    files: BTreeMap<PathBuf, File>,
    /// What was told: the last good version of each resource.
    held: BTreeMap<ObjectKey, Held>,
    /// Since when a resource that was told is nowhere to be found.
    missing: BTreeMap<ObjectKey, Instant>,
}

#[derive(Debug)]
struct File {
    content: Vec<u8>,
    documents: Vec<Document>,
}

#[derive(Debug)]
struct Held {
    object: Box<Object>,
    file: PathBuf,
}

/// What all files together say.
#[derive(Default)]
struct Claims<'a> {
    /// Who says something readable about a resource: file, line, what.
    readable: BTreeMap<ObjectKey, Vec<(&'a Path, u64, &'a Object)>>,
    /// Resources that somebody says something unreadable about.
    unreadable: BTreeSet<ObjectKey>,
    /// Files with a document so bad that it may be about anything.
    torn: BTreeSet<&'a Path>,
    problems: Vec<FileProblem>,
}

impl Scanner {
    /// A scanner that has seen nothing. Files below `excluded` are not read.
    pub fn new(root: &Path, excluded: Option<&Path>) -> Self {
        let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Self {
            root: root.to_owned(),
            excluded: excluded.map(resolved),
            files: BTreeMap::new(),
            held: BTreeMap::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Reads the directory and says what changed.
    ///
    /// **Cost:** reads every file; blocks.
    pub fn scan(&mut self, now: Instant) -> Seen {
        let listing = files::list(&self.root, self.excluded.as_deref());
        let mut problems = listing.problems;
        let complete = problems.is_empty();
        self.read(listing.files, complete, &mut problems);
        let mut claims = claims(&self.files);
        problems.append(&mut claims.problems);
        let wanted = self.wanted(&claims, &mut problems);

        let mut events = Vec::new();
        for (key, (file, object)) in wanted.chosen {
            self.missing.remove(&key);
            let held = self.held.get_mut(&key);
            match held {
                Some(held) if *held.object == object => held.file = file,
                _ => {
                    events.push(Event::Apply(Box::new(object.clone())));
                    self.held.insert(key, Held { object: Box::new(object), file });
                }
            }
        }
        self.take_out(&wanted.kept, complete, now, &mut events);
        problems.sort();
        Seen { events, problems, partial: false }
    }

    /// When a resource that is missing will be gone for good.
    pub fn due(&self) -> Option<Instant> {
        self.missing.values().min().map(|since| *since + GRACE)
    }

    /// Reads what changed. A file that cannot be read keeps what it said.
    fn read(&mut self, paths: BTreeSet<PathBuf>, complete: bool, problems: &mut Vec<FileProblem>) {
        if complete {
            self.files.retain(|path, _| paths.contains(path));
        }
        for path in paths {
            match files::content(&self.root.join(&path)) {
                Ok(Some(content)) if self.files.get(&path).is_some_and(|file| file.content == content) => {}
                Ok(Some(content)) => {
                    let documents = match str::from_utf8(&content) {
                        Ok(text) => yaml::documents(text),
                        Err(error) => vec![not_utf8(&content, error)],
                    };
                    self.files.insert(path, File { content, documents });
                }
                Ok(None) => {
                    self.files.remove(&path);
                }
                Err(message) => problems.push(files::problem(&path, message)),
            }
        }
    }

    /// Chooses what is to be in force.
    fn wanted<'a>(&self, claims: &Claims<'a>, problems: &mut Vec<FileProblem>) -> Wanted {
        let mut wanted = Wanted::default();
        for (key, said) in &claims.readable {
            // Who held the name goes on holding it; among newcomers the first file does.
            let holder = self.held.get(key).map(|held| held.file.as_path());
            let winner = said.iter().find(|(file, _, _)| Some(*file) == holder).or_else(|| said.first());
            let Some((file, line, object)) = winner else { continue };
            wanted.chosen.insert(key.clone(), ((*file).to_owned(), (*object).clone()));
            for (other, other_line, _) in said.iter().filter(|(f, l, _)| (f, l) != (file, line)) {
                let (file, other) = (file.display(), other.display());
                for (at, at_line, verdict) in [
                    (format!("{file}"), *line, format!("also in {other}:{other_line}; this one is in force")),
                    (format!("{other}"), *other_line, format!("also in {file}:{line}; that one is in force")),
                ] {
                    problems.push(FileProblem {
                        file: PathBuf::from(at),
                        line: at_line,
                        column: 0,
                        field: "metadata.name".to_owned(),
                        message: format!("{key} stands twice: {verdict}"),
                        object: Some(key.clone()),
                        ignored: false,
                    });
                }
            }
        }
        let torn = self.held.iter().filter(|(_, held)| claims.torn.contains(held.file.as_path()));
        wanted.kept = torn.map(|(key, _)| key.clone()).chain(claims.unreadable.iter().cloned()).collect();
        wanted.kept.extend(wanted.chosen.keys().cloned());
        wanted
    }

    /// Takes out what nobody has spoken of for long enough.
    fn take_out(&mut self, kept: &BTreeSet<ObjectKey>, complete: bool, now: Instant, events: &mut Vec<Event>) {
        if !complete {
            // Part of the directory cannot be seen: nothing is known to be gone.
            self.missing.clear();
            return;
        }
        self.missing.retain(|key, _| !kept.contains(key));
        for key in self.held.keys().filter(|key| !kept.contains(*key)) {
            self.missing.entry(key.clone()).or_insert(now);
        }
        let gone: Vec<ObjectKey> =
            self.missing.iter().filter(|(_, since)| now >= **since + GRACE).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.missing.remove(&key);
            self.held.remove(&key);
            events.push(Event::Delete(key));
        }
    }
}

/// What is to be in force.
#[derive(Default)]
struct Wanted {
    chosen: BTreeMap<ObjectKey, (PathBuf, Object)>,
    /// Not to be taken out, whether or not there is a new version.
    kept: BTreeSet<ObjectKey>,
}

fn claims(files: &BTreeMap<PathBuf, File>) -> Claims<'_> {
    let mut claims = Claims::default();
    for (path, file) in files {
        for document in &file.documents {
            match &document.read {
                Ok(object) => {
                    claims.readable.entry(object.key()).or_default().push((path, document.line, object));
                }
                Err(error) => {
                    match &error.object {
                        Some(key) => {
                            claims.unreadable.insert(key.clone());
                        }
                        None if !error.foreign => {
                            claims.torn.insert(path);
                        }
                        None => {}
                    }
                    claims.problems.push(FileProblem {
                        file: path.clone(),
                        line: error.line,
                        column: error.column,
                        field: error.field.clone(),
                        message: error.message.clone(),
                        object: error.object.clone(),
                        ignored: error.foreign,
                    });
                }
            }
        }
    }
    claims
}

/// A file of other bytes than text is one bad document.
fn not_utf8(content: &[u8], error: std::str::Utf8Error) -> Document {
    let before = content.get(..error.valid_up_to()).unwrap_or_default();
    let line = 1 + u64::try_from(before.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(0);
    let error = yaml::DocumentError {
        line,
        column: 0,
        field: String::new(),
        message: "not UTF-8".to_owned(),
        object: None,
        foreign: false,
    };
    Document { line, read: Err(error) }
}

#[cfg(test)]
mod tests;
