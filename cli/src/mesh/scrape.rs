//! What a proxy says about itself at `/metrics`, read back: Prometheus' text and OpenMetrics alike.

use std::collections::BTreeMap;

use anyhow::Context as _;

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    samples: Vec<Sample>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label's value; empty where there is no such label, as Prometheus has it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Its value, where it counts something.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counters are whole and never negative"
    )]
    pub fn count(&self) -> u64 {
        self.value as u64
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

impl Scrape {
    /// Reads a page. A line that is not understood is an error: half a scrape would be a wrong figure.
    ///
    /// # Errors
    /// The line.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("not a sample: {line:?}")));
        Ok(Self { samples: samples.collect::<anyhow::Result<_>>()? })
    }

    /// The samples of a metric that have these labels.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name && sample.has(labels))
    }

    /// The sum of those.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|sample| sample.value).sum()
    }

    /// The sum of those as a count.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.select(name, labels).map(Sample::count).sum()
    }

    /// The one sample of a metric without labels.
    ///
    /// # Errors
    /// There is none: a misspelt name must not read as zero.
    pub fn value(&self, name: &str) -> anyhow::Result<f64> {
        let found = self.samples.iter().find(|sample| sample.name == name && sample.labels.is_empty());
        found.map(|sample| sample.value).with_context(|| format!("the scrape has no {name}"))
    }

    /// What was counted between an earlier scrape and this one. Series that began anew count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before: BTreeMap<_, _> =
            earlier.samples.iter().map(|sample| ((&sample.name, &sample.labels), sample.value)).collect();
        let samples = self.samples.iter().map(|sample| {
            let old = before.get(&(&sample.name, &sample.labels)).copied().unwrap_or_default();
            let grown = if sample.value >= old { sample.value - old } else { sample.value };
            Sample { value: grown, ..sample.clone() }
        });
        Self { samples: samples.collect() }
    }
}

/// `name{label="value",…} number`, and whatever follows the number.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(end)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(name.to_owned(), value);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// A text up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return text.split_at_checked(at + 1).map(|(_, rest)| (value, rest)),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Scrape;

    const PAGE: &str = "# HELP a Things.\n# TYPE a counter\na_total{way=\"in\",who=\"x\"} 3\na_total{way=\"out\",who=\"y \\\"{}\\\" \\\\ z\"} 4\n\
                        b 1.5e3\nc_bucket{le=\"+Inf\"} 7 # {trace_id=\"ab\"} 0.1 12.5\n# EOF\n";

    #[test]
    fn a_page_is_read_back() {
        let page = Scrape::parse(PAGE).unwrap();
        assert_eq!(page.count("a_total", &[]), 7);
        assert_eq!(page.count("a_total", &[("way", "in")]), 3);
        assert_eq!(page.select("a_total", &[("way", "out")]).next().unwrap().label("who"), "y \"{}\" \\ z");
        assert_eq!(page.value("b").unwrap(), 1500.0);
        assert_eq!(page.count("c_bucket", &[("le", "+Inf"), ("absent", "")]), 7);
        assert!(page.value("d").is_err());
    }

    #[test]
    fn half_a_line_is_an_error() {
        for line in ["a", "a{", "a{b=\"c} 1", "a{b=\"c\"} x", "a{b} 1"] {
            assert!(Scrape::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_difference_survives_a_restart() {
        let earlier = Scrape::parse("a 5\nb 9\n").unwrap();
        let later = Scrape::parse("a 8\nb 2\nc 1\n").unwrap().since(&earlier);
        assert_eq!(later, Scrape::parse("a 3\nb 2\nc 1\n").unwrap());
    }
}
