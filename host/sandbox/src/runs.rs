//! The runs that go on at once: bounded by permits, and timed by a clock that stands still while there are none.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// The grain of a run's wall-clock deadline.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Counts the runs that go on, and moves the engine's clock meanwhile.
pub(crate) struct Runs {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

struct Shared {
    now: Mutex<Now>,
    /// A run has ended.
    freed: Condvar,
    /// A run has begun while the clock stood, or the clock is not needed any more.
    begun: Condvar,
}

struct Now {
    free: usize,
    /// Whether the clock moves. It moves on for one tick after the last run, so that runs which follow
    /// each other closely do not wake its thread each time.
    ticking: bool,
    /// Whether a run has begun since the last tick.
    used: bool,
    stopped: bool,
}

/// Leave for one run. Given back on drop.
pub(crate) struct Permit<'a>(&'a Shared);

impl Runs {
    /// Room for `most` runs at once: more would find the engine's pool full, which is an error.
    pub(crate) fn new(engine: &Engine, most: usize) -> std::io::Result<Runs> {
        let now = Now {
            free: most,
            ticking: false,
            used: false,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            now: Mutex::new(now),
            freed: Condvar::new(),
            begun: Condvar::new(),
        });
        let ticker = std::thread::Builder::new()
            .name("recipe-ticker".into())
            .spawn({
                let (shared, engine) = (Arc::clone(&shared), engine.clone());
                move || shared.tick(most, || engine.increment_epoch())
            })?;
        Ok(Runs {
            shared,
            ticker: Some(ticker),
        })
    }

    /// Waits for a run to end if so many go on already. Each ends by its wall-clock deadline.
    pub(crate) fn begin(&self) -> Permit<'_> {
        let now = self.shared.lock();
        let waited = self.shared.freed.wait_while(now, |now| now.free == 0);
        let mut now = waited.unwrap_or_else(PoisonError::into_inner);
        now.free -= 1;
        now.used = true;
        if !std::mem::replace(&mut now.ticking, true) {
            self.shared.begun.notify_one();
        }
        Permit(&self.shared)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self, most: usize, increment: impl Fn()) {
        let mut now = self.lock();
        while !now.stopped {
            let waited = if now.ticking {
                let waited = self.begun.wait_timeout(now, TICK);
                waited
                    .map(|(now, _)| now)
                    .map_err(|poison| poison.into_inner().0)
            } else {
                self.begun.wait(now).map_err(PoisonError::into_inner)
            };
            now = waited.unwrap_or_else(|now| now);
            increment();
            now.ticking = now.free < most || std::mem::take(&mut now.used);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.freed.notify_one();
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.begun.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // The thread only waits and counts: it cannot have panicked.
            let _ = ticker.join();
        }
    }
}
