//! Starts a server of either kind, tells its processor time, and stops it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the servers listen.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// Linux counts processor time for programs in hundredths of a second, on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Quorate,
    Zookeeper,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Quorate => "quorate",
            Kind::Zookeeper => "zookeeper",
        }
    }
}

/// A server that was started here.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    http: SocketAddr,
    process: Child,
}

impl Server {
    /// Starts the program (or jar) with its data below `directory`, which it shares with no other run.
    pub(crate) async fn start(kind: Kind, program: &Path, directory: &Path) -> Result<Server> {
        let directory = directory.join(kind.name());
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let (address, http) = (free_address()?, free_address()?);
        let log = fs::File::create(directory.join("log"))?;
        let mut command = match kind {
            Kind::Quorate => quorate(program, &directory, address, http),
            Kind::Zookeeper => zookeeper(program, &directory, address)?,
        };
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        let mut server = Server {
            kind,
            address,
            http,
            process,
        };
        server.wait_until_it_serves(&directory.join("log")).await?;
        Ok(server)
    }

    async fn wait_until_it_serves(&mut self, log: &PathBuf) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait()? {
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("{} ended with {status}:\n{log}", self.kind.name());
            }
            // ZooKeeper loses a word that comes too early, hence the short timeout.
            let answer = timeout(Duration::from_millis(500), ask(self.address, b"srvr")).await;
            if let Ok(Ok(answer)) = answer
                && answer.contains("Mode:")
            {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
        bail!("{} does not serve; see {}", self.kind.name(), log.display())
    }

    /// Mounts a recipe. Only Quorate knows how.
    pub(crate) async fn mount(&self, path: &str, recipe: &str) -> Result<()> {
        let body = format!("{{\"recipe\":\"{recipe}\"}}");
        let request = format!(
            "PUT /v1/mounts{path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.http,
            body.len()
        );
        let answer = timeout(PATIENCE, ask(self.http, request.as_bytes())).await??;
        if !answer.starts_with("HTTP/1.1 20") {
            bail!("{recipe} could not be mounted at {path}: {answer}");
        }
        Ok(())
    }

    /// What the process has used so far, all threads, user and system.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let process = self.process.id().context("the server has ended")?;
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The program's name, in parentheses, may have spaces; utime and stime are fields 14 and 15.
        let fields = stat.rsplit_once(')').context("no stat")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.process.start_kill()?;
        timeout(PATIENCE, self.process.wait()).await??;
        Ok(())
    }
}

fn quorate(program: &Path, directory: &Path, address: SocketAddr, http: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command
        .arg("serve")
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(["--listen", &address.to_string()])
        .args(["--http", &http.to_string()]);
    command
}

/// As Debian's package configures it, but for its place, and without the bound of 60 connections per client.
/// Transactions are synced, which is the default. No logging library is there, so it logs nothing.
fn zookeeper(jar: &Path, directory: &Path, address: SocketAddr) -> Result<Command> {
    let configuration = directory.join("zoo.cfg");
    fs::write(
        &configuration,
        format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={}\n\
             clientPortAddress={}\nmaxClientCnxns=0\nadmin.enableServer=false\n\
             4lw.commands.whitelist=srvr\n",
            directory.join("data").display(),
            address.port(),
            address.ip(),
        ),
    )?;
    let mut command = Command::new("java");
    command
        .arg("-cp")
        .arg(jar)
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(configuration);
    Ok(command)
}

/// Outside the range of ports that the system gives to clients: a client that tries such a port before
/// the server listens may be connected to itself.
fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..PORTS {
        let port =
            FIRST_PORT + (process::id() as u16).wrapping_add(NEXT.fetch_add(1, Relaxed)) % PORTS;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no port is free")
}

/// Sends `request` and reads until the server closes.
async fn ask(address: SocketAddr, request: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
