//! What a command of a scenario looks like, for whoever wrote one that is none.

/// Commands of the scene, then those of a session: how each is written, and what it does.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    ("session NAME", "a client opens a session"),
    (
        "mount PATH RECIPE",
        "mounts a recipe, by name or .wasm file",
    ),
    (
        "upgrade PATH RECIPE",
        "swaps what is mounted: calls that wait run on it",
    ),
    (
        "set PATH open|sealed|BOUND=VALUE…",
        "changes how it is mounted",
    ),
    ("resume PATH", "lets a suspended recipe run again"),
    ("unmount PATH", "unmounts it: calls that wait there end"),
    ("expire NAME", "the session ends, now"),
    (
        "crash NAME",
        "the client is gone: its session ends when its timeout has passed",
    ),
    ("pass MILLISECONDS", "time passes"),
    ("new-leader", "the leader fails, and another one takes over"),
    (
        "busy",
        "what the next command wakes has to wait until the one after it",
    ),
    (
        "restart",
        "all servers stop, and begin again from a snapshot",
    ),
    ("tree PATH", "shows the znodes from there down"),
    (
        "check PATH FILE",
        "from here on, what the file says of the mount must hold",
    ),
    (
        "NAME: call PATH OPERATION [ARGUMENT…] [--timeout=SECONDS] [--key=N]",
        "the client calls",
    ),
    (
        "NAME: cancel KEY",
        "it gives up a call; its first call has key 1, and so on",
    ),
    (
        "NAME: acknowledge MARK [KEY…]",
        "it has seen the answers up to this key, but for those",
    ),
    ("NAME: close", "it closes its session"),
    (
        "NAME: create [-e|-s|-c] PATH [DATA]",
        "a znode: ephemeral, sequential, container",
    ),
    ("NAME: set PATH [DATA]", "replaces a znode's data"),
    ("NAME: delete PATH", "deletes a znode"),
    ("# …", "a comment"),
    ("", "an empty line ends a command's output"),
];

/// Why `command` is none, and what there is.
pub(super) fn not_understood(command: &str) -> String {
    let (of_session, rest) = match command.split_once(": ") {
        Some((_, rest)) => (true, rest),
        None => (false, command),
    };
    let word = rest.split_whitespace().next().unwrap_or_default();
    let is_called = |usage: &str| {
        let usage = usage.strip_prefix("NAME: ").unwrap_or(usage);
        usage.split_whitespace().next() == Some(word)
    };
    if let Some((usage, what)) = COMMANDS.iter().find(|(usage, _)| is_called(usage)) {
        if usage.starts_with("NAME: ") && !of_session {
            return format!("who asks for it? Write `{usage}`: {what}");
        }
        return format!("it is written `{usage}`: {what}");
    }
    let mut message = format!("there is no command {word:?}; there are");
    for (usage, what) in COMMANDS
        .iter()
        .filter(|(usage, _)| usage.starts_with(char::is_alphabetic))
    {
        message += &format!("\n    {usage:<34}  {what}");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_is_told_what_there_is() {
        assert!(not_understood("jump high").contains("\n    new-leader "));
        assert!(not_understood("pass").starts_with("it is written `pass MILLISECONDS`"));
        assert!(
            not_understood("call /locks acquire").starts_with("who asks for it? Write `NAME: call")
        );
        assert!(not_understood("a: call /locks").starts_with("it is written `NAME: call PATH"));
    }
}
