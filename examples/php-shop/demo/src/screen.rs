// SPDX-License-Identifier: Apache-2.0
//! What the viewer sees: on a terminal a table redrawn in place below the lines already said,
//! elsewhere plain lines.
//!
//! Everything the program says goes through here. Nobody reading any more is no reason to stop.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remora_testkit::mesh::topology;
use remora_testkit::wait;

use crate::load::Load;
use crate::probe::{Health, Probe, Stats};
use crate::table::{self, Facts};

/// The screen with its painter.
#[derive(Debug)]
pub(crate) struct Screen {
    shared: Arc<Shared>,
    painter: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    is_terminal: bool,
    load: Arc<Load>,
    probe: Probe,
    canvas: Mutex<Canvas>,
    is_over: AtomicBool,
}

#[derive(Debug)]
struct Canvas {
    step: String,
    phase: String,
    since: Instant,
    before: Stats,
    health_before: Health,
    /// Lines of the table that are on the terminal, below all that was said.
    drawn: usize,
}

const FRAME: Duration = Duration::from_millis(300);

impl Screen {
    /// Starts painting, if there is a terminal to paint on.
    pub(crate) fn start(load: Arc<Load>, probe: Probe) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            is_terminal: std::io::stdout().is_terminal(),
            load,
            probe,
            canvas: Mutex::new(Canvas {
                step: String::new(),
                phase: String::new(),
                since: Instant::now(),
                before: Stats::default(),
                health_before: Health::default(),
                drawn: 0,
            }),
            is_over: AtomicBool::new(false),
        });
        let mut painter = None;
        if shared.is_terminal {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("painter".to_owned());
            painter = Some(
                thread
                    .spawn(move || paint(&shared))
                    .context("start the painter")?,
            );
        }
        Ok(Self { shared, painter })
    }

    /// Begins a step: the table counts from here.
    pub(crate) fn begin(&self, step: &str) {
        let before = self.shared.probe.stats(topology::PHP);
        let health = self.shared.probe.health();
        {
            let mut canvas = self.shared.canvas();
            step.clone_into(&mut canvas.step);
            canvas.phase.clear();
            canvas.since = Instant::now();
            canvas.before = before.unwrap_or_default();
            canvas.health_before = health.unwrap_or_default();
        }
        if !self.shared.is_terminal {
            say(step);
        }
    }

    /// Tells what is going on.
    pub(crate) fn phase(&self, phase: &str) {
        phase.clone_into(&mut self.shared.canvas().phase);
        if !self.shared.is_terminal {
            say(&format!("  {phase}"));
        }
    }

    /// Ends a step: where there is no live table, its last state is said.
    pub(crate) fn end(&self) {
        if !self.shared.is_terminal {
            for line in self.shared.table() {
                say(&format!("  {line}"));
            }
        }
    }

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        let mut canvas = self.shared.canvas();
        erase(&mut canvas);
        say(text);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(painter) = self.painter.take() {
            let _ = painter.join();
        }
        erase(&mut self.shared.canvas());
    }
}

impl Shared {
    fn canvas(&self) -> MutexGuard<'_, Canvas> {
        self.canvas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> Vec<String> {
        let (since, before, health_before) = {
            let canvas = self.canvas();
            (
                canvas.since,
                canvas.before.clone(),
                canvas.health_before.clone(),
            )
        };
        let facts = Facts {
            samples: self.load.since(since),
            before,
            now: self.probe.stats(topology::PHP).unwrap_or_default(),
            health_before,
            health: self.probe.health().unwrap_or_default(),
        };
        table::lines(&facts, &self.probe)
    }
}

/// Says something on its own, where no table is drawn.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn paint(shared: &Shared) {
    while !shared.is_over.load(Ordering::Relaxed) {
        let table = shared.table();
        {
            let mut canvas = shared.canvas();
            let mut lines = vec![String::new(), canvas.step.clone()];
            lines.push(format!("  {}", canvas.phase));
            lines.push(String::new());
            lines.extend(table);
            erase(&mut canvas);
            draw(&mut canvas, &lines);
        }
        wait::rest(FRAME);
    }
}

/// Takes the table off the terminal; the cursor is where it began.
fn erase(canvas: &mut Canvas) {
    if canvas.drawn > 0 {
        let mut out = std::io::stdout();
        let _ = write!(out, "\x1b[{}A\r\x1b[J", canvas.drawn);
        let _ = out.flush();
        canvas.drawn = 0;
    }
}

fn draw(canvas: &mut Canvas, lines: &[String]) {
    let mut out = std::io::stdout();
    // Long lines are cut at the edge, so that each is one line to go up again.
    let _ = write!(out, "\x1b[?7l");
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
    let _ = write!(out, "\x1b[?7h");
    let _ = out.flush();
    canvas.drawn = lines.len();
}
