//! The recipe's imports: each function of `quorate:recipe` is charged, bounded, and passed on to the tree.

use bytes::Bytes;
use quorate_model::id::Timestamp;
use quorate_model::path::RelativePath;
use quorate_model::run::{RunEnding, RunInput, RunWatch, TreeAccess};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance};

use crate::abi::{CallerIdentity, Child, Level, Lifetime, Node, Range, Stat};
use crate::host::{
    Run, charge, charge_answer, charge_change, charge_parents, charge_tree, host_fuel,
};
use crate::limits::bound;

/// Every function of `quorate:recipe`.
pub(crate) fn link<T: TreeAccess>(
    linker: &mut Linker<Run<T>>,
    version: &str,
) -> wasmtime::Result<()> {
    let name = |interface: &str| format!("quorate:recipe/{interface}@{version}");
    link_tree(&mut linker.instance(&name("tree"))?)?;
    link_watch(&mut linker.instance(&name("watch"))?)?;
    link_call(&mut linker.instance(&name("call"))?)?;
    link_log(&mut linker.instance(&name("log"))?)
}

type Store<'a, T> = StoreContextMut<'a, Run<T>>;

fn link_tree<T: TreeAccess>(tree: &mut LinkerInstance<'_, Run<T>>) -> wasmtime::Result<()> {
    tree.func_wrap("get", |mut store: Store<'_, T>, (path,): (String,)| {
        charge_tree(&mut store, path.len())?;
        let run = store.data_mut();
        let path = run.path(&path)?;
        let node = run.tree.get(&path);
        let node = run.ok(node)?;
        let bytes = node.as_ref().map_or(0, |node| node.data.len());
        charge_answer(&mut store, 0, bytes)?;
        Ok((node.map(Node::from),))
    })?;
    tree.func_wrap("exists", |mut store: Store<'_, T>, (path,): (String,)| {
        charge_tree(&mut store, path.len())?;
        let run = store.data_mut();
        let path = run.path(&path)?;
        let stat = run.tree.exists(&path);
        Ok((run.ok(stat)?.map(Stat::from),))
    })?;
    tree.func_wrap(
        "children",
        |mut store: Store<'_, T>, (path, range): (String, Range)| {
            charge_tree(&mut store, path.len() + range.bytes())?;
            let run = store.data_mut();
            let path = run.path(&path)?;
            let names = run.tree.children(&path, &run.range(range));
            let names = run.ok(names)?;
            run.hold_children(names.len())?;
            let bytes = names.iter().map(String::len).sum();
            charge_answer(&mut store, names.len(), bytes)?;
            Ok((names,))
        },
    )?;
    tree.func_wrap(
        "entries",
        |mut store: Store<'_, T>, (path, range): (String, Range)| {
            charge_tree(&mut store, path.len() + range.bytes())?;
            let run = store.data_mut();
            let path = run.path(&path)?;
            let entries = run.tree.entries(&path, &run.range(range));
            let entries = run.ok(entries)?;
            run.hold_children(entries.len())?;
            let sizes = entries
                .iter()
                .map(|child| child.name.len() + child.node.data.len());
            charge_answer(&mut store, entries.len(), sizes.sum())?;
            Ok((entries.into_iter().map(Child::from).collect::<Vec<_>>(),))
        },
    )?;
    tree.func_wrap(
        "create",
        |mut store: Store<'_, T>, (path, data, lifetime): (String, Vec<u8>, Lifetime)| {
            charge_change(&mut store, path.len() + data.len())?;
            let run = store.data_mut();
            let path = run.path(&path)?;
            charge_parents(&mut store, &path)?;
            let run = store.data_mut();
            let created = run.tree.create(&path, Bytes::from(data), lifetime.into());
            Ok((run.changed(created)?,))
        },
    )?;
    tree.func_wrap(
        "create-sequential",
        |mut store: Store<'_, T>,
         (parent, prefix, data, lifetime): (String, String, Vec<u8>, Lifetime)| {
            charge_change(&mut store, parent.len() + prefix.len() + data.len())?;
            let run = store.data_mut();
            let parent = run.path(&parent)?;
            let child = run.path(format!("{}/x", parent.as_str()).trim_start_matches('/'))?;
            charge_parents(&mut store, &child)?;
            let run = store.data_mut();
            let data = Bytes::from(data);
            let lifetime = lifetime.into();
            let name = run.tree.create_sequential(&parent, &prefix, data, lifetime);
            Ok((run.changed(name)?,))
        },
    )?;
    tree.func_wrap(
        "set",
        |mut store: Store<'_, T>, (path, data): (String, Vec<u8>)| {
            charge_change(&mut store, path.len() + data.len())?;
            let run = store.data_mut();
            let path = run.path(&path)?;
            let set = run.tree.set(&path, Bytes::from(data));
            Ok((run.changed(set)?,))
        },
    )?;
    tree.func_wrap(
        "set-lifetime",
        |mut store: Store<'_, T>, (path, lifetime): (String, Lifetime)| {
            charge_change(&mut store, path.len())?;
            let run = store.data_mut();
            let path = run.path(&path)?;
            let set = run.tree.set_lifetime(&path, lifetime.into());
            Ok((run.changed(set)?,))
        },
    )?;
    tree.func_wrap("delete", |mut store: Store<'_, T>, (path,): (String,)| {
        charge_change(&mut store, path.len())?;
        let run = store.data_mut();
        let path = run.path(&path)?;
        let deleted = run.tree.delete(&path);
        Ok((run.changed(deleted)?,))
    })
}

