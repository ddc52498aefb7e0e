//! The three checks of the layout, and no more: the order of the proxy's chapters, the size of files, forbidden crates.

mod flow;
mod lock;
mod size;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// What a check has to say about a place.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Relative to the checkout.
    file: PathBuf,
    line: usize,
    severity: Severity,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:{}: {severity}: {}", self.file.display(), self.line, self.message)
    }
}

/// Checks a checkout and prints every finding.
///
/// # Errors
/// One finding or more is an error, or a file could not be read.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let mut count = 0_usize;
    for file in rust_files(root)? {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("reading {}", file.display()))?;
        findings.extend(size::check(&file, &text));
        if let Ok(module) = file.strip_prefix("proxy/src") {
            findings.extend(flow::check(module, &file, &text));
        }
        count += 1;
    }
    for file in ["Cargo.lock", "fuzz/Cargo.lock"] {
        if root.join(file).is_file() {
            let text = fs::read_to_string(root.join(file)).with_context(|| format!("reading {file}"))?;
            findings.extend(lock::check(Path::new(file), &text));
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if errors > 0 {
        bail!("tidy: {errors} errors in {count} files");
    }
    println!("tidy: {count} files, {} warnings", findings.len());
    Ok(())
}

/// The Rust files of the checkout, relative to it and sorted; what cargo and git keep for themselves is left out.
fn rust_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            let entry = entry.with_context(|| format!("reading {}", directory.display()))?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !name.starts_with('.') && name != "target" {
                    directories.push(path);
                }
            } else if name.ends_with(".rs") {
                found.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The lines before the tests that a file ends with, numbered from 1.
fn lines_without_tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line)).peekable();
    std::iter::from_fn(move || {
        let (number, line) = lines.next()?;
        let tests_follow = line == "#[cfg(test)]"
            && lines.peek().is_some_and(|(_, next)| next.starts_with("mod ") && next.ends_with('{'));
        (!tests_follow).then_some((number, line))
    })
}
