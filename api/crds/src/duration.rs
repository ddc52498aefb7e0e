//! Durations as Gateway API writes them (GEP-2257): `1h30m`, `500ms`; never a float, never negative.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time as Gateway API writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

/// Reads a duration.
///
/// **Shape:** one to four times a number of one to five digits and a unit of `h`, `m`, `s`, `ms`.
///
/// # Errors
/// Any other text.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, DurationError> {
    let refused = || DurationError { text: text.chars().take(64).collect() };
    let mut total_ms: u64 = 0;
    let mut rest = text;
    for part in 0.. {
        if rest.is_empty() && part > 0 {
            break;
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if part == 4 || !(1..=5).contains(&digits) {
            return Err(refused());
        }
        let (number, tail) = rest.split_at(digits);
        let (unit_ms, tail) = unit(tail).ok_or_else(refused)?;
        let number = number.parse::<u64>().ok().ok_or_else(refused)?;
        total_ms += number * unit_ms;
        rest = tail;
    }
    Ok(std::time::Duration::from_millis(total_ms))
}

/// The unit that a text begins with, in milliseconds, and what follows. `ms` is tried before `m`.
fn unit(text: &str) -> Option<(u64, &str)> {
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
        .iter()
        .find_map(|(name, ms)| text.strip_prefix(name).map(|rest| (*ms, rest)))
}

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationError {
    text: String,
}

impl std::error::Error for DurationError {}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a duration such as 500ms, 2s or 1h30m", self.text)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn only_the_gateway_api_form_is_read() {
        for (text, want) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1m1ms", Some(60_001)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("99999h", Some(359_996_400_000)),
            ("", None),
            ("1", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("1d", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("1s ", None),
        ] {
            assert_eq!(parse_duration(text).ok().map(|d| d.as_millis()), want, "{text:?}");
        }
    }
}
