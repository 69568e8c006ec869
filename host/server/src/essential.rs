//! Essential tasks: without any one of them a server only seems to serve. It would lead and evaluate nothing, or never
//! fall silent (rule W4). So when one panics, the server ends: whoever looks after it starts it anew, and the others
//! elect meanwhile.

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;

use tokio::task::JoinHandle;

/// The exit status of a process whose essential task has panicked: `EX_SOFTWARE` of sysexits.h. A server that an
/// operator stops, or that cannot start, has another.
pub const PANICKED: i32 = 70;

/// What ends when an essential task panics.
#[derive(Clone)]
pub struct Essential(Arc<dyn Fn(&str) + Send + Sync>);

impl Essential {
    /// The process: the last line on its standard error says why, and its exit status is [`PANICKED`].
    pub fn process() -> Essential {
        Essential::new(|why| {
            // Held to the end, so that nothing is written behind it.
            let mut stderr = std::io::stderr().lock();
            // Nobody may be there to read it.
            let _ = writeln!(
                stderr,
                "quorate: {why}. This is a defect: the server ends, and is to be started anew; the log above says where"
            );
            std::process::exit(PANICKED)
        })
    }

    /// Whatever `end` ends; if it returns, the task goes on panicking. It is given the reason, for people.
    pub fn new(end: impl Fn(&str) + Send + Sync + 'static) -> Essential {
        Essential(Arc::new(end))
    }

    /// Nothing but the task itself, whose panic its own test sees.
    #[cfg(test)]
    pub(crate) fn nothing() -> Essential {
        Essential::new(|_| {})
    }

    /// Ends it: something essential called `name` has panicked, and said so.
    pub(crate) fn end(&self, name: &str, said: &str) {
        (self.0)(&format!("the essential task {name:?} has panicked: {said}"));
    }

    /// Runs an essential task in a task of the runtime.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let essential = self.clone();
        tokio::spawn(async move { essential.watch(name, task).await })
    }

    /// Runs an essential task in this one.
    pub async fn watch<T>(&self, name: &str, task: impl Future<Output = T>) -> T {
        let mut task = pin!(task);
        poll_fn(|context| self.run(name, || task.as_mut().poll(context))).await
    }

    /// Does a part of an essential task's work.
    pub fn run<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            self.end(name, panic_text(panic.as_ref()));
            resume_unwind(panic)
        })
    }
}

impl fmt::Debug for Essential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Essential")
    }
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn the_panic_of_an_essential_task_is_told_with_its_name_and_goes_on() {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let essential = Essential::new({
            let told = told.clone();
            move |why| told.lock().push(why.to_owned())
        });
        assert_eq!(essential.spawn("well", async { 7 }).await.unwrap(), 7);
        assert_eq!(essential.run("well", || 8), 8);
        assert!(told.lock().is_empty(), "nothing has panicked");
        let panics = essential.spawn("router", async {
            tokio::task::yield_now().await;
            panic!("{} is not {}", 1, 2)
        });
        let ended: Result<(), _> = panics.await;
        assert!(ended.is_err_and(|error| error.is_panic()));
        assert_eq!(
            *told.lock(),
            ["the essential task \"router\" has panicked: 1 is not 2"]
        );
    }
}
