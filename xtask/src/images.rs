//! `cargo xtask images`: Weft's images, as OCI layouts made from static programs by `tests/kubernetes/image.sh`: no engine, no
//! registry, nothing in them but the programs. Three are Weft's; the last is the shop of the examples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::workspace::{Output, TRIPLE, Workspace, check};

/// An image and its programs.
struct Image {
    name: &'static str,
    programs: &'static [&'static str],
    /// As whom it runs where nobody says otherwise.
    user: &'static str,
}

const IMAGES: [Image; 4] = [
    Image { name: "control-plane", programs: &["weft-control-plane", "weft-injector"], user: "65532:65532" },
    Image { name: "proxy", programs: &["weft-proxy", "weft-init"], user: "2140:2140" },
    // Other pods' networks are root's.
    Image { name: "cni", programs: &["weft-cni"], user: "0:0" },
    // What is put into the mesh to try it: which program runs is for each pod to say.
    Image {
        name: "shop",
        programs: &["shop-storefront", "shop-customer", "shop-order", "shop-payment", "shop-product", "shop-user"],
        user: "65532:65532",
    },
];

/// Builds the programs and makes the images. Returns their files.
pub(crate) fn make(workspace: &Workspace, profile: &str) -> anyhow::Result<Vec<PathBuf>> {
    workspace.claim(Output::Static)?;
    let mut cargo = workspace.cargo_static();
    cargo.args(["build", "--profile", profile, "--target", TRIPLE, "--bins"]);
    for program in IMAGES.iter().flat_map(|image| image.programs) {
        // The shop is one package of many programs; of Weft's each is a package.
        cargo.args(["--package", if program.starts_with("shop-") { "shop" } else { program }]);
    }
    check(&mut cargo)?;
    let built = workspace.static_programs(profile);
    let directory = workspace.cache().join("images");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    IMAGES.iter().map(|image| image.make(workspace, &built, &directory)).collect()
}

impl Image {
    fn make(&self, workspace: &Workspace, built: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
        let root = directory.join(format!("{}.root", self.name));
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        }
        fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
        for program in self.programs {
            let (from, to) = (built.join(program), root.join(program));
            check(Command::new("strip").arg("-o").arg(&to).arg(&from))?;
        }
        let file = directory.join(format!("{}.tar", self.name));
        let name = format!("docker.io/weft/{}:{}", self.name, env!("CARGO_PKG_VERSION"));
        let first = self.programs.first().context("an image without a program")?;
        let mut script = Command::new(workspace.root.join("tests/kubernetes/image.sh"));
        script.arg(&file).arg(name).arg(&root).arg(format!("entrypoint=/{first}")).arg(format!("user={}", self.user));
        check(&mut script)?;
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        println!("{}", file.display());
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_makes_the_same_images() {
        let root = crate::workspace::root().unwrap();
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        let (text, toolchain) = (read("deploy/Dockerfile"), read("rust-toolchain.toml"));
        let version = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
        let built = text.split_once(&format!("FROM rust:{version}-bookworm AS build\n")).unwrap().1;
        let (build, stages) = built.split_once("\nFROM ").unwrap();
        let built = build.split_once("for program in ").and_then(|(_, rest)| rest.split_once("; do")).unwrap().0;
        let built: Vec<&str> = built.split_whitespace().filter(|word| *word != "\\").collect();
        let stages: Vec<&str> = stages.split("\nFROM ").collect();
        assert_eq!(stages.len(), IMAGES.len());
        for Image { name, programs, user } in &IMAGES {
            let stage = stages.iter().find(|stage| stage.starts_with(&format!("scratch AS {name}\n"))).unwrap();
            for line in [format!("USER {user}"), format!("ENTRYPOINT [\"/{}\"]", programs[0])] {
                assert!(stage.lines().any(|it| it == line), "{name}: {line}");
            }
            let copied = stage.lines().find_map(|line| line.strip_prefix("COPY --from=build ")?.strip_suffix(" /"));
            let copied: Vec<&str> = copied.unwrap().split(' ').map(|it| it.trim_start_matches("/out/")).collect();
            let put: Vec<&str> = built.iter().copied().filter(|it| copied.iter().any(|word| fits(word, it))).collect();
            assert!(programs.iter().all(|it| put.contains(it)), "{name} lacks some of {programs:?}: {put:?}");
            assert!(put.iter().all(|it| programs.contains(it)), "{name} has more than {programs:?}: {put:?}");
        }
    }

    /// Whether a word of `COPY` means this program.
    fn fits(word: &str, program: &str) -> bool {
        word.strip_suffix('*').map_or(word == program, |start| program.starts_with(start))
    }
}
