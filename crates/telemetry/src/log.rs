// SPDX-License-Identifier: Apache-2.0
//! Structured logs to standard error, as text or JSON, with levels that can change at run time.
//!
//! `main` calls [`init`] once; the admin's `/logging` keeps the [`LogControl`]. Levels are one for
//! everything and exceptions by target (a module path such as `remora_proxy::upstream`, which
//! holds for all below it).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::{Layer, Registry, reload};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A word that names no level.
    #[error(
        "unknown log level `{0}` (expected trace, debug, info, warning, error, critical or off)"
    )]
    Level(String),
    /// An exception without a target or a level.
    #[error("log directive `{0}` is not of the form `target=level`")]
    Directive(String),
    /// Logs were set up before.
    #[error("logs are set up already")]
    AlreadySet,
    /// The subscriber is gone.
    #[error("log levels can no longer be changed")]
    Gone,
}

/// What is logged: everything of a level, with exceptions by target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// For targets without an exception.
    pub default: LevelFilter,
    /// By target; the longest that is a prefix decides.
    pub targets: BTreeMap<String, LevelFilter>,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            default: LevelFilter::INFO,
            targets: BTreeMap::new(),
        }
    }
}

impl Levels {
    fn filter(&self) -> Targets {
        let exceptions = self
            .targets
            .iter()
            .map(|(target, level)| (target.as_str(), *level));
        Targets::new()
            .with_default(self.default)
            .with_targets(exceptions)
    }
}

impl FromStr for Levels {
    type Err = LogError;

    /// Reads `info,remora_proxy=debug`: a level, exceptions, or both; the default is `info`.
    fn from_str(text: &str) -> Result<Self, LogError> {
        let mut levels = Self::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.rsplit_once(['=', ':']) {
                None => levels.default = level(part)?,
                Some(("", _)) => return Err(LogError::Directive(part.to_owned())),
                Some((target, word)) => {
                    levels.targets.insert(target.to_owned(), level(word)?);
                }
            }
        }
        Ok(levels)
    }
}

/// Reads Envoy's words for levels, and the usual ones.
fn level(word: &str) -> Result<LevelFilter, LogError> {
    Ok(match word.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warning" | "warn" => LevelFilter::WARN,
        "error" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => return Err(LogError::Level(word.to_owned())),
    })
}

/// Changes levels while the process runs. Clones control the same logs.
#[derive(Clone)]
pub struct LogControl {
    levels: Arc<Mutex<Levels>>,
    handle: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogControl").field(&self.levels()).finish()
    }
}

impl LogControl {
    /// The present levels.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sets one level for everything and drops the exceptions (`/logging?level=debug`).
    ///
    /// # Errors
    /// If the word names no level.
    pub fn set_level(&self, word: &str) -> Result<(), LogError> {
        let default = level(word)?;
        self.change(|levels| {
            *levels = Levels {
                default,
                targets: BTreeMap::new(),
            }
        })
    }

    /// Adds exceptions, and sets the default if one is given
    /// (`/logging?paths=remora_proxy::upstream:debug,remora_xds_client:trace`).
    ///
    /// # Errors
    /// If one of them cannot be read; nothing is changed then.
    pub fn set_targets(&self, directives: &str) -> Result<(), LogError> {
        let asked: Levels = directives.parse()?;
        let has_default = directives.split(',').any(|part| level(part.trim()).is_ok());
        self.change(|levels| {
            if has_default {
                levels.default = asked.default;
            }
            levels.targets.extend(asked.targets);
        })
    }

    fn change(&self, edit: impl FnOnce(&mut Levels)) -> Result<(), LogError> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut edited = levels.clone();
        edit(&mut edited);
        self.handle
            .reload(edited.filter())
            .map_err(|_| LogError::Gone)?;
        *levels = edited;
        Ok(())
    }
}

