//! Which files there are, and what is in them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::FileProblem;

/// Directories within directories, symlinks included: a loop ends here.
const DEPTH_MAX: usize = 16;

/// Files of one directory tree; beyond it somebody has pointed us at the wrong place.
const FILES_MAX: usize = 10_000;

/// Bytes of one file: several times what etcd would take as one resource.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a directory tree holds.
pub(super) struct Listing {
    /// Relative to the root.
    pub(super) files: BTreeSet<PathBuf>,
    /// What could not be looked into.
    pub(super) problems: Vec<FileProblem>,
}

/// Lists the YAML and JSON files of a tree, following symlinks, without hidden ones (editors', version control's,
/// Kubernetes' `..data`) and without what lies below `excluded`.
pub(super) fn list(root: &Path, excluded: Option<&Path>) -> Listing {
    let mut listing = Listing { files: BTreeSet::new(), problems: Vec::new() };
    walk(root, Path::new(""), excluded, 0, &mut listing);
    listing
}

fn walk(root: &Path, relative: &Path, excluded: Option<&Path>, depth: usize, listing: &mut Listing) {
    let here = root.join(relative);
    if excluded.is_some_and(|excluded| here.canonicalize().is_ok_and(|here| here.starts_with(excluded))) {
        return;
    }
    let entries = match fs::read_dir(&here) {
        Ok(entries) => entries,
        // Between listing it and looking into it a directory may go; the root may not.
        Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
        Err(error) => return listing.problems.push(problem(relative, format!("cannot be listed: {error}"))),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return listing.problems.push(problem(relative, format!("cannot be listed: {error}"))),
        };
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = relative.join(&name);
        // Follows symlinks; one that leads nowhere is being swapped, or is an editor's lock.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            if depth >= DEPTH_MAX {
                listing.problems.push(problem(&path, format!("more than {DEPTH_MAX} directories deep; not read")));
            } else {
                walk(root, &path, excluded, depth + 1, listing);
            }
        } else if metadata.is_file() && is_ours(&path) {
            if listing.files.len() >= FILES_MAX {
                return listing.problems.push(problem(&path, format!("more than {FILES_MAX} files; not read")));
            }
            listing.files.insert(path);
        }
    }
}

fn is_ours(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
}

/// The bytes of a file; `None` where it has just gone.
pub(super) fn content(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(|error| format!("cannot be read: {error}"))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes; not read"));
    }
    Ok(Some(content))
}

/// Something about a whole file.
pub(super) fn problem(path: &Path, message: String) -> FileProblem {
    let file = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
    FileProblem { file, line: 0, column: 0, field: String::new(), message, object: None, ignored: false }
}