fn link_watch<T: TreeAccess>(watch: &mut LinkerInstance<'_, Run<T>>) -> wasmtime::Result<()> {
    link_path_watch(watch, "node", RunWatch::Node)?;
    link_path_watch(watch, "children", RunWatch::Children)?;
    link_path_watch(watch, "subtree", RunWatch::Subtree)?;
    watch.func_wrap("time", |mut store: Store<'_, T>, (at,): (u64,)| {
        charge(&mut store, host_fuel::CALL)?;
        store.data_mut().watch(RunWatch::Time(Timestamp(at)))
    })
}

fn link_path_watch<T: TreeAccess>(
    watch: &mut LinkerInstance<'_, Run<T>>,
    name: &str,
    kind: fn(RelativePath) -> RunWatch,
) -> wasmtime::Result<()> {
    watch.func_wrap(name, move |mut store: Store<'_, T>, (path,): (String,)| {
        charge(&mut store, host_fuel::CALL + path.len() as u64)?;
        let run = store.data_mut();
        let path = run.path(&path)?;
        run.watch(kind(path))
    })
}

fn link_call<T: TreeAccess>(call: &mut LinkerInstance<'_, Run<T>>) -> wasmtime::Result<()> {
    link_number(call, "session", |input| input.session.0)?;
    link_number(call, "now", |input| input.now.0)?;
    link_number(call, "started", |input| input.started.0)?;
    link_number(call, "transaction", |input| input.transaction.0)?;
    call.func_wrap("identities", |mut store: Store<'_, T>, (): ()| {
        charge(&mut store, host_fuel::CALL)?;
        let identities = &store.data().input.identities;
        let count = identities.len();
        let identities: Vec<_> = identities.iter().map(CallerIdentity::from).collect();
        charge_answer(&mut store, count, 0)?;
        Ok((identities,))
    })?;
    call.func_wrap("memo", |mut store: Store<'_, T>, (): ()| {
        charge(&mut store, host_fuel::CALL)?;
        let memo = store.data().input.memo.clone();
        charge_answer(&mut store, 0, memo.as_ref().map_or(0, Bytes::len))?;
        Ok((memo.map(Vec::from),))
    })?;
    call.func_wrap("park", |mut store: Store<'_, T>, (memo,): (Vec<u8>,)| {
        charge(&mut store, host_fuel::CALL + memo.len() as u64)?;
        store.data_mut().park(memo)
    })?;
    call.func_wrap("refuse", |mut store: Store<'_, T>, (reason,): (String,)| {
        charge(&mut store, host_fuel::CALL + reason.len() as u64)?;
        let run = store.data_mut();
        if reason.len() > run.limits.result_bytes {
            let most = run.limits.result_bytes;
            let message = format!(
                "the reason has {} bytes, and {most} is the most",
                reason.len()
            );
            return run.exceed::<()>(bound::RESULT, message);
        }
        run.end::<()>(RunEnding::Refused(reason))
    })
}

fn link_number<T: TreeAccess>(
    call: &mut LinkerInstance<'_, Run<T>>,
    name: &str,
    number: fn(&RunInput) -> u64,
) -> wasmtime::Result<()> {
    call.func_wrap(name, move |mut store: Store<'_, T>, (): ()| {
        charge(&mut store, host_fuel::CALL)?;
        Ok((number(&store.data().input),))
    })
}

fn link_log<T: TreeAccess>(log: &mut LinkerInstance<'_, Run<T>>) -> wasmtime::Result<()> {
    log.func_wrap(
        "write",
        |mut store: Store<'_, T>, (level, message): (Level, String)| {
            charge(&mut store, host_fuel::CALL + message.len() as u64)?;
            store.data_mut().log(level, message)
        },
    )
}