/// Sends this process' logs to standard error from now on.
///
/// # Errors
/// If logs were set up before.
pub fn init(format: Format, levels: Levels) -> Result<LogControl, LogError> {
    let colour = if io::stderr().is_terminal() {
        Colour::On
    } else {
        Colour::Off
    };
    let (subscriber, control) = subscriber(format, colour, levels, io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    Ok(control)
}

/// Whether text lines are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    On,
    Off,
}

type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;

fn subscriber<W>(
    format: Format,
    colour: Colour,
    levels: Levels,
    writer: W,
) -> (impl tracing::Subscriber + Send + Sync, LogControl)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(levels.filter());
    let lines: Box<dyn Layer<Filtered> + Send + Sync> = match format {
        Format::Text => {
            let layer = tracing_subscriber::fmt::layer();
            Box::new(layer.with_writer(writer).with_ansi(colour == Colour::On))
        }
        Format::Json => {
            let layer = tracing_subscriber::fmt::layer();
            Box::new(layer.with_writer(writer).json().flatten_event(true))
        }
    };
    let control = LogControl {
        levels: Arc::new(Mutex::new(levels)),
        handle,
    };
    (
        tracing_subscriber::registry().with(filter).with(lines),
        control,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What was logged since the last call.
    fn take(memory: &Memory) -> String {
        let bytes = std::mem::take(&mut *memory.0.lock().expect("not poisoned"));
        String::from_utf8(bytes).expect("logs are text")
    }

    fn log(format: Format, levels: &str, body: impl FnOnce(&LogControl, &Memory)) {
        let memory = Memory::default();
        let writer = memory.clone();
        let levels = levels.parse().expect("levels are well formed");
        let make = move || writer.clone();
        let (subscriber, control) = subscriber(format, Colour::Off, levels, make);
        tracing::subscriber::with_default(subscriber, || body(&control, &memory));
    }

    fn emit() {
        tracing::debug!(target: "a::b", cluster = "sms", "fine");
        tracing::warn!(target: "c", "coarse");
    }

    #[test]
    fn levels_change_while_running_for_all_and_by_target() {
        log(Format::Text, "info", |control, memory| {
            let logged = || {
                emit();
                let text = take(memory);
                (text.contains("fine"), text.contains("coarse"))
            };
            assert_eq!(logged(), (false, true));
            control.set_level("debug").expect("a level");
            assert_eq!(logged(), (true, true));
            control.set_level("off").expect("a level");
            assert_eq!(logged(), (false, false));
            control.set_targets("a:trace").expect("well formed");
            assert_eq!(logged(), (true, false));
            assert!(control.set_targets("c:info,a:loud").is_err());
            assert_eq!(logged(), (true, false), "an error changes nothing");
            control
                .set_targets("warning,a::b=error")
                .expect("well formed");
            assert_eq!(logged(), (false, true));
        });
    }

    #[test]
    fn json_lines_carry_fields_by_name() {
        log(Format::Json, "off,a=debug", |_, memory| {
            emit();
            let text = take(memory);
            assert_eq!(text.lines().count(), 1);
            for part in [
                r#""level":"DEBUG""#,
                r#""message":"fine""#,
                r#""cluster":"sms""#,
            ] {
                assert!(text.contains(part), "{text}");
            }
        });
    }

    #[test]
    fn directives_are_read_or_refused_with_the_reason() {
        let levels: Levels = " debug , a::b=trace, c:off ".parse().expect("well formed");
        let targets = [("a::b", LevelFilter::TRACE), ("c", LevelFilter::OFF)];
        let targets = targets
            .map(|(target, level)| (target.to_owned(), level))
            .into();
        assert_eq!(
            levels,
            Levels {
                default: LevelFilter::DEBUG,
                targets
            }
        );
        assert_eq!(
            "".parse::<Levels>().expect("nothing said"),
            Levels::default()
        );
        let table = [
            ("loud", "unknown log level `loud`"),
            ("a=", "unknown log level ``"),
            ("=debug", "log directive `=debug`"),
            ("a::b", "unknown log level `b`"),
        ];
        for (text, expected) in table {
            let error = text.parse::<Levels>().expect_err(text).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
