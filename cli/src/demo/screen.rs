//! What the demo shows: lines that stay, and on a terminal one line that is overwritten as figures move.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use crate::terminal::Paint;
use crate::world::Stopwatch;

/// How often a moving figure is shown: to a person, and in a log.
const TERMINAL_EVERY: Duration = Duration::from_millis(100);
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// Widest line that is overwritten: one that wraps could not be.
const WIDTH: usize = 110;

/// Where progress is shown.
pub(super) struct Screen {
    paint: Paint,
    /// Whether lines can be overwritten.
    moving: bool,
    /// Whether the last line is one to be overwritten.
    open: bool,
    begun: Stopwatch,
    shown: Option<Stopwatch>,
}

impl Screen {
    pub(super) fn new(plain: bool) -> Self {
        let paint = if plain { Paint::plain() } else { Paint::for_stdout() };
        let moving = !plain && io::stdout().is_terminal();
        Self { paint, moving, open: false, begun: Stopwatch::start(), shown: None }
    }

    /// A line that stays.
    pub(super) fn say(&mut self, text: &str) {
        let stamp = self.stamp();
        self.line(&format!("{stamp}{text}"));
    }

    /// A line above a table.
    pub(super) fn headline(&mut self, text: &str) {
        let text = self.paint.strong(text);
        self.line("");
        self.line(&text);
    }

    /// A step begins.
    pub(super) fn begin(&mut self, title: &str) {
        let line = format!("{}{}", self.stamp(), self.paint.strong(title));
        self.line(&line);
        self.shown = None;
    }

    /// A figure that moves; shown now and then.
    pub(super) fn progress(&mut self, text: &str) {
        let every = if self.moving { TERMINAL_EVERY } else { PLAIN_EVERY };
        if self.shown.is_some_and(|shown| shown.elapsed() < every) {
            return;
        }
        self.shown = Some(Stopwatch::start());
        if self.moving {
            let text: String = text.chars().take(WIDTH).collect();
            self.write(&format!("\r\x1b[K       {}", self.paint.faint(&text)));
            self.open = true;
        } else {
            self.note(text);
        }
    }

    /// A fact within a step.
    pub(super) fn note(&mut self, text: &str) {
        let stamp = self.stamp();
        self.line(&format!("{stamp}  {text}"));
    }

    /// A step ends.
    pub(super) fn end(&mut self, result: &Result<String, String>) {
        let stamp = self.stamp();
        let line = match result {
            Ok(figures) => format!("{stamp}  {} {figures}", self.paint.good("holds:")),
            Err(reason) => format!("{stamp}  {} {reason}", self.paint.bad("DOES NOT HOLD:")),
        };
        self.line(&line);
    }

    /// A line of the summary.
    pub(super) fn row(&mut self, title: &str, took: Duration, result: &Result<String, String>) {
        let (mark, text) = match result {
            Ok(figures) => (self.paint.good("ok"), figures.as_str()),
            Err(reason) => (self.paint.bad("FAILED"), reason.as_str()),
        };
        let text = text.lines().next().unwrap_or_default();
        self.line(&format!("{title:<44} {:>6.1} s  {mark}  {text}", took.as_secs_f64()));
    }

    /// Lines of logs.
    pub(super) fn log(&mut self, text: &str) {
        self.line(text);
    }

    fn stamp(&self) -> String {
        self.paint.faint(&format!("{:>5.1} ", self.begun.elapsed().as_secs_f64()))
    }

    fn line(&mut self, text: &str) {
        let begin = if self.open { "\r\x1b[K" } else { "" };
        self.open = false;
        self.write(&format!("{begin}{text}\n"));
    }

    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        // With nobody to see it the demo still counts.
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }
}
