//! A run from the host's side: what it was given, what it has used, and how it ends.

use quorate_model::path::RelativePath;
use quorate_model::run::{
    Breach, Invocation, LogLine, RunEnding, RunInput, RunWatch, TreeAccess, TreeError,
};
use wasmtime::{ResourceLimiter, StoreContextMut};

use crate::abi::{self, Level, Range};
use crate::limits::{RunLimits, bound};

/// What a host call costs in fuel. The unit is what the engine charges for one instruction, and the figures are
/// what the calls take on the clock, rounded up.
pub mod host_fuel {
    /// Each crossing.
    pub const CALL: u64 = 500;
    /// Each byte that crosses.
    pub const BYTE: u64 = 1;
    /// Each look-up of a znode, and each child in an answer.
    pub const ITEM: u64 = 500;
    /// Each change to the tree.
    pub const CHANGE: u64 = 2_000;
}

/// What a change costs of `write-set-bytes` beside its path and data.
const CHANGE_BYTES: usize = 64;

/// A run from the host's side.
pub(crate) struct Run<T> {
    pub(crate) input: RunInput,
    pub(crate) tree: T,
    pub(crate) limits: RunLimits,
    pub(crate) watches: Vec<RunWatch>,
    pub(crate) log: Vec<LogLine>,
    /// Set by whatever ends the run from the host's side, together with the error that stops the guest.
    pub(crate) ending: Option<RunEnding>,
    log_bytes: usize,
    tree_operations: u64,
    write_set_bytes: usize,
    pub(crate) growth: Growth,
}

impl<T> Run<T> {
    pub(crate) fn new(input: RunInput, tree: T, limits: RunLimits) -> Run<T> {
        Run {
            input,
            tree,
            limits,
            watches: Vec::new(),
            log: Vec::new(),
            ending: None,
            log_bytes: 0,
            tree_operations: 0,
            write_set_bytes: 0,
            growth: Growth {
                memory_bytes: 0,
                limits,
                exceeded: None,
            },
        }
    }
}

/// The guest is stopped by the host. What for is in [`Run::ending`].
#[derive(Debug, thiserror::Error)]
#[error("the run has ended")]
pub(crate) struct Ended;

impl<T> Run<T> {
    pub(crate) fn end<V>(&mut self, ending: RunEnding) -> wasmtime::Result<V> {
        // The first reason is the one.
        self.ending.get_or_insert(ending);
        Err(Ended.into())
    }

    pub(crate) fn exceed<V>(
        &mut self,
        bound: &'static str,
        message: String,
    ) -> wasmtime::Result<V> {
        self.end(RunEnding::exceeded(bound, message))
    }

    pub(crate) fn breach<V>(&mut self, message: impl Into<String>) -> wasmtime::Result<V> {
        self.end(RunEnding::Trapped(message.into()))
    }

    pub(crate) fn path(&mut self, text: &str) -> wasmtime::Result<RelativePath> {
        match RelativePath::parse(text) {
            Ok(path) => Ok(path),
            Err(error) => self.breach(error.to_string()),
        }
    }

    pub(crate) fn ok<V>(&mut self, result: Result<V, Breach>) -> wasmtime::Result<V> {
        match result {
            Ok(value) => Ok(value),
            Err(breach) => self.breach(breach.0),
        }
    }

    pub(crate) fn changed<V>(
        &mut self,
        result: Result<V, TreeError>,
    ) -> wasmtime::Result<Result<V, abi::Error>> {
        match abi::handled(result) {
            Ok(handled) => Ok(handled),
            Err(ending) => self.end(ending),
        }
    }

    pub(crate) fn watch(&mut self, watch: RunWatch) -> wasmtime::Result<()> {
        if self.watches.len() >= self.limits.watches {
            let most = self.limits.watches;
            return self.exceed(bound::WATCHES, format!("it set more than {most} watches"));
        }
        self.watches.push(watch);
        Ok(())
    }

    pub(crate) fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        if self.log.len() >= self.limits.log_lines {
            let most = self.limits.log_lines;
            return self.exceed(
                bound::LOG_LINES,
                format!("it logged more than {most} lines"),
            );
        }
        self.log_bytes += message.len();
        if self.log_bytes > self.limits.log_bytes {
            let most = self.limits.log_bytes;
            return self.exceed(
                bound::LOG_BYTES,
                format!("it logged more than {most} bytes"),
            );
        }
        let level = level.into();
        self.log.push(LogLine { level, message });
        Ok(())
    }

    pub(crate) fn park(&mut self, memo: Vec<u8>) -> wasmtime::Result<()> {
        if let Invocation::Guard(_) = self.input.invocation {
            return self.breach("a guard cannot park: the write that it is asked about waits");
        }
        if self.watches.is_empty() {
            return self.breach(
                "call.park without a watch: nothing would ever wake the call; set one with the \
                 interface watch before parking",
            );
        }
        if memo.len() > self.limits.memo_bytes {
            let most = self.limits.memo_bytes;
            let message = format!("the memo has {} bytes, and {most} is the most", memo.len());
            return self.exceed(bound::MEMO, message);
        }
        let watches = std::mem::take(&mut self.watches);
        self.end(RunEnding::Parked {
            memo: memo.into(),
            watches,
        })
    }

    /// A range that asks the tree for one child more than the bound, so that exceeding it shows.
    pub(crate) fn range(&self, range: Range) -> quorate_model::run::Range {
        let mut range = quorate_model::run::Range::from(range);
        let most = u32::try_from(self.limits.children).unwrap_or(u32::MAX);
        range.limit = range.limit.min(most.saturating_add(1));
        range
    }

    pub(crate) fn hold_depth(&mut self, path: &RelativePath) -> wasmtime::Result<()> {
        let depth = path.as_str().split('/').count();
        if depth > self.limits.depth {
            let most = self.limits.depth;
            let message = format!("a path has {depth} names, and {most} is the most");
            return self.exceed(bound::DEPTH, message);
        }
        Ok(())
    }

    pub(crate) fn hold_children(&mut self, count: usize) -> wasmtime::Result<()> {
        if count > self.limits.children {
            let most = self.limits.children;
            let message = format!("it asked for more than {most} children at once");
            return self.exceed(bound::CHILDREN, message);
        }
        Ok(())
    }

    pub(crate) fn hold_crossing(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if bytes > self.limits.crossing_bytes {
            let most = self.limits.crossing_bytes;
            let message = format!("{bytes} bytes were to cross at once, and {most} is the most");
            return self.exceed(bound::CROSSING, message);
        }
        Ok(())
    }
}

