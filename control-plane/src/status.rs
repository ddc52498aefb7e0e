//! Status files: one JSON file per resource and one for what of the source cannot be taken. Each is replaced at once and
//! only when what it says has changed; a resource that is gone takes its file with it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use weft_index::Kind;
use weft_runtime::drain::Drain;

use crate::hub::{Hub, Report};

/// How long news is collected before files are written: a rollout is one write per resource, not one per
/// acknowledgement.
pub(crate) const COLLECT: Duration = Duration::from_millis(100);

/// At most this share of the time goes into status: in a large mesh where something changes all the time it comes less often.
pub(crate) const SHARE_MAX: u32 = 10;

/// What of the source cannot be taken.
const PROBLEMS: &str = "problems.json";

/// A directory of status files.
#[derive(Debug)]
pub struct StatusDir {
    path: PathBuf,
    /// What stands in each file, as far as we wrote it.
    written: BTreeMap<String, String>,
}

impl StatusDir {
    /// Makes the directory. What earlier processes left there is replaced or removed at the first write.
    ///
    /// # Errors
    /// It cannot be made or listed.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let mut written = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_ours(name)) {
                // Empty is what no status says, so that it is written anew.
                written.insert(name.to_owned(), String::new());
            }
        }
        Ok(Self { path: path.to_owned(), written })
    }

    /// Makes the files say what the report says. Returns how many changed.
    ///
    /// # Errors
    /// The first file that cannot be written or removed; the next call tries again.
    pub fn write(&mut self, report: &Report) -> io::Result<usize> {
        let mut wanted = BTreeMap::from([(PROBLEMS.to_owned(), text(&report.files)?)]);
        for resource in &report.resources {
            let kind = resource.kind.to_ascii_lowercase();
            wanted.insert(format!("{kind}.{}.{}.json", resource.namespace, resource.name), text(resource)?);
        }
        let mut changed = 0;
        let gone: Vec<String> = self.written.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            match fs::remove_file(self.path.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.written.remove(&name),
            };
            changed += 1;
        }
        for (name, text) in wanted {
            if self.written.get(&name) != Some(&text) {
                self.replace(&name, &text)?;
                self.written.insert(name, text);
                changed += 1;
            }
        }
        Ok(changed)
    }

    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        // Hidden, so that nobody reads it before it is whole.
        let temporary = self.path.join(format!(".{name}.tmp"));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, self.path.join(name))
    }
}

/// Keeps the files up to date until the drain is over.
pub(crate) async fn keep(mut dir: StatusDir, hub: Arc<Hub>, drain: Drain) {
    let mut news = hub.news();
    loop {
        let (begun, reporting) = (Instant::now(), Arc::clone(&hub));
        let written = tokio::task::spawn_blocking(move || (dir.write(&reporting.report()), dir)).await;
        let Ok((outcome, back)) = written else { return };
        let took = begun.elapsed();
        dir = back;
        if let Err(error) = outcome {
            tracing::warn!(%error, path = %dir.path.display(), "status cannot be written");
        }
        // Nothing is lost in either arm: news counts up, and the end is the end.
        tokio::select! {
            () = drain.cut() => return,
            changed = news.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(COLLECT.max(took * (SHARE_MAX - 1))).await;
        news.mark_unchanged();
    }
}

/// Whether a file has the name of a status: nothing else in the directory is touched.
fn is_ours(name: &str) -> bool {
    let kind = name.split('.').next().unwrap_or_default();
    let known = Kind::ALL.iter().any(|known| known.as_str().eq_ignore_ascii_case(kind));
    name == PROBLEMS || (known && name.ends_with(".json") && name.split('.').count() >= 4)
}

fn text(value: &impl Serialize) -> io::Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tempfile::TempDir;

    use super::StatusDir;
    use crate::hub::{Report, ResourceReport};

    fn report(names: &[&str]) -> Report {
        let resource = |name: &&str| ResourceReport {
            kind: "Workload",
            namespace: "shop".to_owned(),
            name: (*name).to_owned(),
            version: 1,
            generation: None,
            is_newest: true,
            accepted: true,
            resolved_refs: true,
            problems: Vec::new(),
            proxies: "0/0 proxies".to_owned(),
            proxies_running: 0,
            proxies_concerned: 0,
            refused_by: Vec::new(),
        };
        Report { resources: names.iter().map(resource).collect(), ..Report::default() }
    }

    #[test]
    fn files_are_replaced_only_on_change_and_go_with_their_resource() {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("workload.shop.old.json"), "{}").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let mut status = StatusDir::open(dir.path()).unwrap();
        assert_eq!(status.write(&report(&["a", "b"])).unwrap(), 4, "two, the problems, and one is gone");
        assert!(!dir.path().join("workload.shop.old.json").exists());
        assert!(dir.path().join("notes.txt").exists());
        let inode = || std::fs::metadata(dir.path().join("workload.shop.a.json")).unwrap().ino();
        let before = inode();
        assert_eq!(status.write(&report(&["a"])).unwrap(), 1);
        assert_eq!(inode(), before);
        let text = std::fs::read_to_string(dir.path().join("workload.shop.a.json")).unwrap();
        assert!(text.contains("\"proxies\": \"0/0 proxies\""), "{text}");
    }
}
