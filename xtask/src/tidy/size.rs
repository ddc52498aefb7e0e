//! A file that nobody reads to its end is too long.

use std::path::Path;

use super::{Finding, Severity, lines_without_tests};

/// From here on a file gets a warning.
const WARN_LINES: usize = 500;

/// From here on a file is refused.
const FAIL_LINES: usize = 800;

/// Counts the lines of code of one file: not blank, no comment, not of the tests it ends with. Generated code is nobody's to read.
/// A file of nothing but tests is only warned about: a table of cases may be as long as it needs to be.
pub(super) fn check(file: &Path, text: &str) -> Option<Finding> {
    if file.components().any(|part| part.as_os_str() == "gen") && text.contains("@generated") {
        return None;
    }
    let count = lines_without_tests(text)
        .map(|(_, line)| line.trim())
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count();
    let only_tests = file.file_name().is_some_and(|name| name == "tests.rs");
    let (severity, limit) = match count {
        FAIL_LINES.. if !only_tests => (Severity::Error, FAIL_LINES),
        WARN_LINES.. => (Severity::Warning, WARN_LINES),
        _ => return None,
    };
    let message = format!("{count} lines of code, {limit} or more are too many: split it by the nouns it is about");
    Some(Finding { file: file.to_owned(), line: 1, severity, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severity(file: &str, text: &str) -> Option<Severity> {
        check(Path::new(file), text).map(|finding| finding.severity)
    }

    #[test]
    fn size_is_counted_in_lines_of_code() {
        let cases =
            [(499, None), (500, Some(Severity::Warning)), (799, Some(Severity::Warning)), (800, Some(Severity::Error))];
        for (count, want) in cases {
            assert_eq!(severity("a.rs", &"let a = 1;\n".repeat(count)), want, "{count}");
        }
        assert_eq!(severity("a.rs", &"// Why.\n\n".repeat(900)), None);
    }

    #[test]
    fn tests_and_generated_code_are_spared() {
        let code = "let a = 1;\n".repeat(900);
        assert_eq!(severity("a.rs", &format!("#[cfg(test)]\nmod tests {{\n{code}}}")), None);
        assert_eq!(severity("a/tests.rs", &code), Some(Severity::Warning));
        assert_eq!(severity("api/proto/src/gen/a.rs", &format!("// This file is @generated\n{code}")), None);
        assert_eq!(severity("api/proto/src/gen/a.rs", &code), Some(Severity::Error));
    }
}