/// Takes fuel from the run, and ends it when there is not enough.
pub(crate) fn charge<T>(
    store: &mut StoreContextMut<'_, Run<T>>,
    fuel: u64,
) -> wasmtime::Result<()> {
    let left = store.get_fuel()?;
    match left.checked_sub(fuel) {
        Some(left) => store.set_fuel(left),
        None => {
            store.set_fuel(0)?;
            let run = store.data_mut();
            let message = out_of_fuel(run.limits.fuel);
            run.exceed(bound::FUEL, message)
        }
    }
}

pub(crate) fn out_of_fuel(fuel: u64) -> String {
    format!("the run used its {fuel} units of fuel")
}

/// Charges for a call of the interface `tree`.
pub(crate) fn charge_tree<T>(
    store: &mut StoreContextMut<'_, Run<T>>,
    bytes: usize,
) -> wasmtime::Result<()> {
    charge(
        store,
        host_fuel::CALL + host_fuel::ITEM + host_fuel::BYTE * bytes as u64,
    )?;
    let run = store.data_mut();
    run.tree_operations += 1;
    if run.tree_operations > run.limits.tree_operations {
        let most = run.limits.tree_operations;
        let message = format!("it called the tree more than {most} times");
        return run.exceed(bound::TREE_OPERATIONS, message);
    }
    Ok(())
}

/// Charges for a change of the tree.
pub(crate) fn charge_change<T>(
    store: &mut StoreContextMut<'_, Run<T>>,
    bytes: usize,
) -> wasmtime::Result<()> {
    charge_tree(store, bytes)?;
    charge(store, host_fuel::CHANGE)?;
    let run = store.data_mut();
    run.write_set_bytes = run.write_set_bytes.saturating_add(bytes + CHANGE_BYTES);
    if run.write_set_bytes > run.limits.write_set_bytes {
        let most = run.limits.write_set_bytes;
        let message = format!("it wrote more than {most} bytes");
        return run.exceed(bound::WRITE_SET, message);
    }
    Ok(())
}

/// Charges for the parents that creating `path` creates with it.
pub(crate) fn charge_parents<T: TreeAccess>(
    store: &mut StoreContextMut<'_, Run<T>>,
    path: &RelativePath,
) -> wasmtime::Result<()> {
    let run = store.data_mut();
    let missing = run.tree.missing_parents(path);
    let missing = run.ok(missing)?;
    run.hold_depth(path)?;
    for _ in 0..missing {
        charge_change(store, path.as_str().len())?;
    }
    Ok(())
}

/// Charges for what the tree answered.
pub(crate) fn charge_answer<T>(
    store: &mut StoreContextMut<'_, Run<T>>,
    items: usize,
    bytes: usize,
) -> wasmtime::Result<()> {
    store.data_mut().hold_crossing(bytes)?;
    charge(
        store,
        host_fuel::ITEM * items as u64 + host_fuel::BYTE * bytes as u64,
    )
}

/// The guest's memory and tables. Growth beyond a bound ends the run, rather than telling the guest, which
/// would trap without saying why.
pub(crate) struct Growth {
    memory_bytes: usize,
    limits: RunLimits,
    /// Why the run was ended.
    pub(crate) exceeded: Option<RunEnding>,
}

impl Growth {
    fn exceed(&mut self, bound: &'static str, message: String) -> wasmtime::Result<bool> {
        self.exceeded = Some(RunEnding::exceeded(bound, message));
        Err(Ended.into())
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        self.memory_bytes = self.memory_bytes.saturating_add(growth);
        if self.memory_bytes > self.limits.memory_bytes {
            let most = self.limits.memory_bytes;
            let message = format!("it wanted more than {most} bytes of memory");
            return self.exceed(bound::MEMORY, message);
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.limits.table_elements {
            let most = self.limits.table_elements;
            let message = format!("it wanted a table of more than {most} elements");
            return self.exceed(bound::TABLE, message);
        }
        Ok(true)
    }
}
