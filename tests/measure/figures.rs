//! What was measured, beside its limits.

use std::fmt::Write as _;

/// What a figure must keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// Only told.
    None,
    /// Less than this.
    Below(f64),
    /// At most this.
    Most(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::None => true,
            Self::Below(limit) => value < limit,
            Self::Most(limit) => value <= limit,
        }
    }

    fn show(self) -> String {
        match self {
            Self::None => "-".to_owned(),
            Self::Below(limit) => format!("< {limit:.1}"),
            Self::Most(limit) => format!("<= {limit:.1}"),
        }
    }
}

#[derive(Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    limit: Limit,
    /// Or why there is none.
    value: Result<f64, String>,
}

impl Figure {
    fn verdict(&self) -> &'static str {
        match self.value {
            Err(_) => "MISSING",
            Ok(value) if !self.limit.holds(value) => "EXCEEDED",
            Ok(_) if self.limit == Limit::None => "told",
            Ok(_) => "met",
        }
    }
}

/// All of them, in the order they were measured.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds one, or why it is missing.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        limit: Limit,
        value: anyhow::Result<f64>,
    ) {
        let value = value.map_err(|error| format!("{error:#}").lines().next().unwrap_or_default().to_owned());
        self.0.push(Figure { name: name.into(), unit, limit, value });
    }

    /// Whether all are there and within their limits.
    pub(crate) fn hold(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|figure| matches!(figure.verdict(), "met" | "told"))
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<56} {:>9} {:>10}  {:<6} verdict\n", "figure", "measured", "limit", "unit");
        for figure in &self.0 {
            let Figure { name, unit, limit, value } = figure;
            let value = value.as_ref().map_or_else(|_| "-".to_owned(), |value| format!("{value:.2}"));
            // Writing to a text cannot fail.
            writeln!(text, "{name:<56} {value:>9} {:>10}  {unit:<6} {}", limit.show(), figure.verdict())
                .unwrap_or_default();
            if let Err(why) = &figure.value {
                writeln!(text, "  {why}").unwrap_or_default();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, Limit};

    #[test]
    fn what_is_missing_or_beyond_fails() {
        let with = |limit, value| {
            let mut figures = Figures::default();
            figures.add("x", "MB", limit, value);
            figures.hold()
        };
        assert!(with(Limit::Below(2.0), Ok(1.9)) && with(Limit::Most(2.0), Ok(2.0)) && with(Limit::None, Ok(9.0)));
        assert!(!with(Limit::Below(2.0), Ok(2.0)) && !with(Limit::Most(2.0), Ok(2.1)));
        assert!(!with(Limit::None, Err(anyhow::anyhow!("no"))) && !Figures::default().hold());
    }
}
