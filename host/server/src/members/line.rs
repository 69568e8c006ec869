//! A member in ZooKeeper's words: `server.4=host:2888:3888:participant;host:2181`.
//!
//! The form is that of ZooKeeper's Administrator's Guide, "Dynamic Reconfiguration". Of a server's two ports for
//! its peers the first is used, as one is enough here, and it stands twice where we write it.

use std::fmt;

use quorate_model::id::ServerId;

/// What such a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerLine {
    /// Who it is.
    pub(crate) server: ServerId,
    /// Where the others reach it, `host:port`.
    pub(crate) address: String,
    /// Whether it votes: a `participant`, or an `observer`.
    pub(crate) votes: bool,
    /// Where its clients reach it, `host:port`, if it is said. A port alone is one of all the machine's addresses.
    pub(crate) client: Option<String>,
}

impl ServerLine {
    /// Reads `server.N=…`; an error says what is wanted.
    pub(crate) fn parse(text: &str) -> Result<ServerLine, String> {
        let wrong = || format!("{text:?} is not server.ID=HOST:PORT:PORT[:ROLE][;[HOST:]PORT]");
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let id = name.trim().strip_prefix("server.").ok_or_else(wrong)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
        ServerLine::parse_value(ServerId(id), value.trim()).ok_or_else(wrong)
    }

    /// Reads what stands behind the `=`: `host:port:port[:role][;[host:]port]`.
    pub(crate) fn parse_value(server: ServerId, value: &str) -> Option<ServerLine> {
        let (peers, clients) = match value.split_once(';') {
            Some((peers, clients)) => (peers.trim(), Some(clients.trim())),
            None => (value, None),
        };
        let (peers, votes) = match peers.rsplit_once(':')? {
            (peers, role) if role.eq_ignore_ascii_case("observer") => (peers, false),
            (peers, role) if role.eq_ignore_ascii_case("participant") => (peers, true),
            _ => (peers, true),
        };
        let (rest, election_port) = peers.rsplit_once(':')?;
        let (host, port) = rest.rsplit_once(':')?;
        is_port(election_port).then_some(())?;
        let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
        (is_host && is_port(port) && !host.contains('|')).then_some(())?;
        let client = match clients {
            None => None,
            Some(clients) => Some(match clients.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && is_port(port) => clients.to_owned(),
                None if is_port(clients) => format!("0.0.0.0:{clients}"),
                _ => return None,
            }),
        };
        let address = format!("{host}:{port}");
        Some(ServerLine {
            server,
            address,
            votes,
            client,
        })
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

impl fmt::Display for ServerLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.address.rsplit_once(':').map_or("", |(_, port)| port);
        let role = if self.votes {
            "participant"
        } else {
            "observer"
        };
        write!(f, "server.{}={}:{port}:{role}", self.server.0, self.address)?;
        match &self.client {
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_line_is_read_and_written_as_zookeeper_does() {
        for (text, written) in [
            ("server.4=d:2888:3888", "server.4=d:2888:2888:participant"),
            (
                "server.4 = d:2888:3888:observer;2181",
                "server.4=d:2888:2888:observer;0.0.0.0:2181",
            ),
            (
                "server.4=[::1]:2888:3888:PARTICIPANT;[::1]:2181",
                "server.4=[::1]:2888:2888:participant;[::1]:2181",
            ),
        ] {
            let line = ServerLine::parse(text).unwrap();
            assert_eq!(line.to_string(), written);
            assert_eq!(ServerLine::parse(written), Ok(line));
        }
    }

    #[test]
    fn what_is_no_servers_line_is_refused() {
        for text in [
            "",
            "4=d:1:2",
            "server.0=d:1:2",
            "server.x=d:1:2",
            "server.4=d:2888",
            "server.4=:1:2",
            "server.4=d:1:2:voter",
            "server.4=d:1:2|e:1:2",
            "server.4=d:1:2;",
            "server.4=d:1:2;h:",
            "server.4=d:1:99999",
        ] {
            let refused = ServerLine::parse(text).unwrap_err();
            assert!(refused.contains("server.ID=HOST:PORT:PORT"), "{refused}");
        }
    }
}
