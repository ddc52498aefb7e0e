//! Logs: set up once by `main`, changed at run time through [`LogLevel`]. Metrics and traces are not made here: each
//! process has its own.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::Live;

/// The longest filter that is read, in bytes; a filter is compared at every new log site.
const FILTER_BYTES_MAX: usize = 1024;

/// How log lines look. They go to stderr; stdout belongs to the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people; in colour on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(TelemetryError::Format),
        }
    }
}

/// Why logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Logs were set up before.
    #[error("logs are already set up")]
    AlreadySet(#[source] TryInitError),
    /// The filter was not understood.
    #[error("log filter not understood")]
    Filter(#[source] ParseError),
    /// The format is not known.
    #[error("expected a log format: text or json")]
    Format,
    /// The subscriber behind a [`LogLevel`] is gone.
    #[error("logs are no longer written")]
    Gone(#[source] reload::Error),
    /// More than a filter may hold.
    #[error("a log filter of {bytes} bytes is longer than {FILTER_BYTES_MAX}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// A word that is neither a level nor `target=level`. Without this check it would name a target, and silence all
    /// others.
    #[error("log filter {word:?}: expected error, warn, info, debug, trace, off, or target=level")]
    Word {
        /// The part of the filter that is wrong.
        word: String,
    },
}

/// Reads and changes what is logged. Clones are the same handle.
#[derive(Clone, Debug)]
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
    /// As it was written, to be shown again.
    text: Arc<Live<String>>,
}

impl LogLevel {
    /// The filter in force, as it was written.
    pub fn filter(&self) -> String {
        self.text.get().as_ref().clone()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// The filter is not understood; the old one stays in force.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let filter = filter.trim();
        self.filter.reload(parse(filter)?).map_err(TelemetryError::Gone)?;
        self.text.publish(filter.to_owned());
        Ok(())
    }
}

/// Sends the process's logs to stderr.
///
/// # Errors
/// The filter is not understood, or logs were set up before.
pub fn init(filter: &str, format: LogFormat) -> Result<LogLevel, TelemetryError> {
    let (layer, level) = filter_layer(filter)?;
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(ansi).boxed(),
    };
    tracing_subscriber::registry().with(layer).with(lines).try_init().map_err(TelemetryError::AlreadySet)?;
    Ok(level)
}

fn filter_layer(filter: &str) -> Result<(reload::Layer<EnvFilter, Registry>, LogLevel), TelemetryError> {
    let filter = filter.trim();
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    Ok((layer, LogLevel { filter: handle, text: Arc::new(Live::new(filter.to_owned())) }))
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(TelemetryError::TooLong { bytes: filter.len() });
    }
    for word in filter.split(',').map(str::trim) {
        if word.is_empty() || (!word.contains('=') && word.parse::<LevelFilter>().is_err()) {
            return Err(TelemetryError::Word { word: word.to_owned() });
        }
    }
    // No regular expressions: a filter may come over HTTP.
    EnvFilter::builder().with_regex(false).parse(filter).map_err(TelemetryError::Filter)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::{LogFormat, filter_layer, parse};

    #[test]
    fn filters_that_would_silence_everything_are_refused() {
        for (filter, good) in [
            ("info", true),
            ("INFO", true),
            ("off", true),
            ("weft_proxy=debug,warn", true),
            ("weft_proxy::connect=trace", true),
            ("", false),
            ("verbose", false),
            ("info,weft_proxy", false),
            ("weft_proxy=loud", false),
        ] {
            assert_eq!(parse(filter).is_ok(), good, "{filter:?}");
        }
        assert!(parse(&"a=info,".repeat(200)).is_err());
    }

    #[test]
    fn a_format_is_text_or_json() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("text or json"));
    }

    #[test]
    fn the_level_changes_at_run_time_and_a_bad_one_changes_nothing() {
        let seen = Seen::default();
        let (layer, level) = filter_layer("warn").unwrap();
        let subscriber = tracing_subscriber::registry().with(layer).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("one");
            level.set(" info\n").unwrap();
            tracing::info!("two");
            level.set("nonsense").unwrap_err();
            tracing::info!("three");
        });
        assert_eq!((*seen.0.lock().unwrap(), level.filter().as_str()), (2, "info"));
    }

    /// Counts the events that pass the filter.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<usize>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Seen {
        fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            *self.0.lock().unwrap() += 1;
        }
    }
}
