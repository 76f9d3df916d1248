// SPDX-License-Identifier: Apache-2.0
//! What a step has at hand: the mesh to steer, visitors, a screen, and ways to wait and to look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use remora_testkit::lab::Lab;
use remora_testkit::mesh::{Mesh, MeshOptions, topology};

use crate::load::{Load, Sample};
use crate::probe::{Probe, Stats};
use crate::screen::Screen;
use crate::stop::Stop;
use crate::tally::Tally;

/// The stage of all steps.
#[derive(Debug)]
pub(crate) struct Stage {
    // Fields are dropped in this order: what looks at the mesh before the mesh.
    /// What the viewer sees.
    pub(crate) screen: Screen,
    /// The visitors of the page.
    pub(crate) load: Arc<Load>,
    /// What the parts say.
    pub(crate) probe: Probe,
    /// The shop.
    pub(crate) mesh: Mesh,
    stop: Stop,
    pace: f64,
    /// The file of `steps/` that is in force.
    routing: String,
}

/// A change of configuration is in force within this time.
const CHANGE: Duration = Duration::from_secs(5);
/// Nothing has changed for this long: the change is complete.
const QUIET: Duration = Duration::from_millis(300);

impl Stage {
    /// Raises the shop; `pace` stretches (above 1) or shortens the time given to each phase.
    pub(crate) fn raise(lab: &Lab, stop: &Stop, pace: f64) -> anyhow::Result<Self> {
        let options = MeshOptions::default();
        let mesh = Mesh::up(lab, &options)?;
        let load = Arc::new(Load::start(mesh.host(topology::PHP)?)?);
        let probe = Probe::new(&mesh)?;
        Ok(Self {
            screen: Screen::start(load.clone(), probe.clone())?,
            load,
            probe,
            mesh,
            stop: stop.clone(),
            pace,
            routing: options.routing,
        })
    }

    /// Makes all well again: nobody asks, everything runs, the routing is what it was at first.
    pub(crate) fn restore(&mut self) -> anyhow::Result<()> {
        self.load.pause()?;
        self.mesh.heal()?;
        let first = MeshOptions::default().routing;
        if self.routing != first {
            self.route(&first)?;
        }
        Ok(())
    }

    /// Lets traffic flow for so many seconds and returns the calls of that time.
    ///
    /// *Errors*: a signal has come.
    pub(crate) fn watch(&self, phase: &str, seconds: f64) -> anyhow::Result<Vec<Sample>> {
        self.screen.phase(phase);
        let began = Instant::now();
        self.stop
            .rest(Duration::from_secs_f64(seconds * self.pace))?;
        Ok(self.load.since(began))
    }

    /// Polls until there is an answer; returns it with the time it took.
    pub(crate) fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        ask: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Duration)> {
        self.screen.phase(&format!("waiting for {what}"));
        self.stop.until(what, limit, ask)
    }

    /// Puts a file of `steps/` in force by replacing the watched file. Returns how long it took from
    /// the edit until the page's proxy worked by it.
    pub(crate) fn route(&mut self, step: &str) -> anyhow::Result<Duration> {
        self.screen.phase(&format!("routing.yaml becomes {step}"));
        let before = self.generation(topology::PHP)?;
        let edited = Instant::now();
        self.mesh.set_step(step)?;
        step.clone_into(&mut self.routing);
        let mut last = (before, Duration::ZERO);
        while last.0 == before || edited.elapsed() < last.1 + QUIET {
            let now = self.generation(topology::PHP)?;
            if now != last.0 {
                last = (now, edited.elapsed());
            }
            if last.0 == before && edited.elapsed() > CHANGE {
                bail!("{step} did not reach the page's proxy within {CHANGE:?}");
            }
            self.stop.rest(Duration::from_millis(10))?;
        }
        Ok(last.1)
    }

    /// The generation of a proxy's configuration.
    pub(crate) fn generation(&self, host: &str) -> anyhow::Result<u64> {
        self.probe.stats(host)?.required("remora.generation")
    }

    /// The numbers of the page's proxy.
    pub(crate) fn stats(&self) -> anyhow::Result<Stats> {
        self.probe.stats(topology::PHP)
    }

    /// Sums up the calls to a service since then.
    pub(crate) fn tally(&self, service: &str, since: Instant) -> Tally {
        Tally::of_service(&self.load.since(since), service)
    }

    /// *Errors*: a signal has come.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.stop.check()
    }
}
