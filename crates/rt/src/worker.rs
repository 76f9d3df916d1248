// SPDX-License-Identifier: Apache-2.0
//! Worker threads: one current-thread runtime each, and tasks that need not be `Send`.
//!
//! Answers for starting the threads, for running one future to its end on each, and for what a
//! panic means: the process ends, because a mesh proxy that lost a worker would leave part of
//! its connections unanswered while it still looks alive. How many workers there should be is
//! asked of [`cpu_allowance`]. What the workers do is their caller's business.
//!
//! Invariant: a worker never moves a task to another thread; when [`Workers::joined`] returns,
//! every thread has ended and dropped what it held.

mod quota;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Once};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;

pub use quota::{CpuAllowance, cpu_allowance};

/// Running worker threads.
#[derive(Debug)]
#[must_use = "workers run on, but nobody waits for their end"]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    ends: mpsc::UnboundedReceiver<()>,
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start worker thread `{name}`")]
pub struct SpawnError {
    /// The thread's name.
    pub name: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Workers {
    /// Starts one thread for each of `seats`, named `{name}-{index}` (the kernel shows 15 bytes).
    /// On its thread, `run` is called with the seat and its future is driven to the end inside a
    /// runtime where [`tokio::task::spawn_local`] works; neither the future nor what it spawns
    /// needs to be `Send`. Tasks that still run when the future ends are dropped.
    ///
    /// A panic on a worker thread, in the future or in any task, is logged and aborts the process.
    ///
    /// # Errors
    /// The system refused a thread or an event queue. Workers that were already started go on
    /// with the seats they have; the caller is expected to end the process.
    pub fn spawn<S, F, Fut>(name: &str, seats: Vec<S>, run: F) -> Result<Self, SpawnError>
    where
        S: Send + 'static,
        F: Fn(S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        abort_on_worker_panic();
        let run = Arc::new(run);
        let (ended, ends) = mpsc::unbounded_channel();
        let mut threads = Vec::with_capacity(seats.len());
        for (index, seat) in seats.into_iter().enumerate() {
            let name = format!("{name}-{index}");
            let named = |source| SpawnError {
                name: name.clone(),
                source,
            };
            let (run, ended) = (Arc::clone(&run), ended.clone());
            let thread = std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || {
                    IS_WORKER.set(true);
                    let runtime = new_runtime().unwrap_or_else(|error| {
                        panic!("cannot make the runtime of a worker: {error}")
                    });
                    runtime.block_on(run(seat));
                    drop(runtime);
                    // The receiver may be gone: nobody waits for this worker.
                    let _ = ended.send(());
                })
                .map_err(named)?;
            threads.push(thread);
        }
        Ok(Self { threads, ends })
    }

    /// How many workers were started.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Waits until all workers have ended.
    ///
    /// *Cancel safety*: the workers go on; their handles are lost.
    pub async fn joined(mut self) {
        while self.ends.recv().await.is_some() {}
        for thread in self.threads {
            // A thread that sent its end is past all its work; a panic would have aborted.
            let _ = thread.join();
        }
    }
}

/// The default number of workers: one up to one CPU, two above. More is the user's to ask for: a
/// sidecar that shares its machine gains latency, not throughput, from further threads.
#[must_use]
pub fn default_count() -> NonZeroUsize {
    cpu_allowance().default_workers()
}

fn new_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}

/// Installs, once, a panic hook that leaves other threads to the hook that was there before.
/// A runtime catches the panics of its tasks, so an unwinding build would lose them silently.
fn abort_on_worker_panic() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            previous(panic);
            if IS_WORKER.get() {
                let thread = std::thread::current();
                let name = thread.name().unwrap_or("unnamed");
                tracing::error!(worker = name, %panic, "a worker panicked, the process ends");
                eprintln!("worker `{name}` panicked, the process ends");
                std::process::abort();
            }
        }));
    });
}

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::rc::Rc;
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn each_seat_gets_a_named_thread_and_tasks_that_need_not_be_send() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let workers = Workers::spawn("w", vec![10, 20, 30], {
            let seen = Arc::clone(&seen);
            move |seat| {
                let seen = Arc::clone(&seen);
                async move {
                    let local = Rc::new(seat);
                    let task = tokio::task::spawn_local({
                        let local = Rc::clone(&local);
                        async move { *local + 1 }
                    });
                    let answer = task.await.expect("task");
                    let name = std::thread::current().name().map(String::from);
                    seen.lock().expect("lock").push((name, answer));
                }
            }
        })
        .expect("spawn");
        assert_eq!(workers.count(), 3);
        workers.joined().await;
        let mut seen = seen.lock().expect("lock").clone();
        seen.sort();
        let expected = [("w-0", 11), ("w-1", 21), ("w-2", 31)];
        assert_eq!(
            seen,
            expected.map(|(name, answer)| (Some(name.to_owned()), answer))
        );
    }

    #[tokio::test]
    async fn tasks_left_behind_are_dropped_before_the_end_is_reported() {
        struct Flag(Arc<Mutex<bool>>);
        impl Drop for Flag {
            fn drop(&mut self) {
                *self.0.lock().expect("lock") = true;
            }
        }
        let dropped = Arc::new(Mutex::new(false));
        let flag = Arc::clone(&dropped);
        let workers = Workers::spawn("left", vec![()], move |()| {
            let flag = Flag(Arc::clone(&flag));
            async move {
                tokio::task::spawn_local(async move {
                    let _flag = flag;
                    std::future::pending::<()>().await;
                });
                tokio::task::yield_now().await;
            }
        })
        .expect("spawn");
        workers.joined().await;
        assert!(*dropped.lock().expect("lock"));
    }

    /// Runs only as the child process of the test below.
    #[test]
    #[ignore = "ends the process; run by a_panicking_task_ends_the_process"]
    fn child_whose_task_panics() {
        let workers = Workers::spawn("doomed", vec![()], |()| async {
            tokio::task::spawn_local(async { panic!("lost its way") });
            std::future::pending::<()>().await;
        })
        .expect("spawn");
        Builder::new_current_thread()
            .build()
            .expect("runtime")
            .block_on(workers.joined());
    }

    #[test]
    fn a_panicking_task_ends_the_process() {
        let output = Command::new(std::env::current_exe().expect("own path"))
            .args([
                "--ignored",
                "--exact",
                "worker::tests::child_whose_task_panics",
                "--nocapture",
            ])
            .output()
            .expect("child");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code().is_none(),
            "ended by a signal: {:?}",
            output.status
        );
        assert!(log.contains("lost its way"), "{log}");
        assert!(log.contains("worker `doomed-0` panicked"), "{log}");
    }
}
