//! Colours, where somebody can see them.

use std::io::IsTerminal as _;

/// Paints text, or leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    colours: bool,
}

/// Whether somebody wants colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    /// Also where the output goes into a file.
    Always,
    /// On a terminal.
    #[default]
    Auto,
    /// Nowhere.
    Never,
}

impl Paint {
    /// As it is wanted.
    pub(crate) fn when(colour: Colour) -> Self {
        match colour {
            Colour::Always => Self { colours: true },
            Colour::Auto => Self::for_stdout(),
            Colour::Never => Self::plain(),
        }
    }

    /// Colours only on a terminal that was not asked to do without (no-color.org), and can.
    pub(crate) fn for_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { colours: std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// Without colours.
    pub(crate) const fn plain() -> Self {
        Self { colours: false }
    }

    /// What holds.
    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What holds, and is odd.
    pub(crate) fn odd(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// What does not.
    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// What matters.
    pub(crate) fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What can be passed over.
    pub(crate) fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::Paint;

    #[test]
    fn plain_text_stays_plain() {
        assert_eq!(Paint::plain().bad("no"), "no");
        assert_eq!(Paint { colours: true }.good("ok"), "\x1b[32mok\x1b[0m");
    }
}
