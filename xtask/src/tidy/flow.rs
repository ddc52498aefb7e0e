//! Inside `proxy/src` a connection flows one way: no chapter uses a later one.

use std::path::Path;

use super::{Finding, Severity, lines_without_tests};

/// The chapters in the order of the story. `record` travels with the story, so everybody may use it.
const CHAPTERS: [&str; 9] =
    ["accept", "resolve", "detect", "route", "admit", "balance", "connect", "forward", "record"];

/// The two stories, which use all chapters, and which only the wiring may use.
const STORIES: [&str; 2] = ["outbound", "inbound"];

/// Who may use the stories, besides each itself.
const WIRING: &str = "app";

/// Checks the `use crate::…` lines of one file; `module` is its path below `proxy/src`.
pub(super) fn check(module: &Path, file: &Path, text: &str) -> Vec<Finding> {
    let first =
        module.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    let own = first.trim_end_matches(".rs");
    let found = |(line, used): (usize, String)| {
        let message = refusal(own, &used)?;
        Some(Finding { file: file.to_owned(), line, severity: Severity::Error, message })
    };
    uses(text).into_iter().filter_map(found).collect()
}

fn refusal(own: &str, used: &str) -> Option<String> {
    if STORIES.contains(&used) && own != used && own != WIRING {
        return Some(format!("`{own}` uses the story `{used}`, which only `{WIRING}` may"));
    }
    let position = |name: &str| CHAPTERS.iter().position(|chapter| *chapter == name);
    let (here, there) = (position(own)?, position(used)?);
    (there > here && used != "record")
        .then(|| format!("`{own}` uses `{used}`, a later chapter; the order is {}", CHAPTERS.join(" ")))
}

/// The modules named right after `use crate::`, each with the line it stands in; tests at the end of the file do not count.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = lines_without_tests(text);
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start();
        let line = line.strip_prefix("pub").map_or(line, |rest| rest.trim_start_matches(|c| c != 'u'));
        let Some(rest) = line.strip_prefix("use crate::") else { continue };
        if !rest.starts_with('{') {
            found.push((number, first_word(rest)));
            continue;
        }
        // A group may span lines; only names at its outermost depth are modules of ours.
        let mut depth = 0_usize;
        let mut at_name = false;
        let mut current = (number, rest);
        'group: loop {
            for (offset, c) in current.1.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    ';' => break 'group,
                    _ => {}
                }
                if depth == 1 && (c == '{' || c == ',') {
                    at_name = true;
                } else if at_name && (c.is_alphanumeric() || c == '_') {
                    found.push((current.0, first_word(current.1.get(offset..).unwrap_or_default())));
                    at_name = false;
                }
            }
            match lines.next() {
                Some(next) => current = next,
                None => break,
            }
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(module: &str, text: &str) -> Vec<usize> {
        check(Path::new(module), Path::new("proxy/src/x.rs"), text).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_later_chapter_is_refused_and_the_rest_is_not() {
        let cases: &[(&str, &str, &[usize])] = &[
            ("route.rs", "use crate::connect::Connected;", &[1]),
            (
                "route.rs",
                "use crate::detect::Detected;\nuse crate::record::Record;\nuse crate::error::Reason;\nuse crate::io::Io;",
                &[],
            ),
            ("route/http.rs", "//! x\n\npub(crate) use crate::balance::pick;", &[3]),
            ("record/metrics.rs", "use crate::accept::Accepted;", &[]),
            ("connect.rs", "use crate::inbound::Inbound;", &[1]),
            ("inbound.rs", "use crate::outbound::Outbound;\nuse crate::forward::tcp;", &[1]),
            ("app.rs", "use crate::outbound::Outbound;\nuse crate::inbound::Inbound;", &[]),
            ("config.rs", "use crate::forward::tcp;", &[]),
        ];
        for (module, text, want) in cases {
            assert_eq!(&lines(module, text), want, "{module}: {text}");
        }
    }

    #[test]
    fn a_group_over_several_lines_is_read_name_by_name() {
        let text = "use crate::{\n    detect::{connect, Detected},\n    error::Reason, forward::tcp,\n    record,\n};\nuse std::io;";
        assert_eq!(lines("detect.rs", text), [3]);
    }

    #[test]
    fn tests_at_the_end_may_use_what_they_like() {
        assert!(lines("accept.rs", "#[cfg(test)]\nmod tests {\n    use crate::forward::tcp;\n}").is_empty());
    }

    #[test]
    fn the_message_names_both_chapters() {
        let finding = check(Path::new("detect.rs"), Path::new("proxy/src/detect.rs"), "use crate::route;").remove(0);
        assert!(
            finding.to_string().starts_with("proxy/src/detect.rs:1: error: `detect` uses `route`, a later chapter"),
            "{finding}"
        );
    }
}
