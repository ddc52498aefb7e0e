use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Event, GRACE, Scanner, follow};
use crate::source::Seen;

/// A directory, its scanner, and a clock that only moves by hand.
struct World {
    dir: TempDir,
    scanner: Scanner,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let scanner = Scanner::new(dir.path(), None);
        Self { dir, scanner, now: Instant::now() }
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.path().join(file)).unwrap();
    }

    fn scan(&mut self) -> Seen {
        self.scanner.scan(self.now)
    }

    /// Scans twice, with the grace between.
    fn scan_long(&mut self) -> Seen {
        let mut first = self.scan();
        self.now += GRACE;
        let second = self.scan();
        first.events.extend(second.events);
        Seen { events: first.events, ..second }
    }
}

fn workload(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {{address: {address}}}\n"
    )
}

/// `+name` for what came or changed, `-name` for what went.
fn told(seen: &Seen) -> Vec<String> {
    seen.events
        .iter()
        .map(|event| match event {
            Event::Apply(object) => format!("+{}", object.key().name),
            Event::Delete(key) => format!("-{}", key.name),
        })
        .collect()
}

fn problems(seen: &Seen) -> Vec<String> {
    seen.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn files_are_read_recursively_and_only_changes_are_told() {
    let mut world = World::new();
    world.write("a.yaml", &(workload("a", "10.0.0.1") + &workload("b", "10.0.0.2")));
    world.write("deep/er/c.yml", &workload("c", "10.0.0.3"));
    world.write("readme.txt", "not: [yaml");
    assert_eq!(told(&world.scan()), ["+a", "+b", "+c"]);
    assert_eq!(told(&world.scan()), [""; 0]);
    world.write("a.yaml", &(workload("a", "10.0.0.9") + &workload("b", "10.0.0.2")));
    assert_eq!(told(&world.scan()), ["+a"]);
}

#[test]
fn what_stops_parsing_keeps_its_last_good_version() {
    let mut world = World::new();
    world.write("a.yaml", &(workload("a", "10.0.0.1") + &workload("b", "10.0.0.2")));
    world.scan();
    world.write("a.yaml", &(workload("a", "[10.0.0.1") + &workload("b", "10.0.0.3")));
    let seen = world.scan_long();
    assert_eq!(told(&seen), ["+b"], "the good one moves on, the bad one stays");
    assert_eq!(seen.problems.len(), 1);
    assert_eq!(seen.problems[0].file, Path::new("a.yaml"));
    assert!(seen.problems[0].line >= 5, "{:?}", seen.problems);

    world.write("a.yaml", &(workload("a", "10.0.0.1\n  oops: 1") + &workload("b", "10.0.0.3")));
    world.write("a.yaml", &(workload("a", "10.0.0.1, oops: 1") + &workload("b", "10.0.0.3")));
    let seen = world.scan_long();
    assert_eq!(told(&seen), [""; 0]);
    assert_eq!(problems(&seen).len(), 1);
    assert!(problems(&seen)[0].contains("a.yaml:5:") && problems(&seen)[0].contains("spec.oops"), "{seen:?}");

    world.write("a.yaml", &(workload("a", "10.0.0.4") + &workload("b", "10.0.0.3")));
    let seen = world.scan();
    assert_eq!((told(&seen), seen.problems.len()), (vec!["+a".to_owned()], 0));
}

#[test]
fn a_resource_is_gone_only_after_the_grace() {
    let mut world = World::new();
    world.write("a.yaml", &workload("a", "10.0.0.1"));
    world.scan();
    world.remove("a.yaml");
    assert_eq!(told(&world.scan()), [""; 0]);
    assert_eq!(world.scanner.due(), Some(world.now + GRACE));
    world.write("renamed.yaml", &workload("a", "10.0.0.1"));
    assert_eq!(told(&world.scan_long()), [""; 0], "it was only a rename");
    world.write("renamed.yaml", "");
    assert_eq!(told(&world.scan()), [""; 0], "a file that was truncated to be written");
    world.write("renamed.yaml", &workload("a", "10.0.0.2"));
    assert_eq!(told(&world.scan_long()), ["+a"]);
    world.remove("renamed.yaml");
    assert_eq!(told(&world.scan_long()), ["-a"]);
    assert_eq!(world.scanner.due(), None);
}

#[test]
fn one_name_in_two_files_is_an_error_that_names_both() {
    let mut world = World::new();
    world.write("b.yaml", &workload("a", "10.0.0.1"));
    world.scan();
    world.write("a.yaml", &workload("a", "10.0.0.2"));
    let seen = world.scan();
    assert_eq!(told(&seen), [""; 0], "who held the name holds it still");
    assert_eq!(seen.problems.len(), 2);
    for problem in problems(&seen) {
        assert!(problem.contains("a.yaml:1") && problem.contains("b.yaml:1"), "{problem}");
    }
    world.remove("b.yaml");
    let seen = world.scan();
    assert_eq!((told(&seen), seen.problems.len()), (vec!["+a".to_owned()], 0), "the other takes over");
    world.write("a.yaml", &(workload("x", "10.0.0.2") + &workload("x", "10.0.0.3")));
    assert_eq!(world.scan().problems.len(), 2, "twice in one file too");
}

#[test]
fn a_symlink_swap_is_one_change() {
    let mut world = World::new();
    world.write("..v1/a.yaml", &(workload("a", "10.0.0.1") + &workload("b", "10.0.0.1")));
    world.write("..v2/a.yaml", &(workload("a", "10.0.0.2") + &workload("b", "10.0.0.1")));
    let root = world.dir.path().to_owned();
    symlink("..v1", root.join("..data")).unwrap();
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    assert_eq!(told(&world.scan()), ["+a", "+b"]);
    symlink("..v2", root.join("..tmp")).unwrap();
    fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    assert_eq!(told(&world.scan_long()), ["+a"]);
    symlink(&root, root.join("loop")).unwrap();
    let seen = world.scan_long();
    assert!(seen.problems.iter().any(|p| p.message.contains("directories deep")), "a loop ends");
}

#[test]
fn editors_leave_no_trace() {
    let mut world = World::new();
    world.write("a.yaml", &workload("a", "10.0.0.1"));
    for name in [".a.yaml.swp", ".#a.yaml", "a.yaml~", "#a.yaml#", "4913", ".git/x.yaml"] {
        world.write(name, &workload("ghost", "10.0.0.9"));
    }
    let seen = world.scan();
    assert_eq!((told(&seen), seen.problems.len()), (vec!["+a".to_owned()], 0));
}

#[test]
fn the_status_directory_is_not_read() {
    let dir = TempDir::new().unwrap();
    let status = dir.path().join("status");
    fs::create_dir(&status).unwrap();
    fs::write(status.join("x.yaml"), workload("ghost", "10.0.0.9")).unwrap();
    assert!(Scanner::new(dir.path(), Some(&status)).scan(Instant::now()).events.is_empty());
}

#[test]
fn a_directory_that_is_away_takes_nothing_with_it() {
    let mut world = World::new();
    world.write("a.yaml", &workload("a", "10.0.0.1"));
    world.scan();
    let away = world.dir.path().with_extension("away");
    fs::rename(world.dir.path(), &away).unwrap();
    let seen = world.scan_long();
    assert_eq!((told(&seen).len(), seen.problems.len()), (0, 1));
    fs::rename(&away, world.dir.path()).unwrap();
    assert_eq!(told(&world.scan_long()), [""; 0]);
}

#[test]
fn bytes_and_sizes_that_are_no_yaml_are_told() {
    let mut world = World::new();
    fs::write(world.dir.path().join("a.yaml"), b"kind: x\nname: \xff\n").unwrap();
    fs::write(world.dir.path().join("b.yaml"), vec![b'#'; 5 * 1024 * 1024]).unwrap();
    world.write("c.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n");
    let seen = world.scan();
    assert_eq!(seen.problems.len(), 3, "{seen:?}");
    assert_eq!((seen.problems[0].line, seen.problems[0].message.as_str()), (2, "not UTF-8"));
    assert!(seen.problems[2].ignored);
}

#[tokio::test]
async fn changes_are_followed() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.yaml"), workload("a", "10.0.0.1")).unwrap();
    let (sender, mut seen) = mpsc::channel(4);
    let following = follow(dir.path(), None, sender).unwrap();
    assert_eq!(told(&seen.recv().await.unwrap()), ["+a"]);
    fs::create_dir(dir.path().join("new")).unwrap();
    fs::write(dir.path().join("new/b.yaml"), workload("b", "10.0.0.2")).unwrap();
    assert_eq!(told(&seen.recv().await.unwrap()), ["+b"]);
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(told(&seen.recv().await.unwrap()), ["-a"]);
    tokio::task::spawn_blocking(move || drop(following)).await.unwrap();
    assert!(seen.recv().await.is_none(), "its thread is gone");
}
