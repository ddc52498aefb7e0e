//! One TLS provider, and nothing from outside the registry.

use std::path::Path;

use super::{Finding, Severity};

/// Crates whose name begins so would bring a second TLS provider, or C libraries of the system.
const FORBIDDEN: [&str; 3] = ["aws-lc", "native-tls", "openssl"];

/// Only looks for the system's certificate files; it has no OpenSSL in it but the name.
const HARMLESS: [&str; 1] = ["openssl-probe"];

/// Checks a lock file.
pub(super) fn check(file: &Path, text: &str) -> Vec<Finding> {
    let found = |(index, line): (usize, &str)| {
        let message = refusal(line)?;
        Some(Finding { file: file.to_owned(), line: index + 1, severity: Severity::Error, message })
    };
    text.lines().enumerate().filter_map(found).collect()
}

fn refusal(line: &str) -> Option<String> {
    if let Some(source) = line.strip_prefix("source = \"git+") {
        return Some(format!(
            "a dependency comes from git ({}); only released versions from the registry",
            source.trim_end_matches('"')
        ));
    }
    let name = line.strip_prefix("name = \"")?.trim_end_matches('"');
    let forbidden = FORBIDDEN.iter().any(|prefix| name.starts_with(prefix)) && !HARMLESS.contains(&name);
    forbidden.then(|| {
        format!("{name} is forbidden: ring is the only TLS provider; `cargo tree --invert {name}` tells who brought it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_provider_and_git_are_refused() {
        let text = "[[package]]\nname = \"ring\"\n[[package]]\nname = \"aws-lc-rs\"\n[[package]]\nname = \"openssl-sys\"\n\
                    [[package]]\nname = \"native-tls\"\n[[package]]\nname = \"openssl-probe\"\n[[package]]\nname = \"x\"\nsource = \"git+https://example.com/x\"\n \"aws-lc-rs\",\n";
        let lines: Vec<usize> = check(Path::new("Cargo.lock"), text).into_iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [4, 6, 8, 13]);
    }
}
