use tempfile::TempDir;

use super::*;

const LIST: &str = "{\"cniVersion\": \"1.0.0\",   \"name\": \"pods\", \"plugins\": [{\"type\": \"bridge\"}]}";
const LONE: &str = "{\"cniVersion\": \"0.3.1\", \"name\": \"pods\", \"type\": \"bridge\"}";

/// A node with these configurations.
fn host(files: &[(&str, &str)]) -> (TempDir, Host) {
    let directory = tempfile::tempdir().unwrap();
    let host = Host { programs: directory.path().join("bin"), configurations: directory.path().join("net.d") };
    fs::create_dir(&host.programs).unwrap();
    fs::create_dir(&host.configurations).unwrap();
    for (name, text) in files {
        fs::write(host.configurations.join(name), text).unwrap();
    }
    (directory, host)
}

fn text(host: &Host, file: &str) -> String {
    fs::read_to_string(host.configurations.join(file)).unwrap()
}

/// The files that runtimes look at.
fn seen(host: &Host) -> Vec<String> {
    host.configurations().unwrap().into_iter().map(|(file, _)| file).collect()
}

fn joined(file: &str, is_new: bool) -> Joined {
    Joined { file: file.to_owned(), is_new }
}

#[test]
fn the_first_chain_has_us_until_we_part_and_is_then_as_it_was() {
    let (_directory, host) = host(&[("10-pods.conflist", LIST), ("20-other.conflist", LIST), ("00-note.txt", "{")]);
    assert_eq!(host.join().unwrap(), joined("10-pods.conflist", true));
    assert!(text(&host, "10-pods.conflist").contains(PLUGIN));
    assert_eq!(text(&host, "20-other.conflist"), LIST);
    assert_eq!(host.join().unwrap(), joined("10-pods.conflist", false));
    assert_eq!(host.part().unwrap(), ["10-pods.conflist"]);
    assert_eq!(text(&host, "10-pods.conflist"), LIST, "to the letter");
    assert_eq!(host.files().unwrap(), ["00-note.txt", "10-pods.conflist", "20-other.conflist"]);
    assert_eq!(host.part().unwrap(), [""; 0]);
}

#[test]
fn a_lone_plugin_becomes_a_chain_and_comes_back() {
    for (file, list) in [("10-pods.conf", "10-pods.conflist"), ("10-pods.json", "10-pods.conflist")] {
        let (_directory, host) = host(&[(file, LONE)]);
        assert_eq!(host.join().unwrap(), joined(list, true));
        assert_eq!(seen(&host), [list]);
        assert_eq!(host.join().unwrap(), joined(list, false));
        // Its owner writes it again, which puts it before ours.
        fs::write(host.configurations.join(file), LONE).unwrap();
        assert!(host.join().unwrap().file == list && seen(&host) == [list], "{file}");
        host.part().unwrap();
        assert_eq!((host.files().unwrap(), text(&host, file)), (vec![file.to_owned()], LONE.to_owned()));
    }
}

#[test]
fn a_configuration_that_its_owner_rewrites_gets_us_back() {
    let (_directory, host) = host(&[("10-pods.conflist", LIST)]);
    host.join().unwrap();
    let newer = LIST.replace("bridge", "ptp");
    fs::write(host.configurations.join("10-pods.conflist"), &newer).unwrap();
    assert_eq!(host.join().unwrap(), joined("10-pods.conflist", true));
    host.part().unwrap();
    assert_eq!(text(&host, "10-pods.conflist"), newer);
    // And one that comes before it.
    host.join().unwrap();
    fs::write(host.configurations.join("05-new.conflist"), LIST).unwrap();
    assert_eq!(host.join().unwrap(), joined("05-new.conflist", true));
    assert_eq!(host.part().unwrap(), ["05-new.conflist", "10-pods.conflist"]);
    assert_eq!((text(&host, "05-new.conflist"), text(&host, "10-pods.conflist")), (LIST.to_owned(), newer));
}

#[test]
fn what_somebody_changed_around_us_is_kept() {
    let (_directory, host) = host(&[("10-pods.conflist", LIST)]);
    host.join().unwrap();
    let edited = text(&host, "10-pods.conflist").replace("bridge", "ptp");
    fs::write(host.configurations.join("10-pods.conflist"), edited).unwrap();
    host.part().unwrap();
    let left = text(&host, "10-pods.conflist");
    assert!(left.contains("ptp") && !left.contains(PLUGIN), "{left}");
    assert_eq!(host.files().unwrap(), ["10-pods.conflist"]);
}

#[test]
fn permissions_stay() {
    let (_directory, host) = host(&[("10-pods.conflist", LIST)]);
    let path = host.configurations.join("10-pods.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    host.join().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_cannot_be_joined_is_told_and_left_as_it_is() {
    let (_directory, none) = host(&[("README", "")]);
    assert!(matches!(none.join(), Err(HostError::None(_))));
    let (_directory, half) = host(&[("10-pods.conflist", "{\"cniVersion\":"), ("20-other.conflist", LIST)]);
    assert!(matches!(half.join(), Err(HostError::Chain { file, .. }) if file == "10-pods.conflist"));
    assert_eq!(text(&half, "20-other.conflist"), LIST);
    let (_directory, both) = host(&[("10-pods.conf", LONE), ("10-pods.conflist", LIST)]);
    assert!(matches!(both.join(), Err(HostError::Ambiguous { .. })));
    assert_eq!((text(&both, "10-pods.conf"), text(&both, "10-pods.conflist")), (LONE.to_owned(), LIST.to_owned()));
}

#[test]
fn the_program_is_put_in_place_once_for_each_version() {
    let (directory, host) = host(&[]);
    let program = directory.path().join("program");
    fs::write(&program, "one").unwrap();
    assert!(host.put_program(&program).unwrap());
    assert!(!host.put_program(&program).unwrap());
    fs::write(&program, "two").unwrap();
    assert!(host.put_program(&program).unwrap());
    let put = host.programs.join(PLUGIN);
    assert_eq!(fs::read_to_string(&put).unwrap(), "two");
    assert_eq!(fs::metadata(&put).unwrap().permissions().mode() & 0o777, 0o755);
}
